"""Looks of figures: colours, marks, axes, and files of the same bytes for the same figure."""

from __future__ import annotations

import functools
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

DPI = 150
ARMS = {
  "plain": ("#555555", "o"),
  "EPS": ("#0072B2", "s"),
  "HDML": ("#E69F00", "^"),
  "EPS+HDML": ("#009E73", "D"),
}
OTHERS = (("#D55E00", "v"), ("#CC79A7", "P"), ("#56B4E9", "X"), ("#000000", "*"))
FLOOR_DASHES = ((0, (1, 1.5)), (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3)))
CURVE_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
FLOOR, TEXT, GRID, STRIPE = "#7a7a7a", "#222222", "#dddddd", "#f5f5f5"
LINE = 0.18  # inches between two arms
RC = {
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "axes.edgecolor": "#888888",
  "axes.labelcolor": TEXT,
  "xtick.color": TEXT,
  "ytick.color": TEXT,
  "text.color": TEXT,
  "text.parse_math": False,
}


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
  """Draws under this module's settings, whatever the reader's matplotlibrc says."""

  @functools.wraps(function)
  def drawn(*args: Any, **kwargs: Any) -> Figure:
    import matplotlib

    with matplotlib.rc_context(RC):
      return function(*args, **kwargs)

  return drawn


def save(figure: Figure, path: str | os.PathLike[str], *, note: str = "") -> None:
  """Writes a PNG whose bytes depend on the figure and matplotlib's release alone.

  Args:
    figure: any of the above.
    path: ends in .png; folders are made.
    note: kept in the file as its description, if not empty.
  """
  import matplotlib

  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  metadata = {"Software": None, "Description": note or None}
  with matplotlib.rc_context(RC):
    figure.savefig(path, format="png", dpi=DPI, metadata=metadata, pil_kwargs={"optimize": True})


def figure(width: float, height: float) -> Figure:
  """An empty figure of that many inches, without pyplot."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def plain_axes(axes: Axes, grid: str) -> None:
  """Light grid lines along an axis ("x", "y", "both"), no frame above and to the right."""
  axes.grid(True, axis=grid, color=GRID, linewidth=0.6, zorder=0)
  axes.set_axisbelow(True)
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)


def legend(figure: Figure, handles: Sequence[Any]) -> None:
  """Over the panels, on as many lines as it needs."""
  room = sum(0.72 + 0.075 * len(handle.get_label()) for handle in handles)  # inches
  lines = math.ceil(room / figure.get_figwidth())
  figure.legend(
    handles=handles,
    loc="outside upper left",
    ncols=math.ceil(len(handles) / lines),
    frameon=False,
    fontsize=8.5,
    handlelength=2.4,
    columnspacing=1.4,
  )


def handle(
  name: str, colour: str, marker: str = "", linestyle: Any = "-", linewidth: float = 1.4
) -> Any:
  """Returns what the legend shows of a name."""
  from matplotlib.lines import Line2D

  return Line2D(
    [], [], color=colour, marker=marker, linestyle=linestyle, linewidth=linewidth, markersize=4.6,
    label=name,
  )  # fmt: skip


def mark(
  axes: Axes,
  y: float,
  values: Sequence[float],
  ends: tuple[float, float, float],
  style: tuple[str, str],
  *,
  hollow: bool = False,
) -> None:
  """A mean with its interval, and the single seeds as small dots under it."""
  colour, marker = style
  mean, low, high = ends
  if high >= low:  # Not of one seed, whose interval is NaN.
    axes.plot([low, high], [y, y], color=colour, linewidth=1.5, solid_capstyle="butt", zorder=3)
  face = "white" if hollow else colour
  axes.plot(
    [mean], [y], marker=marker, color=colour, markerfacecolor=face, markersize=4.6,
    markeredgewidth=1.1, linestyle="", zorder=4,
  )  # fmt: skip
  axes.plot(
    values, np.full(len(values), y + 0.07), marker="o", color=colour, alpha=0.6, markersize=2.4,
    markeredgewidth=0, linestyle="", zorder=2,
  )  # fmt: skip


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
  """Colour and marker of each name; arms keep theirs in every figure."""
  others = itertools.cycle(OTHERS)
  return {name: ARMS.get(name) or next(others) for name in names}
