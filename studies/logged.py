"""Prints what runs of a suite logged last in training: python -m studies.logged --suite=glyphs.

Tables hold what was measured on the test split. What training itself saw, HDML's dials for one, is
in each cell's metrics.jsonl: this prints the mean over seeds of the last value, as Markdown.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jaxdml import commands
from jaxdml.training import read_metrics

__all__ = ["last_values", "main"]

_METRICS = (
  "hdml/lambda", "hdml/trust_in_real", "hdml/reconstruction_error", "loss/head", "loss/soft",
  "loss/real", "loss/synthetic",
)  # fmt: skip


def last_values(workdir: pathlib.Path, metrics: Sequence[str]) -> dict[str, float]:
  """The last value of each metric that a run has logged; those that it never logs are left out.

  Raises:
    ValueError: a line that no run writes.
  """
  logged = read_metrics(workdir)
  return {name: float(logged[name][1][-1]) for name in metrics if name in logged}


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.logged",
    description="Prints what the runs of a suite logged last in training, mean over seeds.",
  )
  parser.add_argument("--suite", required=True, help="one that studies.run has run")
  parser.add_argument("--out", default="runs/studies", help="its --out (%(default)s)")
  parser.add_argument("--metrics", default=",".join(_METRICS), help="names (%(default)s)")
  args = parser.parse_args(argv)
  metrics = args.metrics.split(",")
  arms: dict[str, list[dict[str, float]]] = {}
  try:
    for path in sorted(pathlib.Path(args.out, args.suite).glob("*/*/seed-*/metrics.jsonl")):
      values = last_values(path.parent, metrics)
      if len(values) == len(metrics):
        arms.setdefault(path.parts[-3], []).append(values)
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  if not arms:
    print(
      f"error: no run of --suite={args.suite} in --out={args.out} has logged all of "
      f"{', '.join(metrics)}; run python -m studies.run first",
      file=sys.stderr,
    )
    return 2
  print(f"| arm | seeds | {' | '.join(metrics)} |")
  print("|---" * (len(metrics) + 2) + "|")
  for arm, runs in arms.items():
    means = [sum(run[name] for run in runs) / len(runs) for name in metrics]
    print(f"| {arm} | {len(runs)} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
