"""Counts what batches are made of where labels are coarse: python -m studies.composition.

Easy positives can keep the modes of a class apart only where an anchor's positives are of several
modes, and its own mode is among them. Both are properties of the data and the sampler: this counts
them over the batches of a suite's tasks and prints a Markdown table, without training anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdml import commands

__all__ = ["Composition", "of_batches"]

_TASKS = ("collapse", "scripts", "groups", "digits")


class Composition(NamedTuple):
  """Positives of an anchor, over some batches.

  Attributes:
    modes: mean number of modes of an anchor's class.
    own_mode: share of an anchor's positives that are of its mode, mean over anchors.
    has_own_mode: share of the anchors with a positive of their mode.
  """

  modes: float
  own_mode: float
  has_own_mode: float


def of_batches(batches: Sequence[np.ndarray], classes: Any, modes: Any) -> Composition:
  """Counts the modes among the positives of every anchor that has a positive.

  Args:
    batches: rows of the data set, a batch each; a row that comes twice is no pair with itself.
    classes: [n], the label trained on.
    modes: [n], the finer label.

  Raises:
    ValueError: no anchor has a positive.

  >>> of_batches([np.arange(4)], [0, 0, 0, 1], [5, 5, 6, 7])
  Composition(modes=2.0, own_mode=0.3333333333333333, has_own_mode=0.6666666666666666)
  """
  classes, modes = np.asarray(classes), np.asarray(modes)
  pairs = np.unique(np.stack([classes, modes]), axis=1)
  values, counts = np.unique(pairs[0], return_counts=True)
  number, share, any_own = [], [], []
  for rows in batches:
    c, m = classes[rows], modes[rows]
    positive = (c[:, None] == c) & (rows[:, None] != rows)
    own = positive & (m[:, None] == m)
    anchors = positive.any(1)
    number.append(counts[np.searchsorted(values, c[anchors])])
    share.append(own[anchors].sum(1) / positive[anchors].sum(1))
    any_own.append(own[anchors].any(1))
  if not sum(map(len, share)):
    raise ValueError("batches: expected some anchor with a positive, got none")
  return Composition(*(float(np.concatenate(x).mean()) for x in (number, share, any_own)))


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.composition",
    description="Counts the modes among the positives in the batches of the tasks with coarse "
    "labels, as a Markdown table. Nothing is trained.",
  )
  parser.add_argument("--batches", type=int, default=50, help="of each task (50)")
  parser.add_argument("--data_dir", default="", help="TFDS data directory")
  args = parser.parse_args(argv)
  if args.batches < 1:
    parser.error(f"--batches: expected at least 1, got {args.batches}")
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import data
  from jaxdml.training import setup
  from studies.suites import SUITES

  print("| task | classes | modes of an anchor's class | positives of its mode | has one |")
  print("|---|---|---|---|---|")
  tasks: dict[str, Any] = {}
  for arm in (arm for name in _TASKS for arm in SUITES[name].arms):
    tasks.setdefault(arm.task, arm)  # Arms of a task share its batches.
  for task, arm in tasks.items():
    config = arm.make()
    label, fine = config.data.label, config.data.eval_label
    try:
      train = data.load(config.data.dataset, "train", data_dir=args.data_dir or None)
    except (data.DatasetNotPreparedError, OSError) as error:
      print(f"error: {error}", file=sys.stderr)
      return 2
    train = data.with_groups(train, label)
    draw = setup.sampler(config, train)
    batches = [draw(step) for step in range(args.batches)]
    found = of_batches(batches, train.column(label), train.column(fine))
    print(
      f"| {task} | {len(train.classes(label))} | {found.modes:.1f} | {found.own_mode:.3f} "
      f"| {found.has_own_mode:.3f} |"
    )
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
