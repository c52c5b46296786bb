"""Queries with their nearest neighbours as HTML, and the small pictures that a page holds."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdml.drawing import queries as queries_lib
from jaxdml.drawing.gallery import as_pictures
from jaxdml.evaluation import Neighbours
from jaxdml.report import _analysis
from jaxdml.report._sections import data_uri, text

_CHUNK = 256  # images in memory at a time
_PER_SHEET = 512
_COLUMNS = 32
# Side in pixels and WebP quality, the first that stays within the bytes allowed.
_STEPS = ((96, 80), (64, 75), (48, 70), (32, 60), (24, 40))
_SHEET_STEPS = _STEPS[1:]
_SHEET_BYTES, _SINGLE_BYTES = 5_000_000, 3_500_000


class Ranked(NamedTuple):
  """Neighbours of queries: places among the candidates, both rows of the labels."""

  queries: np.ndarray  # [q]
  candidates: np.ndarray  # [m], the same object if the queries are ranked among themselves
  found: Neighbours  # [q, k]


class Line(NamedTuple):
  """One line: the image asked about, those found, and what is said over them."""

  row: int
  found: list[int]
  note: str
  # So many of the first could be right: what is wrong beyond them is no mistake.
  possible: int


class Gallery(NamedTuple):
  """Lines under a heading."""

  title: str
  note: str
  lines: list[Line]


def galleries(
  ranked: Ranked, labels: np.ndarray, *, count: int, k: int, seed: int
) -> list[Gallery]:
  """Chooses what to show, `count` lines of `k` neighbours in each gallery."""
  queries, candidates = ranked.queries, ranked.candidates
  indices, similarities = (np.asarray(x)[:, :k] for x in ranked.found)
  k = indices.shape[1]
  found = np.where(indices >= 0, candidates[indices], -1)
  hits = (indices >= 0) & (labels[found] == labels[queries][:, None])
  _, codes = np.unique(labels, return_inverse=True)
  relevant = np.bincount(codes[candidates], minlength=codes.max() + 1)[codes[queries]]
  relevant = relevant - np.isin(queries, candidates)
  scores = queries_lib.average_precision(hits, relevant)
  chosen = queries_lib.rank_queries(labels[queries], scores, similarities, hits, count, seed)

  def lines(places: np.ndarray) -> list[Line]:
    said = lambda p: f"{hits[p].sum()} of {min(k, relevant[p])} right, AP {scores[p]:.2f}"
    return [
      Line(int(queries[p]), [int(row) for row in found[p] if row >= 0], said(p), int(relevant[p]))
      for p in places
    ]

  notes = {
    "random": f"Drawn at random (seed {seed}) among the queries that have something to find.",
    "best": "The highest average precision; of equal ones, those whose right neighbours look least "
    "alike to the model. One a class.",
    "worst": "The lowest average precision; of equal ones, those surest of their mistake. One a "
    "class.",
  }
  shown = [Gallery(f"{kind.title()} queries", notes[kind], lines(chosen[kind])) for kind in chosen]
  hubs = _analysis.find_hubs(indices, similarities, len(candidates), count, k)
  hub_lines = [
    Line(
      int(candidates[row]),
      queries[places].tolist(),
      f"among the {k} nearest of {times} images",
      len(places),
    )
    for row, times, places in zip(hubs.rows, hubs.occurrences, hubs.lists, strict=True)
    if times
  ]
  note = (
    f"Images that are among the {k} nearest of the most others, with some of those. "
    f"{hubs.never:.0%} are in no list; skewness of the counts {hubs.skewness:.1f} (0: no hubs)."
  )
  return [*shown, Gallery("Hubs", note, hub_lines)]


def html(
  shown: list[Gallery], labels: np.ndarray, uris: dict[int, str], call: Callable[[int], str],
  record: Callable[[int], str],
) -> str:  # fmt: skip
  """The galleries as HTML; what has the label of a line's first image is right.

  `uris` has every row that is shown, `call` names a row's label, `record` where it comes from.
  """
  describe = lambda row: f"{call(row)} ({record(row)})"
  parts = []
  for gallery in shown:
    lines = []
    for line in gallery.lines:
      cells = [_cell(uris[line.row], f"query: {describe(line.row)}", "query")]
      for place, row in enumerate(line.found):
        kind = "wrong" if place < line.possible else "beyond"
        kind = "right" if labels[row] == labels[line.row] else kind
        cells.append(_cell(uris[row], f"{kind}: {describe(row)}", kind))
      caption = text(f"{call(line.row)}: {line.note}")
      lines.append(f'<div class="count" title="{caption}">{caption}</div>{"".join(cells)}')
    cells = max((1 + len(line.found) for line in gallery.lines), default=1)
    body = "".join(f'<div class="line" style="--cells:{cells}">{line}</div>' for line in lines)
    parts.append(
      f'<div class="gallery"><h3>{text(gallery.title)}</h3><p>{text(gallery.note)}</p>'
      f"{body or '<p>None.</p>'}</div>"
    )
  return f'<div class="galleries">{"".join(parts)}</div>'


def _cell(uri: str, description: str, kind: str) -> str:
  mark = {"right": "✓", "wrong": "✗"}.get(kind)
  badge = f'<i aria-hidden="true">{mark}</i>' if mark else ""
  said = text(description)
  return f'<div class="cell {kind}"><img src="{uri}" alt="{said}" title="{said}">{badge}</div>'


class Pictures:
  """Images by row, from an array of n of them or from a function that reads them: see `build`."""

  def __init__(self, images: Any | Callable[[np.ndarray], Any], n: int):
    if callable(images):
      self._read = images
      return
    array = as_pictures(images)
    if len(array) != n:
      raise ValueError(f"images: expected one a row of embeddings, {n}; got {len(array)}")
    self._read = lambda rows: array[rows]

  def load(self, rows: np.ndarray, side: int) -> list[Image.Image]:
    """The images of the rows, shrunk to fit a square of `side` pixels, never enlarged."""
    loaded = []
    for start in range(0, len(rows), _CHUNK):
      for image in as_pictures(self._read(rows[start : start + _CHUNK])):
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        loaded.append(picture)
    return loaded


def _encode(picture: Image.Image, quality: int) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, "WEBP", quality=quality)
  return buffer.getvalue()


def _smaller(pictures: Sequence[Image.Image], side: int) -> list[Image.Image]:
  shrunk = [picture.copy() for picture in pictures]
  for picture in shrunk:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  return shrunk


def singles(pictures: Pictures, rows: np.ndarray) -> dict[int, str]:
  """Data URIs of distinct rows' images, smaller ones if they would take too many bytes."""
  loaded = pictures.load(rows, _STEPS[0][0])
  for side, quality in _STEPS:
    encoded = [_encode(picture, quality) for picture in _smaller(loaded, side)]
    if sum(map(len, encoded)) <= _SINGLE_BYTES:
      break
  uris = (data_uri(content, "image/webp") for content in encoded)
  return dict(zip(rows.tolist(), uris, strict=True))


