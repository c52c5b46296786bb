"""Pictures of batches and of neighbours: matplotlib figures, made without pyplot."""

from jaxdml.drawing.batches import Row, draw_batches
from jaxdml.drawing.gallery import Cell, draw_gallery, draw_neighbours, gallery_of_run
from jaxdml.drawing.queries import draw_queries, fit_queries

__all__ = [
  "Cell", "Row", "draw_batches", "draw_gallery", "draw_neighbours", "draw_queries", "fit_queries",
  "gallery_of_run",
]  # fmt: skip
__dir__ = lambda: __all__
