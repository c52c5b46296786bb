"""Prints what runs of a suite logged last in training: python -m studies.logged --suite=glyphs.

Tables hold what was measured on the test split. What training itself saw, HDML's dials for one, is
in each cell's metrics.jsonl: this prints the mean over seeds of the last value, as Markdown. With
--figure=PNG it draws each metric over training instead, a line an arm; a metric may be a pattern:

  python -m studies.logged --suite=curves --figure=curves.png --smooth=5 \\
    --metrics='eval/*/map@r,loss/real,grad_norm,hdml/lambda,hdml/trust_in_real'
"""

from __future__ import annotations

import argparse
import fnmatch
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdml import commands
from jaxdml.training import read_metrics
from studies import draw

__all__ = ["last_values", "main", "over_training"]

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


Curve = tuple[np.ndarray, np.ndarray]


def over_training(
  runs: Mapping[str, Sequence[pathlib.Path]], metrics: Sequence[str], smooth: int = 1
) -> dict[str, dict[str, Curve]]:
  """What runs logged: metric -> arm -> (steps [t], values [seeds, t]), NaN where a seed has none.

  Args:
    runs: arm -> the workdirs of its seeds.
    metrics: names, or patterns of which the first name that fits is taken.
    smooth: each value is the mean of up to so many logged ones, the last of them its own step's;
      those of evaluations stay.

  Raises:
    ValueError: a line that no run writes.
  """
  panels: dict[str, dict[str, Curve]] = {metric: {} for metric in metrics}
  for arm, workdirs in runs.items():
    logged = [read_metrics(workdir) for workdir in workdirs]
    for metric in metrics:
      found = [next(iter(fnmatch.filter(sorted(run), metric)), None) for run in logged]
      curves = [run[name] for run, name in zip(logged, found, strict=True) if name is not None]
      if not curves:
        continue
      steps = np.unique(np.concatenate([of for of, _ in curves]))
      values = np.full((len(curves), len(steps)), np.nan)
      for row, (of, value) in zip(values, curves, strict=True):
        if smooth > 1 and not metric.startswith("eval/"):
          value = [np.mean(value[max(i - smooth, 0) : i]) for i in range(1, len(value) + 1)]
        row[np.searchsorted(steps, of)] = value
      panels[metric][arm] = steps, values
  return panels


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.logged",
    description="Prints what the runs of a suite logged last in training, mean over seeds.",
  )
  parser.add_argument("--suite", required=True, help="one that studies.run has run")
  parser.add_argument("--out", default="runs/studies", help="its --out (%(default)s)")
  parser.add_argument("--metrics", default=",".join(_METRICS), help="names (%(default)s)")
  parser.add_argument("--figure", help="a PNG to draw the metrics over training into")
  parser.add_argument("--smooth", type=int, default=1, help="logged values a mean (%(default)s)")
  args = parser.parse_args(argv)
  metrics = args.metrics.split(",")
  paths = sorted(pathlib.Path(args.out, args.suite).glob("*/*/seed-*/metrics.jsonl"))
  arms: dict[str, list[dict[str, float]]] = {}
  runs: dict[str, list[pathlib.Path]] = {}
  try:
    for path in paths if args.figure else ():
      runs.setdefault(path.parts[-3].partition("-")[2].replace("-", " "), []).append(path.parent)
    if runs:
      panels = over_training(runs, metrics, args.smooth)
      draw.save(draw.curves(panels), args.figure)
      print(f"wrote {args.figure}")
      return 0
    for path in paths:
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
