"""The evidence of a few seeds: intervals of means and of paired differences.

Two arms are compared seed by seed: the seed draws the initial weights, the batches and the
validation classes of both, so that their difference varies less than either.

Which interval. Of five values, a percentile or BCa bootstrap interval that says 95 % holds the
truth only 71 to 85 % of the time (measured on log-normal, exponential, Laplace, uniform and normal
values), because it resamples too small a spread. The bootstrap-t holds it 90 to 96 %, but where
four of five values are close together its end lies several ranges away from all of them.
`bootstrap_interval` widens the percentiles by what the spread lacks. It holds the truth on normal
values 93 %, on uniform and Laplace 92 %, on exponential 87 % and on log-normal ones 81 % of the
time, nearly as often as the t interval (96, 94, 98, 88 and 82 %), and never leaves the range of the
values seen. Read its 95 % as 93.

What five pairs bound. The smallest two-sided p-value of their 32 sign flips is 2/32 = 0.0625: no
effect, however large, is "significant at 5 %" by an exact test of five pairs; it takes six. The
interval of five pairs leaves 0 out where they all have one sign, or nearly so: evidence of that
p-value, no more. An interval around 0 does not show that there is no effect: read its ends. Nothing
here corrects for the number of comparisons that a page makes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from studies import table
from studies.table import Row

__all__ = [
  "FEWEST",
  "Difference",
  "Interval",
  "UnpairedError",
  "all_effects",
  "bootstrap_interval",
  "by_seed",
  "effect",
  "interval_kind",
  "mean_interval",
  "paired_difference",
  "sign_flip_p",
  "smallest_p",
]


FEWEST = 5  # values, of which a bootstrap interval is worth something
_EXACT_RESAMPLES = 6  # values, up to which all n^n resamples are taken (46,656)
_EXACT_FLIPS = 16  # values, up to which all 2^n flips are taken (65,536)
_DRAWS = 20_000  # beyond these


class UnpairedError(ValueError):
  """Two arms without the same seeds cannot be compared seed by seed."""


class Interval(NamedTuple):
  """A mean and its confidence interval; one value has no interval: its ends are NaN."""

  mean: float
  low: float
  high: float
  n: int


class Difference(NamedTuple):
  """A mean paired difference, its bootstrap interval and the sign-flip p-value.

  Attributes:
    mean: of the differences, first minus second.
    low: of the interval; NaN for one pair.
    high: of the interval.
    p: two-sided, `sign_flip_p`; at least 2 / 2^n.
    seeds: sorted, [n].
    values: the difference of each seed, [n].
  """

  mean: float
  low: float
  high: float
  p: float
  seeds: tuple[int, ...]
  values: tuple[float, ...]

  @property
  def n(self) -> int:
    """Pairs."""
    return len(self.values)

  @property
  def excludes_zero(self) -> bool:
    """Zero lies outside the interval; False for one pair."""
    return self.low > 0 or self.high < 0


def mean_interval(values: Iterable[float], *, confidence: float = 0.95) -> Interval:
  """The mean and its t interval, mean +- t_{n-1} s / sqrt(n).

  Args:
    values: [n], one a seed.
    confidence: that the interval holds the mean of all seeds, if values are normal.

  Raises:
    ValueError: no values, or values that are not finite.

  >>> interval = mean_interval([1.0, 2.0, 3.0])  # s = 1, t_2 = 4.303
  >>> [round(x, 3) for x in interval]
  [2.0, -0.484, 4.484, 3]
  """
  x = _as_values(values)
  mean, n = float(x.mean()), len(x)
  if n == 1:
    return Interval(mean, math.nan, math.nan, 1)
  half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
  return Interval(mean, mean - half, mean + half, n)


def bootstrap_interval(
  values: Iterable[float], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
  """The mean and its expanded percentile bootstrap interval (Hesterberg, arXiv 1411.5279).

  The ends are the percentiles of resampled means that a normal sample would need for a t interval,
  Phi(-+ sqrt(n / (n - 1)) t_{n-1}), instead of 2.5 % and 97.5 %. Up to six values all n^n resamples
  are taken, so that nothing is random; beyond, 20,000 are drawn. Fewer than five values have too
  few resamples: theirs is the t interval.

  Args:
    values: [n], one a seed or a pair.
    confidence: that the interval holds the mean of all seeds; the module says how often it does.
    seed: of the draws.

  Raises:
    ValueError: no values, or values that are not finite.

  >>> interval = bootstrap_interval([1.0, 2.0, 4.0, 8.0, 9.0])
  >>> [round(x, 6) for x in interval]  # (4 * 1 + 2) / 5 and (8 + 4 * 9) / 5
  [4.8, 1.2, 8.8, 5]
  """
  x = _as_values(values)
  n, mean = len(x), float(x.mean())
  if n < FEWEST:
    return mean_interval(x, confidence=confidence)
  if n <= _EXACT_RESAMPLES:
    chosen = _all_resamples(n)
  else:
    chosen = np.random.default_rng(seed).integers(0, n, (_DRAWS, n))
  means = np.sort(x[chosen].mean(1))
  quantile = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + confidence) / 2, n - 1)
  outside = int(stats.norm.cdf(-quantile) * len(means))
  return Interval(mean, float(means[outside]), float(means[-1 - outside]), n)


def sign_flip_p(values: Iterable[float], *, seed: int = 0) -> float:
  """The two-sided p-value of a zero mean, by flipping the signs of paired differences.

  If the arms were interchangeable, each difference could as well have the other sign. p is the
  share of the 2^n flips whose mean lies at least as far from 0 as the one seen, and so at least
  2 / 2^n. Beyond 16 values it is the share among it and 20,000 drawn flips.

  Args:
    values: [n] differences.
    seed: of the draws.

  Raises:
    ValueError: no values, or values that are not finite.

  >>> sign_flip_p([0.1, 0.2, 0.1, 0.3, 0.1])  # All positive: 2 of the 32 flips.
  0.0625
  """
  x = _as_values(values)
  if len(x) <= _EXACT_FLIPS:
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(x))))
  else:
    signs = np.random.default_rng(seed).choice([1.0, -1.0], (_DRAWS, len(x)))
    signs = np.concatenate([np.ones((1, len(x))), signs])
  sums = np.abs(signs @ x)
  # Flips that tie with the one seen differ from it by rounding.
  return float(np.mean(sums >= sums[0] - 1e-12 * np.abs(x).sum()))


def paired_difference(
  first: Mapping[int, float],
  second: Mapping[int, float],
  *,
  confidence: float = 0.95,
  names: tuple[str, str] = ("first", "second"),
) -> Difference:
  """First minus second, seed by seed: mean, `bootstrap_interval` and `sign_flip_p`.

  Args:
    first: seed -> value.
    second: seed -> value, of the same seeds.
    confidence: of the interval.
    names: of the two, for the error.

  Raises:
    UnpairedError: a seed that only one of them has, or no seed.
    ValueError: values that are not finite.
  """
  if set(first) != set(second) or not first:
    raise UnpairedError(
      f"seeds: expected the same ones of both; {names[0]} has {_listed(first)}, "
      f"{names[1]} has {_listed(second)}"
    )
  seeds = tuple(sorted(first))
  values = tuple(float(first[seed] - second[seed]) for seed in seeds)
  mean, low, high, _ = bootstrap_interval(values, confidence=confidence)
  return Difference(mean, low, high, sign_flip_p(values), seeds, values)


@functools.cache
def _all_resamples(n: int) -> np.ndarray:
  """[n^n, n] indices."""
  return np.array(list(itertools.product(range(n), repeat=n)))


def smallest_p(n: int) -> float:
  """The least p-value that `sign_flip_p` of n pairs can have."""
  return 2 / 2**n if n <= _EXACT_FLIPS else 1 / (1 + _DRAWS)


def interval_kind(n: int) -> str:
  """Returns the name in print of `bootstrap_interval` of n values."""
  return "bootstrap" if n >= FEWEST else "t"


def _as_values(values: Iterable[float]) -> np.ndarray:
  x = np.asarray(list(values), np.float64)
  if x.ndim != 1 or not x.size or not np.isfinite(x).all():
    raise ValueError(f"values: expected one or more finite numbers, got {x.tolist()!r:.80}")
  return x


def _listed(seeds: Iterable[int]) -> str:
  return ", ".join(map(str, sorted(seeds))) or "none"


def by_seed(
  rows: Sequence[Row], *, arm: str, metric: str, task: str, loss: str, split: str = "test"
) -> dict[int, float]:
  """Seed -> value of one cell of the table; empty if it has none."""
  wanted = (task, loss, arm, split, metric)
  return {
    row.seed: row.value
    for row in rows
    if (row.task, row.loss, row.arm, row.split, row.metric) == wanted
  }


def effect(
  rows: Sequence[Row],
  arm: str,
  baseline: str = "plain",
  *,
  metric: str,
  task: str | None = None,
  loss: str | None = None,
  split: str = "test",
  confidence: float = 0.95,
) -> Difference:
  """The effect of an arm: its paired difference from the baseline.

  Without `task` or `loss`, over all that have either arm: a seed's difference is the mean of its
  differences over them, and the pairs are still the seeds. Four losses of five seeds are not twenty
  independent pairs, as a seed's losses share initial weights, batches and validation classes; the
  answer is about the mean over these losses and tasks, not about others.

  Args:
    rows: of one suite.
    arm: e.g. "EPS".
    baseline: what it is compared with.
    metric: e.g. "map@r".
    task: one task, or None for the mean over all.
    loss: one loss, or None for the mean over all.
    split: of the data.
    confidence: of the interval.

  Raises:
    UnpairedError: a cell whose arms have different seeds, or cells of different seeds.
    ValueError: there is no such cell.
  """
  cells = sorted(
    {
      (row.task, row.loss)
      for row in rows
      if row.arm in (arm, baseline)
      and (row.metric, row.split) == (metric, split)
      and task in (None, row.task)
      and loss in (None, row.loss)
    }
  )
  if not cells:
    raise ValueError(
      f"rows: expected {metric} of {arm} and {baseline} on {split} "
      f"(task {task or 'any'}, loss {loss or 'any'}); found none"
    )
  differences = []
  for one_task, one_loss in cells:
    pair = [
      by_seed(rows, arm=name, metric=metric, task=one_task, loss=one_loss, split=split)
      for name in (arm, baseline)
    ]
    where = f"{metric} of {one_task}, {one_loss}"
    difference = paired_difference(
      *pair, confidence=confidence, names=(f"{arm} ({where})", f"{baseline} ({where})")
    )
    differences.append(difference)
  for cell, difference in zip(cells, differences, strict=True):
    if difference.seeds != differences[0].seeds:
      raise UnpairedError(
        f"seeds: expected the same ones of every loss and task; {', '.join(cells[0])} has "
        f"{differences[0].seeds}, {', '.join(cell)} has {difference.seeds}"
      )
  if len(differences) == 1:
    return differences[0]
  means = np.mean([difference.values for difference in differences], axis=0)
  pooled = dict(zip(differences[0].seeds, means.tolist(), strict=True))
  return paired_difference(pooled, dict.fromkeys(pooled, 0.0), confidence=confidence)


def all_effects(
  rows: Sequence[Row], plan: table.Layout, baseline: str = table.BASELINE
) -> dict[tuple[str, str | None, str, str], Difference]:
  """The effect of every arm but the baseline, as far as the table has both.

  Args:
    rows: of one suite.
    plan: what to compare, `table.layout(rows)`.
    baseline: what each arm is compared with.

  Returns:
    (task, loss, arm, metric) -> difference. Where the arm has all of several losses that the task
    has, loss None is the mean over them.

  Raises:
    UnpairedError: see `effect`.
  """
  rows = [row for row in rows if row.split == plan.split]
  found = {}
  for metric in plan.metrics:
    for task in plan.tasks:
      losses = {}
      for row in rows:
        if (row.task, row.metric) == (task, metric):
          losses.setdefault(row.arm, set()).add(row.loss)
      for arm in plan.arms:
        shared = losses.get(arm, set()) & losses.get(baseline, set())
        pooled = [None] if len(shared) > 1 and shared == set(plan.losses) else []
        for loss in [one for one in plan.losses if one in shared] + pooled:
          if arm != baseline:
            found[task, loss, arm, metric] = effect(
              rows, arm, baseline, metric=metric, task=task, loss=loss, split=plan.split
            )
  return found
