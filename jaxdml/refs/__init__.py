"""References of anchors: the batch in a layout, on one device or all, and past batches."""

from jaxdml.refs import memory
from jaxdml.refs.gather import gather, gather_ids
from jaxdml.refs.layouts import LAYOUTS, Layout, create

__all__ = ["LAYOUTS", "Layout", "create", "gather", "gather_ids", "memory"]


def __dir__() -> list[str]:
  return __all__
