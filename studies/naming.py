"""What tables and figures call losses, arms and metrics, and in which order they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxdml.evaluation import describe_metric
from studies.table import Row

__all__ = [
  "BASELINE",
  "Layout",
  "layout",
  "loss_label",
  "task_label",
  "with_chance",
]

BASELINE = "plain"
_ARMS = ("plain", "EPS", "HDML", "EPS+HDML")
_FLOORS = ("chance", "raw pixels", "untrained encoder", "pretrained encoder")
_LOSSES = {
  "npair": "N-pair",
  "triplet": "triplet",
  "margin": "margin",
  "multi_similarity": "multi-similarity",
  "contrastive": "contrastive",
}
_MAIN = ("map@r", "recall@1", "nmi")
_CHANCE = "collapse/within/chance_"


class Layout(NamedTuple):
  """What a suite's rows hold, each in the order in which it is shown."""

  tasks: tuple[str, ...]
  losses: tuple[str, ...]
  arms: tuple[str, ...]
  floors: tuple[str, ...]
  metrics: tuple[str, ...]
  seeds: tuple[int, ...]
  split: str


def layout(rows: Sequence[Row], metrics: Iterable[str] | None = None) -> Layout:
  """The layout of one suite's rows: known names first, then others by the alphabet.

  Args:
    rows: of one suite. Floors are the rows without a loss.
    metrics: those to show; by default the rows' MAP@R, Recall@1 and NMI.

  Raises:
    ValueError: no rows, rows of several suites, a metric that no row has, or several splits of
      which none is "test".
  """
  suites = sorted({row.suite for row in rows})
  if len(suites) != 1:
    raise ValueError(f"rows: expected those of one suite, got {', '.join(suites) or 'no rows'}")
  splits = {row.split for row in rows}
  if len(splits) > 1 and "test" not in splits:
    raise ValueError(f"rows: expected the split test or one split, got {', '.join(sorted(splits))}")
  split = "test" if "test" in splits else splits.pop()
  rows = [row for row in rows if row.split == split]
  present = {row.metric for row in rows}
  if metrics is None:
    metrics = tuple(name for name in _MAIN if name in present)
    metrics = metrics or tuple(sorted(present, key=lambda name: describe_metric(name).order))
  else:
    metrics = tuple(dict.fromkeys(metrics))
  if set(metrics) - present:
    raise ValueError(
      f"metrics: expected some of {', '.join(sorted(present))}; "
      f"got {', '.join(sorted(set(metrics) - present))}"
    )
  rows = [row for row in rows if row.metric in metrics]
  return Layout(
    tasks=_ordered({row.task for row in rows}, ()),
    losses=_ordered({row.loss for row in rows if row.loss}, tuple(_LOSSES)),
    arms=_ordered({row.arm for row in rows if row.loss}, _ARMS),
    floors=_ordered({row.arm for row in rows if not row.loss}, _FLOORS),
    metrics=metrics,
    seeds=tuple(sorted({row.seed for row in rows})),
    split=split,
  )


def with_chance(rows: Sequence[Row]) -> list[Row]:
  """The rows, with the chance level of retrieval inside the class as a floor named "chance".

  Every model's diagnostics come with that level (`collapse/within/chance_map@r`), which depends on
  the labels alone.
  """
  chance = {}
  for row in rows:
    if row.metric.startswith(_CHANCE):
      metric = row.metric.replace("chance_", "")
      floor = row._replace(loss="", arm="chance", metric=metric)
      chance.setdefault(floor.key, floor)
  return [row for row in rows if not row.metric.startswith(_CHANCE)] + list(chance.values())


def loss_label(name: str) -> str:
  """The name of a loss in print."""
  return _LOSSES.get(name, name)


def task_label(name: str) -> str:
  """The name of a task in print, arrows as arrows."""
  return name.replace("->", "→")


def _ordered(names: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
  """Known ones in their order, then the others, numbers in names by size."""
  place = {name: index for index, name in enumerate(known)}
  parts = lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
  return tuple(sorted(names, key=lambda name: (place.get(name, len(known)), parts(name))))
