"""References of anchors: the batch in a layout, on one device or all, and past batches."""

from jaxdml.refs import memory
from jaxdml.refs.layouts import LAYOUTS, Layout, create, gather, gather_ids

__all__ = ["LAYOUTS", "Layout", "create", "gather", "gather_ids", "memory"]


def __dir__() -> list[str]:
  return __all__
