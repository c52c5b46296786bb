"""HDML's own dials: what a run's schedule did, and what its synthetics are.

python -m studies.dials --workdir=runs/hdml_glyphs --out=runs/dials

Writes dials.json (every number), dials.png (the schedule over training, and the synthetics of the
best checkpoint) and neighbours.png (the training images nearest to pulled and synthetic negatives).
The run may still be training.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from jaxdml import commands
from jaxdml.training import read_metrics

__all__ = ["CURVES", "curves"]

CURVES = (
  "hdml/lambda",
  "hdml/trust_in_real",
  "hdml/reconstruction_error",
  "hdml/positive_distance",
  "hdml/negative_distance",
  "hdml/pull_ratio",
  "hdml/pull_share",
  "loss/real",
  "loss/synthetic",
  "loss/generator",
  "loss/soft",
  "loss/head",
)
"""The metrics of HDML that a run logs; those that an older run did not log are left out."""


def curves(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """What metrics.jsonl of a run says of HDML: name -> (steps [t], values [t]).

  Lines that hold no metric of `CURVES` (evaluations, a line that a kill cut off) are passed over.

  Raises:
    ValueError: no metrics.jsonl, or none of HDML's metrics in it.
  """
  logged = read_metrics(workdir)
  if not logged:
    raise ValueError(f"{workdir} holds no metrics.jsonl; expected the --workdir of a run with HDML")
  if "hdml/lambda" not in logged:
    raise ValueError(
      f"{workdir}: its metrics.jsonl holds no hdml/lambda: the run is one without HDML, or stopped "
      "before its first config.train.log_every"
    )
  return {name: logged[name] for name in CURVES if name in logged}


def main(argv: Sequence[str] | None = None) -> int:
  """Measures a run and writes dials.json, dials.png and neighbours.png; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.dials",
    description="Draws HDML's schedule over a run's training, and what its synthetics are.",
  )
  parser.add_argument("--workdir", required=True, help="of a run with HDML")
  parser.add_argument("--out", required=True, help="directory for the pictures and the numbers")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--batches", type=int, default=4, help="training batches looked into (4)")
  parser.add_argument("--seed", type=int, default=0, help="draws the tuples (0)")
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import training
  from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib
  from studies import dials_figure, synthetics

  out = pathlib.Path(args.out)
  try:
    run = training.restore(args.workdir, data_dir=args.data_dir)
    synthetics.check(run)
    over_training = curves(args.workdir)
    measured = synthetics.measure(run, batches=args.batches, seed=args.seed)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
      "metrics": measured.metrics,
      "curves": {
        name: {"step": steps.tolist(), "value": values.tolist()}
        for name, (steps, values) in over_training.items()
      },
    }
    (out / "dials.json").write_text(json.dumps(numbers, indent=1) + "\n")
    dials_figure.draw(over_training, measured.metrics).savefig(out / "dials.png")
    dials_figure.neighbours(run, measured).savefig(out / "neighbours.png")
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, DatasetNotPreparedError, ImageDecodeError,
    OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  for name, value in measured.metrics.items():
    print(f"{name:45s} {value:.4f}")
  print(f"wrote dials.json, dials.png and neighbours.png to {out}")
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
