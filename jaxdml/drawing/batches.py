"""Batches as the network receives them: images in rows, a row a class."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxdml.drawing import _sheet

_SMALL, _LARGE = 48, 112  # pixels a side: smaller images are enlarged, larger ones reduced
_WRAP = 16  # images on a line; more of one row go on below
_NAME = 150  # pixels for a row's name, at most
_GAP = 4
_MARK = "#e34234"


class Row(NamedTuple):
  """One line of the picture."""

  name: str  # at its left end
  images: np.ndarray  # uint8 [k, h, w, c], c = 1 or 3 (RGB)
  marked: np.ndarray  # bool [k], drawn with a red frame


def draw_batches(blocks: Mapping[str, Sequence[Row]], title: str, note: str = "") -> Figure:
  """Draws blocks of rows under their headings; save it with `figure.savefig(path)`.

  Rows stand in as many columns as make the picture about as wide as it is high. Names are never
  read as markup; they are broken between words, as title and note are, what no installed font can
  draw appears as its code point, and what is too long is cut short.

  Args:
    blocks: heading -> rows; all images of one size.
    title, note: over and under the picture, if not empty.

  Raises:
    ValueError: no images, or images that are not uint8 [k, h, w, 1 or 3] of one size.
  """
  rows = [row for block in blocks.values() for row in block]
  _check(rows)
  cell = _cell(rows[0].images.shape[1])
  across = min(max(len(row.images) for row in rows), _WRAP)
  lines = lambda row: -(-len(row.images) // across)
  name_width = _name_width(rows)
  name_lines = max(int(cell / (_sheet.TEXT * 1.8)), 1)
  width = name_width + across * (cell + _GAP) + 4 * _GAP
  heights = [sum(lines(row) for row in block) * (cell + _GAP) for block in blocks.values()]
  # As many columns as make the picture about square, and none of them empty.
  best = round((sum(heights) / width) ** 0.5)
  columns = min(max(best, 1), max(map(len, blocks.values())))

  sheet, room = _sheet.Sheet(), columns * width - _GAP
  y = sheet.paragraph(_GAP, _sheet.LINE // 2, title, room, size=_sheet.HEAD) + _sheet.LINE // 2
  for heading, block in blocks.items():
    sheet.text(_GAP, y + _sheet.LINE / 2, heading, room)
    y += _sheet.LINE
    parts = _share_out(block, lines, columns)
    for column, part in enumerate(parts):
      top, left = y, column * width + _GAP
      for row in part:
        sheet.text(left, top + cell / 2, row.name, name_width - 2 * _GAP, lines=name_lines)
        for k, (image, marked) in enumerate(zip(row.images, row.marked, strict=True)):
          x = left + name_width + k % across * (cell + _GAP)
          image = _sheet.scaled(image, cell, cell)
          sheet.picture(x, top + k // across * (cell + _GAP), image, _MARK if marked else None)
        top += lines(row) * (cell + _GAP)
    y += max(sum(map(lines, part)) for part in parts) * (cell + _GAP) + _sheet.LINE // 2
  return sheet.figure(columns * width + _GAP, sheet.paragraph(_GAP, y, note, room))


def _name_width(rows: Sequence[Row]) -> int:
  """Pixels for the names: as the longest takes, at most `_NAME`, where they are broken and cut."""
  longest = 0.0
  for row in rows:
    shown, families = _sheet.drawable(row.name[:_NAME])  # More characters than pixels.
    longest = max(longest, _sheet.measure(families, _sheet.TEXT)(shown))
  return min(math.ceil(longest) + 3 * _GAP, _NAME)


def _check(rows: Sequence[Row]) -> None:
  if not rows:
    raise ValueError("blocks: expected at least one row, got none")
  shape = rows[0].images.shape[1:]
  for row in rows:
    images = row.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
      raise ValueError(
        f"row {row.name!r}: expected uint8 [k, h, w, 1 or 3], got {images.dtype} {images.shape}"
      )
    if not len(images) or images.shape[1:] != shape or len(row.marked) != len(images):
      raise ValueError(
        f"row {row.name!r}: expected images {shape} and a mark for each, got {images.shape[1:]} x "
        f"{len(images)} with {len(row.marked)} marks"
      )


def _cell(side: int) -> int:
  """Pixels a side in the picture; small images are enlarged by a whole factor."""
  return side * -(-_SMALL // side) if side < _SMALL else min(side, _LARGE)


def _share_out(block: Sequence[Row], lines, columns: int) -> list[list[Row]]:
  """Consecutive rows for each column, about equally high."""
  total, done = sum(map(lines, block)), 0
  parts: list[list[Row]] = [[] for _ in range(columns)]
  for row in block:
    parts[min(done * columns // total, columns - 1)].append(row)
    done += lines(row)
  return parts
