"""Pictures of batches and of neighbours: matplotlib figures, made without pyplot."""

from jaxdml.drawing.batches import Row as Row
from jaxdml.drawing.batches import draw_batches as draw_batches
from jaxdml.drawing.gallery import Cell as Cell
from jaxdml.drawing.gallery import draw_gallery as draw_gallery
from jaxdml.drawing.gallery import draw_neighbours as draw_neighbours
from jaxdml.drawing.gallery import gallery_of_run as gallery_of_run
from jaxdml.drawing.queries import draw_queries as draw_queries
from jaxdml.drawing.queries import fit_queries as fit_queries

__all__ = [
  "Cell",
  "Row",
  "draw_batches",
  "draw_gallery",
  "draw_neighbours",
  "draw_queries",
  "fit_queries",
  "gallery_of_run",
]


def __dir__() -> list[str]:
  return __all__
