"""What digests cost beside the checkpoint that they guard, of an encoder and its optimizer's state.

  python benchmarks/checkpoint_digests.py [--encoder resnet50] [--limit 2]

The state is that of Adam: parameters, two moments and running statistics, of random values. A
checkpoint is saved until it is on the disk, then restored as a run restores it; both take its
digests once. With --limit the command fails if digests take a larger share of saving, in percent.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _machine
import jax
import numpy as np

from jaxdml import models
from jaxdml.training import checkpoints


class State(NamedTuple):
  """The parts of a training state that weigh."""

  params: Any
  opt_state: Any
  batch_stats: Any


def make_state(encoder: str) -> State:
  """Random arrays of the shapes that training has."""
  module = models.create(encoder)
  image = np.zeros((1, 224, 224, 3), np.float32)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))
  rng = np.random.default_rng(0)
  draw = lambda tree: jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)
  params = shapes["params"]
  return State(draw(params), (draw(params), draw(params)), draw(shapes.get("batch_stats", {})))


def seconds(function: Callable[[], Any]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def main() -> int:
  """Prints the table; returns 1 if digests take more than the limit."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--encoder", default="resnet50", help="(%(default)s)")
  parser.add_argument("--rounds", type=int, default=9, help="medians of as many (%(default)s)")
  parser.add_argument("--limit", type=float, help="the largest share of saving, in percent")
  args = parser.parse_args()
  state = make_state(args.encoder)
  abstract = jax.eval_shape(lambda: state)
  times: dict[str, list[float]] = {"save": [], "restore": [], "digests": []}
  with tempfile.TemporaryDirectory() as folder:
    manager = checkpoints.Checkpoints(pathlib.Path(folder), keep=1)

    def save(step: int) -> None:
      manager.save("last", step, state, checkpoints.Progress())
      manager.wait()

    for step in range(args.rounds):
      times["save"].append(seconds(lambda step=step: save(step)))
      times["restore"].append(seconds(lambda: manager.restore("last", abstract)))
      times["digests"].append(seconds(lambda: checkpoints.digests(state)))
    manager.close()
  typical = {name: statistics.median(values) for name, values in times.items()}
  share_of = lambda of: 100 * of(times["digests"]) / of(times["save"])
  megabytes = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
  share, best = share_of(statistics.median), share_of(min)
  print(
    "| encoder | state MB | save s | restore s | digests ms | of saving | of the best save |\n"
    "|---|---|---|---|---|---|---|\n"
    f"| `{args.encoder}` | {megabytes:.0f} | {typical['save']:.2f} | {typical['restore']:.2f} | "
    f"{1e3 * typical['digests']:.0f} | {share:.1f} % | {best:.1f} % |\n\n"
    f"Medians of {args.rounds}; the last column takes the shortest of each. "
    f"{_machine.describe('orbax-checkpoint')}."
  )
  return int(args.limit is not None and share > args.limit)


if __name__ == "__main__":
  sys.exit(main())
