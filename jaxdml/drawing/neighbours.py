"""Queries with their neighbours: a line a query, groups of pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxdml.drawing import _sheet

__all__ = ["Cell", "draw_neighbours"]

_EDGE = 6  # pixels around the whole
_CAPTION = 15  # pixels of a line under a picture


class Cell(NamedTuple):
  """One picture of a line.

  Attributes:
    image: uint8 [h, w], [h, w, 1] or RGB [h, w, 3]; None where it is gone.
    frame: the colour of its frame, "#rrggbb"; None for none.
    dimmed: half faded.
    captions: lines under it.
  """

  image: np.ndarray | None
  frame: str | None = None
  dimmed: bool = False
  captions: tuple[str, ...] = ()


def draw_neighbours(
  lines: Sequence[Sequence[Sequence[Cell]]],
  *,
  title: str = "",
  note: str = "",
  headings: Sequence[Sequence[str]] = (),
  side: int = 132,
) -> Figure:
  """Draws lines of groups of pictures; save it with `figure.savefig(path)`.

  Texts are never read as markup, and cut short where there is no room.

  Args:
    lines: for each query its groups, the query itself first.
    title: over the picture, if not empty.
    note: under it, if not empty.
    headings: for each group up to two lines over it.
    side: of a picture, in pixels.

  Raises:
    ValueError: no lines.
  """
  if not lines:
    raise ValueError("lines: expected at least one, got none")
  widths = [max(len(line[g]) for line in lines) * side for g in range(len(lines[0]))]
  gap = side // 3 if not headings else side * 4 // 5
  lefts = [_EDGE + sum(widths[:g]) + g * gap for g in range(len(widths))]
  width = max(lefts[-1] + widths[-1] + _EDGE, 4 * 132)
  sheet, room = _sheet.Sheet(), width - 2 * _EDGE
  y = sheet.paragraph(_EDGE, _EDGE, title, room, size=_sheet.HEAD) + _EDGE
  if headings:
    for left, group, texts in zip(lefts, widths, headings, strict=True):
      for n, text in enumerate(texts):
        place = y + (2 - len(texts) + n + 0.5) * _sheet.LINE
        sheet.text(left, place, text, group + gap - _EDGE, size=_sheet.TEXT if n else 10.0)
    y += 2 * _sheet.LINE
  for line in lines:
    captions = max(len(cell.captions) for group in line for cell in group)
    for left, group in zip(lefts, line, strict=True):
      for place, cell in enumerate(group):
        _draw(sheet, left + place * side, y, side, cell)
    y += side + captions * _CAPTION + (_EDGE if captions else 0)
  return sheet.figure(width, sheet.paragraph(_EDGE, y, note, room) + _EDGE)


def _draw(sheet: _sheet.Sheet, x: int, y: int, side: int, cell: Cell) -> None:
  image = cell.image
  if image is not None and image.ndim == 2:
    image = image[:, :, None]
  sheet.picture(x + 2, y + 2, _sheet.boxed(image, side - 4), cell.frame, cell.dimmed)
  if image is None:
    text = "image not there"
    sheet.text(x + 8, y + side / 2, text, side - 16, lines=2, size=6.5, colour=_sheet.FAINT)
  for n, text in enumerate(cell.captions):
    colour = _sheet.FAINT if n else _sheet.INK
    place = y + side + (n + 0.5) * _CAPTION
    sheet.text(x + 5, place, text, side - 8, size=7.0, colour=colour)
