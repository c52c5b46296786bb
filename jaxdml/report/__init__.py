"""A report: one HTML file that shows what a model learned, of a run or of any embeddings."""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.report._page import Page, build
  from jaxdml.report._run import of_run, write
  from jaxdml.report._sections import Curve, Setting

__all__ = ["Curve", "Page", "Setting", "build", "of_run", "write"]

# JAX and Bokeh are slow to import.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, _page="Page build", _run="of_run write", _sections="Curve Setting"
)
