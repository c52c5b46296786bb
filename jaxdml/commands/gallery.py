"""Nearest neighbours of unseen images before and after training, as a picture.

jaxdml gallery --workdir=runs/glyphs --out=neighbours.png
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxdml import evaluation
from jaxdml._text import printable
from jaxdml.commands import errors as command
from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
from jaxdml.drawing import batch as picture
from jaxdml.evaluation import _checks as checks
from jaxdml.report.queries import choose_queries as choose_queries
from jaxdml.report.queries import fit

__all__ = ["RIGHT", "WRONG", "choose_queries", "gallery"]

RIGHT, WRONG = "#1a9641", "#e34234"
_QUERY = "#333333"
_CELL = 0.435  # inches; eight neighbours under three models make 1,200 pixels
_GAP = 0.8  # between models, in cells
_LETTER = 0.62 / 72 / _CELL  # width of an average letter a point of its size, in cells
_DIMMED = 0.45  # opacity of wrong neighbours: who cannot tell red from green sees them too


def gallery(
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
  heading of a model counts the green ones. The figure owes nothing to pyplot: save it with
  `figure.savefig(path)`.

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
  pictures = _as_pictures(images)
  labels = checks.as_column("labels", labels, len(pictures), "images")
  queries = _as_rows("query_indices", query_indices, len(pictures))
  if not rows:
    raise ValueError("rows: expected at least one model, got none")
  models = {name: _as_neighbours(name, value, queries, len(pictures)) for name, value in
            rows.items()}  # fmt: skip

  widths = [neighbours.shape[1] for neighbours in models.values()]
  width = 1.0 + sum(_GAP + w for w in widths)
  top, bottom = (1.85 if title else 1.2), (0.6 if note else 0.1)
  size = (width + 0.3, len(queries) + top + bottom)
  figure = Figure(figsize=(size[0] * _CELL, size[1] * _CELL), dpi=100, facecolor="white")
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(-0.15, width + 0.15), ylim=(len(queries) + bottom, -top), autoscale_on=False)
  axes.set_axis_off()

  _write(axes, 0.5, -0.3, "query", 8, ha="center", room=1.0 + _GAP)
  for line, query in enumerate(queries):
    _draw(axes, pictures[query], 0.0, line, _QUERY, "query")
  left = 1.0
  for (name, neighbours), w in zip(models.items(), widths, strict=True):
    left += _GAP
    right = labels[neighbours] == labels[queries][:, None]
    _write(axes, left, -0.72, name, 10, weight="bold", room=w)
    _write(axes, left, -0.3, f"{right.sum()} of {right.size} right", 8, room=w)
    for (line, place), index in np.ndenumerate(neighbours):
      colour = RIGHT if right[line, place] else WRONG
      kind = "right" if right[line, place] else "wrong"
      _draw(axes, pictures[index], left + place, line, colour, kind)
    left += w
  if title:
    _write(axes, 0.0, -1.4, title, 12, weight="bold", room=width)
  if note:
    _write(axes, 0.0, len(queries) + 0.4, note, 8, room=width)
  return figure


def _draw(axes: Axes, image: np.ndarray, x: float, y: float, colour: str, kind: str) -> None:
  """One image in the cell whose upper left corner is (x, y), framed; `kind` is the frame's gid."""
  low, high = 0.1, 0.9
  axes.imshow(
    image,
    extent=(x + low, x + high, y + high, y + low),
    cmap="gray",
    vmin=0,
    vmax=1,
    aspect="auto",
    alpha=_DIMMED if kind == "wrong" else 1.0,
  )
  frame = Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, fill=False, edgecolor=colour, linewidth=2.2)
  frame.set_gid(kind)
  axes.add_patch(frame)


def _write(
  axes: Axes, x: float, y: float, text: str, size: float, *, room: float, **style: Any
) -> None:
  """Text on its baseline at (x, y), shrunk to fit into `room` cells; never read as mathtext."""
  known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
  text = printable(text, lambda char: ord(char) in known)
  size = min(size, room / max(len(text) * _LETTER, 1e-9))
  axes.text(x, y, text, fontsize=size, parse_math=False, color=_QUERY, **style)


def _as_pictures(images: Any) -> np.ndarray:
  """[n, h, w] or [n, h, w, 3] in 0..1."""
  array = np.asarray(images)
  if array.ndim == 4 and array.shape[-1] == 1:
    array = array[..., 0]
  if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or not array.size:
    raise ValueError(
      f"images: expected [n, h, w], [n, h, w, 1] or [n, h, w, 3], got shape {array.shape}"
    )
  if array.dtype == np.uint8:
    return array.astype(np.float32) / 255
  array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise ValueError("images: expected finite values, got NaN or infinity")
  low, high = float(array.min()), float(array.max())
  return (array - low) / (high - low if high > low else 1.0)


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


def main(argv: Sequence[str] | None = None) -> int:
  """Draws the gallery of a run; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="jaxdml gallery",
    description="Draws the nearest neighbours of unseen images before and after training.",
  )
  parser.add_argument("--workdir", required=True, help="of a run of python -m jaxdml.main")
  parser.add_argument("--out", required=True, help="the picture to write, .png, .svg or .pdf")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--queries", type=int, help="query images, one a class (8, or as there are)")
  parser.add_argument("--k", type=int, help="neighbours of each (8, or as classes have)")
  parser.add_argument("--seed", type=int, default=0, help="draws the queries (0)")
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import training
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  try:
    picture.check_suffix("--out", args.out)
    run = training.restore(args.workdir, data_dir=args.data_dir)
    figure = of_run(run, queries=args.queries, k=args.k, seed=args.seed)
    out = pathlib.Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, DatasetNotPreparedError, ImageDecodeError,
    OSError, ValueError,
  ) as error:  # fmt: skip
    flag = "--" if str(error).startswith(("k: ", "queries: ")) else ""
    print(f"error: {flag}{error}", file=sys.stderr)
    return 2
  print(f"wrote {out}")
  return 0


def of_run(run: Any, *, queries: int | None = None, k: int | None = None, seed: int = 0) -> Figure:
  """The gallery of a `training.Restored` run: raw pixels, untrained and trained model.

  Args:
    run: the run.
    queries: how many query images, one a class, drawn by `choose_queries`; None: 8, or fewer where
      the classes are few or small (`queries.fit`).
    k: neighbours of each; None: likewise.
    seed: of the draw.

  Raises:
    ValueError: more queries, or neighbours, than the data set has.
  """
  before = "pretrained model" if run.setup.config.encoder.init else "untrained model"
  queries, k = fit(run.labels, queries, k)
  chosen = choose_queries(run.labels, queries, k, seed)
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
  return gallery(
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


if __name__ == "__main__":
  sys.exit(command.run(main))
