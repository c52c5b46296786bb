"""A sheet of pictures and texts by the pixel, drawn headless and without pyplot.

All grids are laid out on one: rows of batches (batches.py), neighbours side by side (gallery.py).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from jaxdml._text import printable

INK, FAINT = "#333333", "#666666"
LINE = 22  # pixels of a line of text
TEXT, HEAD = 9.0, 11.0  # points
_DPI = 100
_FRAME = 3  # pixels
_DIMMED = 0.45  # what is left of a dimmed picture on the white ground
_ELLIPSIS = "…"


class Sheet:
  """White paper that pictures and texts are put on; `figure` is the drawing."""

  def __init__(self):
    self._pictures: list[tuple[int, int, np.ndarray]] = []
    # x, y, lines, font families, size, colour
    self._texts: list[tuple[float, float, list[str], list[str], float, str]] = []

  def picture(
    self, x: int, y: int, image: np.ndarray, frame: str | None = None, dimmed: bool = False
  ) -> None:
    """Puts a picture, uint8 RGB [h, w, 3], with its upper left corner at (x, y) in pixels.

    `frame` colours its outermost pixels; `dimmed` is for who cannot tell frames' colours apart.
    """
    if dimmed:
      image = np.uint8(np.round(_DIMMED * image.astype(np.float32) + (1 - _DIMMED) * 255))
    if frame:
      inner, f = image[_FRAME:-_FRAME, _FRAME:-_FRAME], _FRAME
      colour = [int(frame[i : i + 2], 16) for i in (1, 3, 5)]
      image = cv2.copyMakeBorder(inner, f, f, f, f, cv2.BORDER_CONSTANT, value=colour)
    self._pictures.append((x, y, image))

  def text(
    self, x: float, y: float, text: str, room: float, *, lines: int = 1, size: float = TEXT,
    colour: str = INK,
  ) -> None:  # fmt: skip
    """Puts text whose middle left is at (x, y), broken and cut to `lines` of `room` pixels."""
    shown, families = drawable(text)
    fitted = fit(shown, room, lines, measure(families, size))
    self._texts.append((x, y, fitted, families, size, colour))

  def lines(
    self, x: float, y: float, lines: Sequence[str], *, size: float = TEXT, colour: str = INK
  ) -> None:
    """Puts lines as `fit_name` returned them, the middle of all at y."""
    families = drawable("".join(lines))[1]
    self._texts.append((x, y, list(lines), families, size, colour))

  def paragraph(self, x: float, y: int, text: str, room: float, *, size: float = TEXT) -> int:
    """Puts up to three lines of text under y; returns where the next thing may begin."""
    if not text:
      return y
    shown, families = drawable(text)
    lines = len(fit(shown, room, 3, measure(families, size))) or 1
    self.text(x, y + lines * LINE / 2, text, room, lines=lines, size=size)
    return y + lines * LINE

  def figure(self, width: int, height: int) -> Figure:
    """Draws what is on the paper, as large as that; save it with `figure.savefig(path)`."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    for x, y, image in self._pictures:
      canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    # A notebook shows no figure without axes, and moves a figimage as it cuts the margins.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    for x, y, fitted, families, size, colour in self._texts:
      figure.text(
        x / width, 1 - y / height, "\n".join(fitted), color=colour,
        fontproperties=FontProperties(family=families, size=size), va="center", linespacing=1.1,
        parse_math=False,
      )  # fmt: skip
    return figure


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """A picture uint8 [h, w, 1 or 3] as RGB [height, width, 3]; enlarged without smoothing."""
  mode = cv2.INTER_NEAREST if height >= image.shape[0] else cv2.INTER_AREA
  image = cv2.resize(image, (width, height), interpolation=mode).reshape(height, width, -1)
  return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image


def boxed(image: np.ndarray | None, side: int, margin: int = 5) -> np.ndarray:
  """A picture in the middle of a white square [side, side, 3]; a pale square if there is none."""
  square = np.full((side, side, 3), 255, np.uint8)
  room = side - 2 * margin
  if image is None:
    square[margin:-margin, margin:-margin] = 244
    return square
  height, width = (max(round(room * size / max(image.shape[:2])), 1) for size in image.shape[:2])
  top, left = (side - height) // 2, (side - width) // 2
  square[top : top + height, left : left + width] = scaled(image, height, width)
  return square


@functools.cache
def _renderer() -> RendererAgg:
  canvas: Any = FigureCanvasAgg(Figure(dpi=_DPI))
  return canvas.get_renderer()


def measure(families: Sequence[str], size: float) -> Callable[[str], float]:
  """Returns the function from a text to its width in pixels."""
  font = FontProperties(family=list(families), size=size)
  return lambda text: _renderer().get_text_width_height_descent(text, font, False)[0]


@functools.cache
def _drawn(path: str) -> frozenset[int]:
  """Code points that a font file can draw."""
  return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def _family(char: str) -> str | None:
  """The first installed font family that can draw a character, DejaVu Sans if it can."""
  if ord(char) in _drawn(font_manager.findfont("DejaVu Sans")):
    return "DejaVu Sans"
  for entry in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)):
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
  shown = printable(text, _family)
  return shown, list(dict.fromkeys(["DejaVu Sans", *filter(None, map(_family, shown))]))


def fit(text: str, room: float, lines: int, measure: Callable[[str], float]) -> list[str]:
  """Breaks a text between words into lines of at most `room` pixels, the last one cut short.

  >>> fit("a bb cccc dd", 4, 2, len)
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
    rest = rest[: _most(len(rest), lambda count: measure(rest[:count] + _ELLIPSIS) <= room)]
    rest += _ELLIPSIS
  return [*fitted, rest] if rest else fitted


def fit_name(name: str, room: float, lines: int, size: float) -> list[str]:
  """Breaks a name into lines of at most `room` pixels; what is too long loses its middle.

  Both ends of a file's name tell it from others. Lines end after a space or a sign between words if
  they can.
  """
  shown, families = drawable(name)
  return _fit_name(shown, room, lines, measure(families, size))


def _fit_name(name: str, room: float, lines: int, measure: Callable[[str], float]) -> list[str]:
  """Returns `fit_name` of a drawable name.

  >>> _fit_name("IMG_2024_DejaVuSans_0001.jpg", 10, 2, len)
  ['IMG_2024_', 'De…001.jpg']
  >>> _fit_name("small letter o", 8, 2, len), _fit_name("abcdefghij", 6, 2, len)
  (['small', 'letter o'], ['abcdef', 'ghij'])
  """
  fitted: list[str] = []
  while name and len(fitted) < lines - 1:
    fits = lambda count, name=name: measure(name[:count].rstrip()) <= room
    end = max(_most(len(name), fits), 1)
    if end < len(name):
      breaks = [i + 1 for i in range(end // 3, end) if name[i] in " _-./"]
      end = breaks[-1] if breaks else end
    fitted.append(name[:end].rstrip())
    name = name[end:]
  # More of the end, where numbers and varieties stand.
  cut = lambda count: name[: count // 4] + _ELLIPSIS + name[len(name) - count + count // 4 :]
  if name and measure(name) > room:
    name = cut(_most(len(name), lambda count: measure(cut(count)) <= room))
  return [*fitted, name] if name else fitted


def _most(high: int, fits: Callable[[int], bool]) -> int:
  """The largest of 0..high that fits, where all smaller ones do; 0 if none does."""
  low = 0
  while low < high:
    middle = (low + high + 1) // 2
    low, high = (middle, high) if fits(middle) else (low, middle - 1)
  return low
