"""Neighbours of unseen images under several models, right ones green and wrong ones red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxdml import evaluation
from jaxdml.drawing.neighbours import Cell, draw_neighbours
from jaxdml.drawing.queries import draw_queries, fit_queries
from jaxdml.evaluation import _checks as checks

__all__ = ["RIGHT", "WRONG", "draw_gallery", "gallery_of_run"]

RIGHT, WRONG = "#1a9641", "#e34234"
_QUERY = "#333333"
_SIDE = 44  # pixels; eight neighbours under three models make 1,200


def draw_gallery(
  images: Any,
  labels: Any,
  query_indices: Sequence[int] | np.ndarray,
  rows: Mapping[str, Any],
  *,
  title: str = "",
  note: str = "",
) -> Figure:
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
    title: over the picture, if not empty.
    note: under it, if not empty.

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
  """Images as uint8 [n, h, w] or [n, h, w, 3]; the range of floats from black to white.

  Raises:
    ValueError: another shape, or NaN.
  """
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
  """The gallery of a restored run: raw pixels, untrained and trained model.

  Args:
    run: of `training.restore`.
    queries: how many query images, one a class, drawn by `draw_queries`; None: 8, or fewer where
      the classes are few or small (`fit_queries`).
    k: neighbours of each; None: likewise.
    seed: of the draw.

  Raises:
    ValueError: more queries, or neighbours, than the data set has.
  """
  before = "pretrained model" if run.setup.config.encoder.init else "untrained model"
  queries, k = fit_queries(run.labels, queries, k)
  chosen = draw_queries(run.labels, queries, k, seed)
  embedded = {
    "raw pixels": run.raw_pixels(),
    before: run.embed(run.untrained),
    "trained model": run.embed(),
  }
  places = np.arange(len(run.labels))
  rows = {
    # The query itself is no neighbour of its own.
    name: evaluation.nearest_neighbours(
      x[chosen], k, gallery=x, ids=chosen, gallery_ids=places
    ).indices
    for name, x in embedded.items()
  }
  seen = "None of these classes was" if run.disjoint else "These images were not"
  # Only what is shown is decoded.
  shown = np.unique(np.concatenate([chosen, *map(np.ravel, rows.values())]))
  renumber = lambda indices: np.searchsorted(shown, indices)
  return draw_gallery(
    run.images(shown),
    run.labels[shown],
    renumber(chosen),
    {name: renumber(neighbours) for name, neighbours in rows.items()},
    title=f"Nearest neighbours of unseen {run.setup.measured.name} before and after training",
    note=(
      f"Green: the query's class. Red and dimmed: another. {seen} seen in training. "
      f"Queries drawn at random (seed {seed})."
    ),
  )
