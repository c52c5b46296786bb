"""Draws images in rows, a row a class, with names in any script; headless, without pyplot."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from jaxdml import _text

__all__ = ["SUFFIXES", "Row", "check_suffix", "draw", "drawable"]

SUFFIXES = (".png", ".pdf", ".svg")
"""Kinds of pictures that commands write."""

_SMALL, _LARGE = 48, 112  # pixels a side: smaller images are enlarged, larger ones reduced
_WRAP = 16  # images on a line; more of one row go on below
_NAME = 150  # pixels for a row's name, at most
_TITLE_LINES = 3
_GAP, _LINE = 4, 22
_TEXT, _HEAD = 9.0, 11.0  # points
_DPI = 100
_INK, _FRAME = "#333333", np.array([227, 66, 52], np.uint8)
_ELLIPSIS = "…"


def check_suffix(name: str, path: str | os.PathLike[str]) -> None:
  """Refuses another kind of picture than `SUFFIXES`, before any work for it.

  Args:
    name: of the argument, for the message.
    path: of the picture.

  Raises:
    ValueError: it ends in something else.
  """
  if not os.fspath(path).lower().endswith(SUFFIXES):
    raise ValueError(f"{name}: expected a name that ends in .png, .pdf or .svg; got {path}")


class Row(NamedTuple):
  """One line of the picture.

  Attributes:
    name: at its left end.
    images: uint8 [k, h, w, c], c = 1 or 3 (RGB).
    marked: bool [k], drawn with a red frame.
  """

  name: str
  images: np.ndarray
  marked: np.ndarray


class _Text(NamedTuple):
  """Text whose middle left is at (x, y) pixels from the upper left, in at most `room` pixels."""

  x: float
  y: float
  text: str
  room: float
  lines: int = 1
  size: float = _TEXT


def draw(blocks: Mapping[str, Sequence[Row]], title: str, note: str = "") -> Figure:
  """Draws blocks of rows under their headings; save it with `figure.savefig(path)`.

  Rows stand in as many columns as make the picture about as wide as it is high. Names are never
  read as markup; they are broken between words, as title and note are, what no installed font can
  draw appears as its code point, and what is too long is cut short.

  Args:
    blocks: heading -> rows; all images of one size.
    title: over the picture.
    note: under it, if not empty.

  Raises:
    ValueError: no images, or images that are not uint8 [k, h, w, 1 or 3] of one size.
  """
  rows = [row for block in blocks.values() for row in block]
  _check(rows)
  cell = _cell(rows[0].images.shape[1])
  across = min(max(len(row.images) for row in rows), _WRAP)
  lines = lambda row: -(-len(row.images) // across)
  name_width = _name_width(rows)
  width = name_width + across * (cell + _GAP) + 4 * _GAP
  heights = [sum(lines(row) for row in block) * (cell + _GAP) for block in blocks.values()]
  columns = _columns(heights, [len(block) for block in blocks.values()], width)

  texts: list[_Text] = []
  pictures: list[tuple[int, int, np.ndarray]] = []
  room = columns * width - _GAP
  title_lines = _line_count(title, room, _HEAD)
  texts.append(_Text(_GAP, (title_lines + 1) * _LINE / 2, title, room, title_lines, _HEAD))
  y = (title_lines + 1) * _LINE
  for heading, block in blocks.items():
    texts.append(_Text(_GAP, y + _LINE / 2, heading, room))
    y += _LINE
    parts = _share_out(block, lines, columns)
    for column, part in enumerate(parts):
      top = y
      for row in part:
        left = column * width + _GAP
        name_lines = max(int(cell / (_TEXT * 1.3 * _DPI / 72)), 1)
        texts.append(_Text(left, top + cell / 2, row.name, name_width - 2 * _GAP, name_lines))
        for k, (image, marked) in enumerate(zip(row.images, row.marked, strict=True)):
          place = left + name_width + k % across * (cell + _GAP), top + k // across * (cell + _GAP)
          pictures.append((*place, _thumbnail(image, cell, bool(marked))))
        top += lines(row) * (cell + _GAP)
    y += max(sum(map(lines, part)) for part in parts) * (cell + _GAP) + _LINE // 2
  if note:
    note_lines = _line_count(note, room, _TEXT)
    texts.append(_Text(_GAP, y + note_lines * _LINE / 2, note, room, note_lines))
    y += note_lines * _LINE
  return _compose(columns * width + _GAP, y, pictures, texts)


def _name_width(rows: Sequence[Row]) -> int:
  """Pixels for the names: as the longest takes, at most `_NAME`, where they are broken and cut."""
  longest = max(_measure(families, _TEXT)(shown) for shown, families in map(_shown, rows))
  return min(math.ceil(longest) + 3 * _GAP, _NAME)


def _shown(row: Row) -> tuple[str, list[str]]:
  return drawable(row.name[:_NAME])  # More characters than pixels are not measured.


def _line_count(text: str, room: float, size: float) -> int:
  shown, families = drawable(text)
  return len(_fit(shown, room, _TITLE_LINES, _measure(families, size))) or 1


@functools.cache
def _renderer() -> RendererAgg:
  return FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()


def _measure(families: Sequence[str], size: float) -> Callable[[str], float]:
  """Text -> its width in pixels."""
  font = FontProperties(family=list(families), size=size)
  return lambda text: _renderer().get_text_width_height_descent(text, font, False)[0]


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


def _columns(heights: Sequence[int], rows: Sequence[int], width: int) -> int:
  """How many columns make the picture about square, and no column empty."""
  best = round((sum(heights) / width) ** 0.5)
  return min(max(best, 1), max(rows))


def _share_out(block: Sequence[Row], lines, columns: int) -> list[list[Row]]:
  """Consecutive rows for each column, about equally high."""
  total, done = sum(map(lines, block)), 0
  parts: list[list[Row]] = [[] for _ in range(columns)]
  for row in block:
    parts[min(done * columns // total, columns - 1)].append(row)
    done += lines(row)
  return parts


def _thumbnail(image: np.ndarray, cell: int, marked: bool) -> np.ndarray:
  """RGB [cell, cell, 3]."""
  mode = cv2.INTER_NEAREST if cell >= image.shape[0] else cv2.INTER_AREA
  image = cv2.resize(image, (cell, cell), interpolation=mode).reshape(cell, cell, -1)
  image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
  if marked:
    image = cv2.copyMakeBorder(
      image[3:-3, 3:-3], 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=_FRAME.tolist()
    )
  return image


def _compose(
  width: int,
  height: int,
  pictures: Sequence[tuple[int, int, np.ndarray]],
  texts: Sequence[_Text],
) -> Figure:
  canvas = np.full((height, width, 3), 255, np.uint8)
  for x, y, image in pictures:
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
  figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
  FigureCanvasAgg(figure)
  figure.figimage(canvas, resize=False)
  for x, y, text, room, lines, size in texts:
    shown, families = drawable(text)
    fitted = _fit(shown, room, lines, _measure(families, size))
    figure.text(
      x / width, 1 - y / height, "\n".join(fitted), color=_INK,
      fontproperties=FontProperties(family=families, size=size), va="center", linespacing=1.1,
      parse_math=False,
    )  # fmt: skip
  return figure


@functools.cache
def _drawn(path: str) -> frozenset[int]:
  """Code points that a font file can draw."""
  return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def _family(char: str) -> str | None:
  """The first installed font family that can draw a character, DejaVu Sans if it can."""
  if ord(char) in _drawn(font_manager.findfont("DejaVu Sans")):
    return "DejaVu Sans"
  for entry in sorted(
    font_manager.fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)
  ):
    regular = entry.style == "normal" and "LastResort" not in entry.fname
    try:
      if regular and ord(char) in _drawn(entry.fname) and _found(entry.name) == entry.fname:
        return entry.name
    except (OSError, RuntimeError):  # A font file that went or is damaged: another may do.
      continue
  return None


def _found(family: str) -> str:
  return font_manager.findfont(FontProperties(family=family), fallback_to_default=False)


def drawable(text: str) -> tuple[str, list[str]]:
  """Makes a text drawable: (the text, the font families that it takes).

  Line breaks, control characters and what no installed font can draw appear as code points.

  >>> drawable("Čapek\\n")
  ('Čapek[U+000A]', ['DejaVu Sans'])
  """
  shown = _text.printable(text, _family)
  return shown, list(dict.fromkeys(["DejaVu Sans", *map(_family, shown)]))


def _fit(text: str, room: float, lines: int, measure: Callable[[str], float]) -> list[str]:
  """Breaks a text between words into lines of at most `room` pixels, the last one cut short.

  >>> _fit("a bb cccc dd", 4, 2, len)
  ['a bb', 'ccc…']
  """
  words, fitted = text.split(" "), []
  while words and len(fitted) < lines - 1:
    count = len(words)
    while count > 1 and measure(" ".join(words[:count])) > room:
      count -= 1
    if measure(" ".join(words[:count])) > room:
      break  # One word is too long for a line: the rest goes on the last, cut short.
    fitted.append(" ".join(words[:count]))
    words = words[count:]
  rest = " ".join(words)
  if rest and measure(rest) > room:
    low, high = 0, len(rest)  # The longest start that fits together with the ellipsis.
    while low < high:
      middle = (low + high + 1) // 2
      fits = measure(rest[:middle] + _ELLIPSIS) <= room
      low, high = (middle, high) if fits else (low, middle - 1)
    rest = rest[:low] + _ELLIPSIS
  return [*fitted, rest] if rest else fitted
