"""The effect of an arm in a table: its paired difference from the plain one, and over losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studies import naming, statistics
from studies.table import Row

__all__ = ["all_effects", "by_seed", "effect"]


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
) -> statistics.Difference:
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
    difference = statistics.paired_difference(
      *pair, confidence=confidence, names=(f"{arm} ({where})", f"{baseline} ({where})")
    )
    differences.append(difference)
  for cell, difference in zip(cells, differences, strict=True):
    if difference.seeds != differences[0].seeds:
      raise statistics.UnpairedError(
        f"seeds: expected the same ones of every loss and task; {', '.join(cells[0])} has "
        f"{differences[0].seeds}, {', '.join(cell)} has {difference.seeds}"
      )
  if len(differences) == 1:
    return differences[0]
  means = np.mean([difference.values for difference in differences], axis=0)
  pooled = dict(zip(differences[0].seeds, means.tolist(), strict=True))
  return statistics.paired_difference(pooled, dict.fromkeys(pooled, 0.0), confidence=confidence)


def all_effects(
  rows: Sequence[Row], plan: naming.Layout, baseline: str = naming.BASELINE
) -> dict[tuple[str, str | None, str, str], statistics.Difference]:
  """The effect of every arm but the baseline, as far as the table has both.

  Args:
    rows: of one suite.
    plan: what to compare, `naming.layout(rows)`.
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
