"""Where references come from besides the batch itself: all devices."""

from jaxdml.refs.gather import gather as gather
from jaxdml.refs.gather import gather_ids as gather_ids

__all__ = ["gather", "gather_ids"]
