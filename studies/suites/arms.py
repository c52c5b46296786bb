"""An arm, a suite of them, and what suites share.

Every arm of a task trains for the same number of steps on the same batches and has the same number
of candidates to be tuned with. The candidates are compared on classes held out of the training
classes, with a seed that the results do not use; the test classes are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdml.training import recipes

__all__ = ["LOSSES", "RATES", "SAMPLED", "Arm", "Suite", "with_recipes"]

LOSSES = {
  "npair": "npair",
  "triplet": "triplet",
  "margin": "margin",
  "multi_similarity": "multisimilarity",
}
"""Name of a loss in tables -> in recipes."""
SAMPLED = ("triplet", "margin")
"""Losses for which recipes mine one negative for each positive."""
RATES = [{"optimizer.learning_rate": rate} for rate in (2e-3, 4e-3, 8e-3)]


class Arm(NamedTuple):
  """One way to train for a task.

  Attributes:
    task: what is trained on and asked for.
    loss: in tables.
    method: plain, EPS, HDML, EPS+HDML; or a control of them.
    make: the config, of seed 0.
    candidates: overrides of dotted keys to choose from; one means nothing to tune, as where the
      task has no class to hold out.
  """

  task: str
  loss: str
  method: str
  make: Callable[[], ConfigDict]
  candidates: Sequence[Mapping[str, Any]]


class Suite(NamedTuple):
  """A grid of arms.

  Attributes:
    name: of its tables.
    about: one line.
    arms: in the order of the tables.
    metrics: what its page shows, the first also tunes.
    costs: it also shows parameters that learn and wall time.
  """

  name: str
  about: str
  arms: Sequence[Arm]
  metrics: Sequence[str]
  costs: bool = False


def with_recipes(base: Callable[[], ConfigDict], names: str) -> Callable[[], ConfigDict]:
  """The config of a task with recipes applied, e.g. "triplet,hdml"."""
  return lambda: recipes.apply(base(), names)
