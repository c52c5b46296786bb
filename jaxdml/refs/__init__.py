"""What anchors are compared with: the batch in a layout, on one device or all, and past batches."""

from jaxdml.refs import memory as memory
from jaxdml.refs.gather import gather as gather
from jaxdml.refs.gather import gather_ids as gather_ids
from jaxdml.refs.layouts import LAYOUTS as LAYOUTS
from jaxdml.refs.layouts import Layout as Layout
from jaxdml.refs.layouts import create as create

__all__ = ["LAYOUTS", "Layout", "create", "gather", "gather_ids", "memory"]
