"""Queries with their neighbours: a line a query, groups of pictures side by side."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxdml import evaluation
from jaxdml.drawing import _sheet
from jaxdml.drawing.queries import draw_queries, fit_queries
from jaxdml.evaluation import _checks as checks

RIGHT, WRONG = "#1a9641", "#e34234"
_QUERY = "#333333"
_SIDE = 44  # pixels; eight neighbours under three models make 1,200
_EDGE = 6  # pixels around the whole
_CAPTION, _CAPTION_SIZE = 13, 7.0  # pixels of a line under a picture, and points
_CAPTION_LINES = 2


class Cell(NamedTuple):
  """One picture of a line."""

  image: np.ndarray | None  # uint8 [h, w], [h, w, 1] or RGB [h, w, 3]; None where it is gone
  frame: str | None = None  # its colour, "#rrggbb"; None for none
  dimmed: bool = False  # half faded
  captions: tuple[str, ...] = ()  # names under it, up to two lines each


def draw_neighbours(
  lines: Sequence[Sequence[Sequence[Cell]]], *, title: str = "", note: str = "",
  headings: Sequence[Sequence[str]] = (), side: int = 132,
) -> Figure:  # fmt: skip
  """Draws lines of groups of pictures; save it with `figure.savefig(path)`.

  Texts are never read as markup, and cut short where there is no room, captions in their middle.

  Args:
    lines: for each query its groups, the query itself first.
    title, note: over and under the picture, if not empty.
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
    cells = [(left + place * side, cell) for left, group in zip(lefts, line, strict=True)
             for place, cell in enumerate(group)]  # fmt: skip
    fitted = [
      [_sheet.fit_name(text, side - 8, _CAPTION_LINES, _CAPTION_SIZE) for text in cell.captions]
      for _, cell in cells
    ]
    # Captions of one kind stand side by side, whatever lines each takes.
    heights = [max(map(len, kind)) for kind in itertools.zip_longest(*fitted, fillvalue=())]
    for (x, cell), captions in zip(cells, fitted, strict=True):
      _draw(sheet, x, y, side, cell)
      top = y + side
      for n, (caption, height) in enumerate(zip(captions, heights, strict=False)):
        colour = _sheet.FAINT if n else _sheet.INK
        middle = top + len(caption) * _CAPTION / 2
        sheet.lines(x + 5, middle, caption, size=_CAPTION_SIZE, colour=colour)
        top += height * _CAPTION
    y += side + sum(heights) * _CAPTION + (2 * _EDGE if heights else 0)
  return sheet.figure(width, sheet.paragraph(_EDGE, y, note, room) + _EDGE)


def _draw(sheet: _sheet.Sheet, x: int, y: int, side: int, cell: Cell) -> None:
  image = cell.image
  if image is not None and image.ndim == 2:
    image = image[:, :, None]
  sheet.picture(x + 2, y + 2, _sheet.boxed(image, side - 4), cell.frame, cell.dimmed)
  if image is None:
    text = "image not there"
    sheet.text(x + 8, y + side / 2, text, side - 16, lines=2, size=6.5, colour=_sheet.FAINT)


def draw_gallery(
  images: Any, labels: Any, query_indices: Sequence[int] | np.ndarray, rows: Mapping[str, Any], *,
  title: str = "", note: str = "",
) -> Figure:  # fmt: skip
  """Draws one line a query: the query, then its neighbours under each model, side by side.

  A neighbour's frame is green if it has the query's label, else red, and the image is dimmed; the
  heading of a model counts the green ones. Save it with `figure.savefig(path)`.

  Args:
    images: [n, h, w], [n, h, w, 1] or [n, h, w, 3] (RGB); uint8, or floats, whose range is shown
      from black to white. Only those that are drawn need to be right.
    labels: [n].
    query_indices: [q] of 0..n-1.
    rows: model -> indices of its neighbours, [q, k], the nearest first
      (`evaluation.nearest_neighbours`).
    title, note: over and under the picture, if not empty.

  Raises:
    ValueError: shapes that do not fit together, or indices outside 0..n-1.
  """
  pictures = as_pictures(images)
  labels = checks.as_column("labels", labels, len(pictures), "images")
  queries = _as_rows("query_indices", query_indices, len(pictures))
  if not rows:
    raise ValueError("rows: expected at least one model, got none")
  models = {name: _as_neighbours(name, value, queries, len(pictures)) for name, value in
            rows.items()}  # fmt: skip
  right = {name: labels[found] == labels[queries][:, None] for name, found in models.items()}

  def cells(name: str, line: int) -> list[Cell]:
    return [
      Cell(pictures[index], RIGHT if good else WRONG, not good)
      for index, good in zip(models[name][line], right[name][line], strict=True)
    ]

  lines = [
    [[Cell(pictures[query], _QUERY)], *(cells(name, line) for name in models)]
    for line, query in enumerate(queries)
  ]
  counts = [(name, f"{good.sum()} of {good.size} right") for name, good in right.items()]
  headings = [("query",), *counts]
  return draw_neighbours(lines, title=title, note=note, headings=headings, side=_SIDE)


