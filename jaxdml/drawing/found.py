"""Results as a picture: a line a query, headless and without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from jaxdml.drawing import batch as picture
from jaxdml.search.results import Result, thumbnail

__all__ = ["draw"]

_INK, _FAINT, _OWN, _EMPTY = "#333333", "#666666", "#1f5fa8", "#f4f4f4"
_CELL = 1.1  # inches
_HEIGHT = 1.42  # of a line, in cells: an image, and two lines of text under it
_SIDE = 224  # pixels of an image, at most
_GAP, _TOP, _BOTTOM = 0.35, 0.62, 0.06  # cells


def draw(results: Sequence[Result], *, title: str, note: str = "") -> Figure:
  """Draws each query and what was found for it, with similarity, label and file name.

  What is the query itself has a blue frame. Names are never read as markup; save the figure with
  `figure.savefig(path)`.

  Args:
    results: at least one.
    title: over the picture.
    note: under the title.

  Raises:
    ValueError: no results.
  """
  if not results:
    raise ValueError("results: expected at least one, got none")
  across = max([3, *(len(result.hits) for result in results)])
  width, height = 1 + _GAP + across + 0.1, _TOP + len(results) * _HEIGHT + _BOTTOM
  figure = Figure(figsize=(width * _CELL, height * _CELL), dpi=120, facecolor="white")
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(-0.05, width - 0.05), ylim=(height - _TOP, -_TOP), autoscale_on=False)
  axes.set_axis_off()
  _write(axes, 0.05, -0.36, title, 11, width - 0.2, _INK)
  _write(axes, 0.05, -0.12, note, 7.5, width - 0.2, _FAINT)
  for line, (query, hits) in enumerate(results):
    y = line * _HEIGHT
    _cell(axes, 0, y, query.image, _INK, ["query", query.path.rpartition("/")[2]])
    for hit in hits:
      label = "no label" if hit.label is None else hit.label
      name = "the query itself" if hit.itself else hit.path.rpartition("/")[2]
      texts = [label, f"{hit.similarity:.3f}  {name}"]
      colour = _OWN if hit.itself else None
      _cell(axes, _GAP + hit.rank, y, hit.image, colour, texts)
  return figure


def _cell(
  axes: Axes, x: float, y: float, encoded: bytes | None, colour: str | None, texts: Sequence[str]
) -> None:
  """One image in the square whose upper left corner is (x, y), with text under it."""
  image, low, size = thumbnail(encoded, _SIDE), 0.06, 0.88
  if image is None:
    axes.add_patch(Rectangle((x + low, y + low), size, size, color=_EMPTY))
    _write(axes, x + 0.15, y + 0.5, "image not there", 6.5, 0.75, _FAINT)
  else:
    high, wide = np.array(image.shape[:2]) / max(image.shape[:2]) * size
    left, top = x + low + (size - wide) / 2, y + low + (size - high) / 2
    extent = (left, left + wide, top + high, top)
    axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest")
  if colour:
    frame = Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, fill=False, edgecolor=colour, linewidth=1.8)
    axes.add_patch(frame)
  for number, text in enumerate(texts):
    ink = _FAINT if number else _INK
    _write(axes, x + low, y + 1.13 + 0.16 * number, text, 7, size + 0.05, ink)


def _write(
  axes: Axes, x: float, y: float, text: str, size: float, room: float, colour: str
) -> None:
  """Text on its baseline at (x, y), cut short to fit into `room` cells."""
  shown, families = picture.drawable(text)
  font = FontProperties(family=families, size=size)
  renderer: Any = axes.figure.canvas.get_renderer()
  scale = axes.figure.dpi * _CELL
  measure = lambda t: renderer.get_text_width_height_descent(t, font, False)[0] / scale
  if measure(shown) > room:
    keep = len(shown)
    while keep and measure(shown[:keep] + "…") > room:
      keep -= 1
    shown = shown[:keep] + "…"
  axes.text(x, y, shown, fontproperties=font, parse_math=False, color=colour)