class Sheets(NamedTuple):
  """Sprite sheets: image i is on sheet i // per_sheet, cells row by row from the upper left."""

  uris: list[str]
  side: int  # of a cell, in pixels
  columns: int  # cells in a row
  per_sheet: int


def sheets(pictures: Pictures, rows: np.ndarray) -> Sheets:
  """Lays the rows' images out on sheets, smaller ones if they would take too many bytes."""
  loaded = pictures.load(rows, _SHEET_STEPS[0][0])
  side = max(max(picture.size) for picture in loaded)
  for limit, quality in _SHEET_STEPS:
    side = min(side, limit)
    encoded = [
      _encode(_sheet(_smaller(loaded[start : start + _PER_SHEET], side), side), quality)
      for start in range(0, len(loaded), _PER_SHEET)
    ]
    if sum(map(len, encoded)) <= _SHEET_BYTES:
      break
  uris = [data_uri(content, "image/webp") for content in encoded]
  return Sheets(uris, side, _COLUMNS, _PER_SHEET)


def _sheet(pictures: Sequence[Image.Image], side: int) -> Image.Image:
  lines = -(-len(pictures) // _COLUMNS)
  mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
  sheet = Image.new(mode, (_COLUMNS * side, lines * side), "white")
  for place, picture in enumerate(pictures):
    line, column = divmod(place, _COLUMNS)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    sheet.paste(picture, (column * side + left, line * side + top))
  return sheet