def as_pictures(images: Any) -> np.ndarray:
  """Images as uint8 [n, h, w] or [n, h, w, 3]; the range of floats from black to white."""
  array = np.asarray(images)
  if array.ndim == 4 and array.shape[-1] == 1:
    array = array[..., 0]
  if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or not array.size:
    raise ValueError(
      f"images: expected [n, h, w], [n, h, w, 1] or [n, h, w, 3], got shape {array.shape}"
    )
  if array.dtype == np.uint8:
    return array
  array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise ValueError("images: expected finite values, got NaN or infinity")
  low, high = float(array.min()), float(array.max())
  return ((array - low) * (255 / (high - low or 1.0))).astype(np.uint8)


def _as_rows(name: str, value: Any, n: int) -> np.ndarray:
  array = np.asarray(value)
  if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"{name}: expected row numbers [q], got shape {array.shape}, {array.dtype}")
  if array.min() < 0 or array.max() >= n:
    raise ValueError(f"{name}: expected rows in 0..{n - 1}, got {array.min()}..{array.max()}")
  return array.astype(np.int64)


def _as_neighbours(name: str, value: Any, queries: np.ndarray, n: int) -> np.ndarray:
  array = np.asarray(value)
  if array.ndim != 2 or len(array) != len(queries):
    raise ValueError(
      f"rows[{name!r}]: expected neighbours [{len(queries)}, k], a line a query, "
      f"got shape {array.shape}"
    )
  return _as_rows(f"rows[{name!r}]", array.reshape(-1), n).reshape(array.shape)


def gallery_of_run(
  run: Any, *, queries: int | None = None, k: int | None = None, seed: int = 0
) -> Figure:
  """The gallery of a restored run: raw pixels, the encoder as it started and the trained model.

  Args:
    run: of `training.restore`.
    queries: how many query images, one a class, drawn by `draw_queries`; None: 8, or fewer where
      the classes are few or small (`fit_queries`).
    k: neighbours of each; None: likewise.
    seed: of the draw.

  Raises:
    ValueError: more queries, or neighbours, than the data set has.
  """
  queries, k = fit_queries(run.labels, queries, k)
  chosen = draw_queries(run.labels, queries, k, seed)
  before, x_before, distance_before = run.before()
  embedded = {"raw pixels": run.raw_pixels(), before: x_before, "trained model": run.embed()}
  places = np.arange(len(run.labels))
  ranked = {"raw pixels": None, before: distance_before, "trained model": run.evaluator.distance_fn}
  rows = {
    # The query itself is no neighbour of its own.
    name: evaluation.nearest_neighbours(
      x[chosen], k, gallery=x, ids=chosen, gallery_ids=places, distance_fn=ranked[name]
    ).indices
    for name, x in embedded.items()
  }
  seen = "None of these classes was" if run.disjoint else "These images were not"
  # Only what is shown is decoded.
  shown = np.unique(np.concatenate([chosen, *map(np.ravel, rows.values())]))
  renumber = lambda indices: np.searchsorted(shown, indices)
  return draw_gallery(
    run.images(shown), run.labels[shown], renumber(chosen),
    {name: renumber(neighbours) for name, neighbours in rows.items()},
    title=f"Nearest neighbours of unseen {run.setup.measured.name} before and after training",
    note=(
      f"Green: the query's class. Red and dimmed: another. {seen} seen in training. "
      f"Queries drawn at random (seed {seed})."
    ),
  )  # fmt: skip
