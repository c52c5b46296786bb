"""Builder of the data set `glyphs`: 1,700 letters of six scripts, drawn by 16 fonts, 32x32 gray."""

import collections
import functools
import itertools
import os
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import tensorflow_datasets as tfds
from matplotlib import ft2font
from PIL import Image, ImageDraw, ImageFont
from scipy import sparse
from scipy.sparse import csgraph
from tqdm import tqdm

from jaxdml.data.bundled import SIZE, BundledBuilder, encode_png

EM = 22  # Font size in pixels: capitals come out about 16 pixels high.
BASELINE = 23  # Its row is the same for every letter, so that case and descenders are kept.
MIN_FONTS = 8  # A letter is in the data set if at least this many fonts draw it.
# cm* and STIXNonUni*/STIXSiz* map their glyphs to arbitrary code points; LastResort draws a box
# that names the block for every code point there is.
_NOT_UNICODE = ("cm", "STIXNonUni", "STIXSiz", "LastResort")
_MARGIN = 1
_PRIVATE_USE = range(0xE000, 0xF900)
_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC", "LAO")
_SPLIT_SEED = 2019

_DESCRIPTION = """\
Letters (Unicode categories L*) that at least 8 of the TrueType fonts bundled with matplotlib draw,
rendered to 32x32 grayscale, bright on dark, on a common em and baseline so that the size of
capital and small letters is kept; drawings that do not fit are shrunk. Letters whose drawings are
the same in at least half of the fonts that draw both (A in Latin, Greek and Cyrillic) are one
class, named by its smallest code point. Train and test have no class in common, half of the
classes each.
"""


