"""Figures of a suite: each arm with its interval, paired effects, curves over training.

Colours are Okabe and Ito's, which the colour-blind tell apart; shapes and dashes differ as well.
Matplotlib is imported when something is drawn, without pyplot.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from jaxdml.evaluation import describe_metric
from studies import statistics, style, table
from studies.style import save as save
from studies.table import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

__all__ = ["curves", "dots", "effects", "save"]


@style.styled
def dots(rows: Sequence[Row], *, metrics: Sequence[str] | None = None) -> Figure:
  """Draws each arm of each loss: mean, 95 % t interval and single seeds; floors as dashed lines.

  One panel a metric, one line of panels a task. A floor's band is its own interval.

  Args:
    rows: of one suite.
    metrics: those to show, see `table.layout`.

  Raises:
    ValueError: see `table.layout`.
  """
  plan = table.layout(rows, metrics)
  styles = style.styles(plan.arms)
  figure, panels = _panels(plan, len(plan.losses), len(plan.arms))
  for (task, metric), axes in panels.items():
    for floor, dashes in zip(plan.floors, itertools.cycle(style.FLOOR_DASHES), strict=False):
      values = _values(rows, plan, task, "", floor, metric)
      if values:
        mean, low, high, _ = statistics.mean_interval(values)
        axes.axvline(mean, color=style.FLOOR, linestyle=dashes, linewidth=1.2, zorder=1)
        if high > low:
          axes.axvspan(low, high, color=style.FLOOR, alpha=0.13, linewidth=0, zorder=0.5)
    for i, loss in enumerate(plan.losses):
      for arm, y in zip(plan.arms, _lines(i, len(plan.arms)), strict=True):
        values = _values(rows, plan, task, loss, arm, metric)
        if values:
          style.mark(axes, y, values, statistics.mean_interval(values)[:3], styles[arm])
    axes.margins(x=0.06)
  handles = [style.handle(arm, *styles[arm]) for arm in plan.arms]
  handles += [
    style.handle(name, style.FLOOR, linestyle=dashes)
    for name, dashes in zip(plan.floors, itertools.cycle(style.FLOOR_DASHES), strict=False)
  ]
  note = f"Mean, 95 % t interval and single runs (small dots), {len(plan.seeds)} seeds."
  _finish(figure, panels, plan, handles, note)
  return figure


@style.styled
def effects(
  rows: Sequence[Row], *, metrics: Sequence[str] | None = None, baseline: str = table.BASELINE
) -> Figure:
  """Draws the paired differences of every other arm from the baseline, loss by loss.

  Mean, bootstrap interval (`statistics.effect`) and single seeds; below, where there are several
  losses, the mean over them. A marker is hollow where its interval holds zero.

  Args:
    rows: of one suite.
    metrics: those to show, see `table.layout`.
    baseline: the arm that the others are compared with.

  Raises:
    UnpairedError: a loss whose arms have different seeds.
    ValueError: no arm, or no baseline, to compare; see also `table.layout`.
  """
  plan = table.layout(rows, metrics)
  arms = tuple(arm for arm in plan.arms if arm != baseline)
  if not arms or baseline not in plan.arms:
    raise ValueError(f"rows: expected {baseline!r} and another arm; got {', '.join(plan.arms)}")
  styles = style.styles(plan.arms)
  pooled = len(plan.losses) > 1
  figure, panels = _panels(plan, len(plan.losses) + pooled, len(arms))
  found = statistics.all_effects(rows, plan, baseline)
  for (task, metric), axes in panels.items():
    axes.axvline(0, color=style.TEXT, linewidth=1.0, zorder=1)
    for i, loss in enumerate([*plan.losses, None][: len(plan.losses) + pooled]):
      for arm, y in zip(arms, _lines(i, len(arms)), strict=True):
        d = found.get((task, loss, arm, metric))
        if d:
          ends = (d.mean, d.low, d.high)
          style.mark(axes, y, d.values, ends, styles[arm], hollow=not d.excludes_zero)
    if pooled:
      axes.axhline(len(plan.losses) - 0.5, color="#888888", linewidth=0.8, zorder=1)
    axes.margins(x=0.08)
  handles = [style.handle(f"{arm} − {baseline}", *styles[arm]) for arm in arms]
  kind = statistics.interval_kind(len(plan.seeds))
  note = (
    f"Paired by seed, {len(plan.seeds)} seeds: mean, 95 % {kind} interval (hollow marker: it holds "
    "0), single pairs (small dots)."
  )
  _finish(figure, panels, plan, handles, note, "difference in ", ["mean of losses"] * pooled)
  return figure


@style.styled
def curves(panels: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> Figure:
  """Draws curves over training: the mean over seeds and its 95 % t interval as a band.

  Args:
    panels: what is drawn -> name -> (steps [t], values [seeds, t]). An arm's name gives its colour.
      NaN is a gap, and a step that fewer than two seeds have has no band.

  Raises:
    ValueError: no curve, or shapes that do not fit together.
  """
  names = list(dict.fromkeys(name for series in panels.values() for name in series))
  if not names:
    raise ValueError("panels: expected at least one curve, got none")
  columns = min(len(panels), 3)
  lines = -(-len(panels) // columns)
  figure = style.figure(max(3.4 * columns, 6.2), 2.7 * lines + 0.4)
  styles = style.styles(names)
  dashes = dict(zip(names, itertools.cycle(style.CURVE_DASHES), strict=False))
  for place, (title, series) in enumerate(panels.items(), 1):
    axes = figure.add_subplot(lines, columns, place)
    style.plain_axes(axes, "both")
    for name, (steps, values) in series.items():
      x, y = np.asarray(steps, float), np.asarray(values, float)
      if x.ndim != 1 or y.ndim != 2 or y.shape[1:] != x.shape or not y.size:
        raise ValueError(
          f"panels[{title!r}][{name!r}]: expected steps [t] and values [seeds, t], got {x.shape} "
          f"and {y.shape}"
        )
      mean, half = _mean_and_half(y)
      colour = styles[name][0]
      # What is never negative has no band there.
      low = mean - half if np.any(y < 0) else np.maximum(mean - half, 0.0)
      axes.plot(x, mean, color=colour, linestyle=dashes[name], linewidth=1.6, zorder=3)
      band = {"color": colour, "alpha": 0.18, "linewidth": 0, "zorder": 2}
      axes.fill_between(x, low, mean + half, **band)
    axes.margins(x=0.01)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("step")
  style.legend(
    figure,
    [style.handle(n, styles[n][0], linestyle=dashes[n], linewidth=1.6) for n in names],
  )
  return figure


def _panels(
  plan: table.Layout, groups: int, arms: int
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
  """A panel for each task and metric, with `groups` groups of `arms` lines."""
  rows, columns = len(plan.tasks), len(plan.metrics)
  height = groups * (arms + 1) * style.LINE
  figure = style.figure(max(1.3 + 2.6 * columns, 5.5), rows * (height + 0.65) + 0.75)
  grid = figure.subplots(rows, columns, sharex="col", sharey=True, squeeze=False)
  panels = {}
  for i, task in enumerate(plan.tasks):
    for j, metric in enumerate(plan.metrics):
      axes = grid[i, j]
      style.plain_axes(axes, "x")
      axes.set_ylim(groups - 0.5, -0.5)
      for group in range(1, groups, 2):
        axes.axhspan(group - 0.5, group + 0.5, color=style.STRIPE, linewidth=0, zorder=0)
      axes.tick_params(axis="y", length=0)
      axes.tick_params(axis="x", labelbottom=True)
      panels[task, metric] = axes
  return figure, panels


def _finish(
  figure: Figure,
  panels: Mapping[tuple[str, str], Axes],
  plan: table.Layout,
  handles: Sequence[Any],
  note: str,
  measure: str = "",
  more: Sequence[str] = (),
) -> None:
  """Names of losses, metrics and tasks; the legend, and what is drawn under it."""
  from matplotlib.ticker import MaxNLocator

  names = [*map(table.loss_label, plan.losses), *more]
  for (task, metric), axes in panels.items():
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if task == plan.tasks[-1]:
      axes.set_xlabel(f"{measure}{describe_metric(metric).label}")
    if metric == plan.metrics[0] and len(plan.tasks) > 1:
      axes.set_title(table.task_label(task), fontsize=9.5, loc="left", weight="bold")
  style.legend(figure, handles)
  if len(plan.seeds) == 1:
    note = f"Seed {plan.seeds[0]} alone: no interval."
  figure.supxlabel(note, fontsize=7.5, color="#555555", x=0.01, ha="left")


def _lines(group: int, count: int) -> np.ndarray:
  """The height of each of `count` lines of a group, which is one unit high."""
  return group + (np.arange(count) - (count - 1) / 2) / (count + 1)


def _values(
  rows: Sequence[Row], plan: table.Layout, task: str, loss: str, arm: str, metric: str
) -> list[float]:
  cell = statistics.by_seed(rows, arm=arm, metric=metric, task=task, loss=loss, split=plan.split)
  return [cell[seed] for seed in sorted(cell)]


def _mean_and_half(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and half the 95 % t interval of each column, over the rows that are not NaN."""
  there = np.isfinite(y)
  n = there.sum(0)
  some, several = np.maximum(n, 1), np.maximum(n, 2)
  mean = np.where(n > 0, np.where(there, y, 0).sum(0) / some, np.nan)
  squares = np.where(there, (y - mean) ** 2, 0).sum(0)
  half = stats.t.ppf(0.975, several - 1) * np.sqrt(squares / (several - 1) / several)
  return mean, np.where(n > 1, half, np.nan)