class Glyphs(BundledBuilder):
  """Letters drawn by matplotlib's bundled fonts; class-disjoint train and test.

  `label` is the class, in the order of the classes' smallest code points; `base_letter` that code
  point without case and marks, `script` its script: coarser labels. `font` drew the image of
  `codepoint`, within a class and font the smallest that looks so.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    # The names are known once the letters are drawn; TFDS stores them with the data.
    columns = ("label", "base_letter", "script", "font")
    features = {
      **{column: tfds.features.ClassLabel() for column in columns},
      "codepoint": tfds.features.Scalar(dtype=np.int64),
    }
    licence = "Bitstream Vera, Arev and STIX font licences; drawings made on this machine."
    about = {"description": _DESCRIPTION, "homepage": "https://matplotlib.org/"}
    return self._described(features, **about, license=licence)

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    """Draws everything once and divides the classes."""
    del dl_manager
    drawings = draw_letters()
    merged = merge_homoglyphs(drawings)
    classes = sorted(set(merged.values()))
    bases, scripts = [base_letter(c) for c in classes], [script(c) for c in classes]
    names = {
      "label": [f"U+{c:04X} {unicodedata.name(chr(c), 'UNNAMED')}" for c in classes],
      "base_letter": sorted(set(bases)),
      "script": sorted(set(scripts)),
      "font": sorted({d.font for d in drawings}),
    }
    for column, values in names.items():
      self.info.features[column].names = values
    kept: dict[tuple[int, str, bytes], int] = {}
    for d in sorted(drawings):
      kept.setdefault((merged[d.codepoint], d.font, d.pixels), d.codepoint)
    place = {code: i for i, code in enumerate(classes)}
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(classes))
    train = set(order[: (len(classes) + 1) // 2].tolist())
    examples: dict[str, list[tuple[str, dict[str, Any]]]] = {"train": [], "test": []}
    for (code, font, pixels), codepoint in kept.items():
      label = place[code]
      values = {
        "image": encode_png(np.frombuffer(pixels, np.uint8).reshape(SIZE, SIZE)),
        "label": label,
        "base_letter": bases[label],
        "script": scripts[label],
        "font": font,
        "codepoint": codepoint,
      }
      examples["train" if label in train else "test"].append((f"{codepoint:06x}-{font}", values))
    return {split: self._generate_examples(found, split) for split, found in examples.items()}


class Drawing(NamedTuple):
  """One letter in one font: where it comes from, and its pixels (SIZE x SIZE bytes)."""

  codepoint: int
  font: str
  pixels: bytes


def font_files() -> dict[str, str]:
  """Returns name -> path of the bundled fonts that encode Unicode, sorted by name."""
  directory = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
  files = sorted(f for f in os.listdir(directory) if f.endswith(".ttf"))
  return {f[:-4]: os.path.join(directory, f) for f in files if not f.startswith(_NOT_UNICODE)}


class Pen:
  """Draws single characters of one font file, bright on dark, on a common em and baseline."""

  def __init__(self, path: str):
    # The basic layout draws the character asked for: no ligatures, no system libraries.
    options = {"layout_engine": ImageFont.Layout.BASIC}
    self._font = functools.cache(functools.partial(ImageFont.truetype, path, **options))
    charmap = ft2font.FT2Font(path).get_charmap()
    # Glyph 0 is the missing-glyph box by the TrueType specification.
    self.codepoints = sorted(code for code, glyph in charmap.items() if int(glyph) != 0)
    unmapped = next(code for code in _PRIVATE_USE if not int(charmap.get(code, 0)))
    self._notdef = self._draw(chr(unmapped))

  def _draw(self, char: str) -> np.ndarray | None:
    size = float(EM)
    while True:
      font = self._font(size)
      left, top, right, bottom = font.getbbox(char, anchor="ls")
      width = right - left
      if width <= 0 or bottom <= top:
        return None
      above, below = BASELINE - _MARGIN, SIZE - BASELINE - _MARGIN
      room = (SIZE - 2 * _MARGIN) / width, above / max(-top, 1), below / max(bottom, 1)
      if min(room) >= 1 or size <= 1:
        break
      # Hinting makes widths step, so shrink by a quarter of a pixel at least.
      size = max(min(np.floor(size * min(room) * 4) / 4, size - 0.25), 1.0)
    image = Image.new("L", (SIZE, SIZE))
    origin = (round((SIZE - width) / 2) - left, BASELINE)
    ImageDraw.Draw(image).text(origin, char, fill=255, font=font, anchor="ls")
    return np.asarray(image)

  def draw(self, char: str) -> np.ndarray | None:
    """Returns uint8 [SIZE, SIZE], or None if the font leaves it blank or draws its missing box."""
    pixels = self._draw(char)
    blank = pixels is None or not pixels.any()
    return None if blank or np.array_equal(pixels, self._notdef) else pixels


def draw_letters() -> list[Drawing]:
  """Draws every letter that enough of the fonts draw, by font and then by code point."""
  pens = {name: Pen(path) for name, path in font_files().items()}
  letters = lambda pen: (c for c in pen.codepoints if unicodedata.category(chr(c))[0] == "L")
  todo = [(name, code) for name, pen in pens.items() for code in letters(pen)]
  # Fonts that claim a letter bound those that draw it: no need to draw the rare ones.
  claims = collections.Counter(code for _, code in todo)
  todo = [(name, code) for name, code in todo if claims[code] >= MIN_FONTS]
  drawings = []
  for name, code in tqdm(todo, desc="glyphs: drawing", unit=" letters", mininterval=0.5):
    pixels = pens[name].draw(chr(code))
    if pixels is not None:
      drawings.append(Drawing(code, name, pixels.tobytes()))
  counts = collections.Counter(d.codepoint for d in drawings)
  return [d for d in drawings if counts[d.codepoint] >= MIN_FONTS]


def merge_homoglyphs(drawings: Collection[Drawing]) -> dict[int, int]:
  """Maps each code point to the smallest code point that it looks the same as.

  Two letters are one class if their drawings are equal, pixel by pixel, in at least half of the
  fonts that draw both; classes are the connected components.

  >>> same = [Drawing(c, f, b"A") for c in (0x41, 0x391) for f in ("serif", "sans")]
  >>> merge_homoglyphs([*same, Drawing(0x42, "sans", b"B")])
  {65: 65, 913: 65, 66: 66}
  """
  fonts_of = collections.defaultdict(set)
  looks = collections.defaultdict(set)
  for d in drawings:
    fonts_of[d.codepoint].add(d.font)
    looks[d.font, d.pixels].add(d.codepoint)
  equal = collections.Counter(
    pair for codes in looks.values() for pair in itertools.combinations(sorted(codes), 2)
  )
  codes = sorted(fonts_of)
  place = {code: i for i, code in enumerate(codes)}
  joined = sparse.lil_array((len(codes), len(codes)), dtype=bool)
  for (a, b), count in equal.items():
    if 2 * count >= len(fonts_of[a] & fonts_of[b]):
      joined[place[a], place[b]] = True
  _, component = csgraph.connected_components(joined, directed=False)
  smallest = np.unique(component, return_index=True)[1]
  return {code: codes[smallest[component[place[code]]]] for code in fonts_of}


def base_letter(codepoint: int) -> str:
  """Returns the letter without case, compatibility form or marks.

  >>> base_letter(ord("Å")), base_letter(ord("ª")), base_letter(ord("Ǆ"))
  ('a', 'a', 'dz')
  """
  decomposed = unicodedata.normalize("NFKD", chr(codepoint).casefold()).casefold()
  kept = "".join(c for c in decomposed if unicodedata.category(c).startswith("L"))
  return kept or chr(codepoint)


def script(codepoint: int) -> str:
  """Returns the script's Unicode name, or COMMON for letters that belong to none.

  >>> script(ord("Ж")), script(ord("ª")), script(0x2BC)
  ('CYRILLIC', 'LATIN', 'COMMON')
  """
  for char in (chr(codepoint), *unicodedata.normalize("NFKD", chr(codepoint))):
    first = unicodedata.name(char, "").split(" ")[0]
    if first in _SCRIPTS:
      return first
  return "COMMON"
