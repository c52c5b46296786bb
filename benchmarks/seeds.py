"""Runs arms of a config over several seeds and prints a Markdown table of means and ranges.

  python benchmarks/seeds.py --config=configs/eps_digits.py --workdir=runs/eps_digits \\
    --arm "EPS" --arm "all positives --config.mining.positive=all_positives"

An arm is a name, then its overrides. Finished runs in the workdir are not run again. The floors are
the first arm's.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time

import _machine

METRICS = {"recall@1": "R@1", "recall@2": "R@2", "recall@4": "R@4", "recall@8": "R@8",
           "map@r": "MAP@R", "r_precision": "R-prec", "nmi": "NMI", "f1": "F1"}  # fmt: skip
ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", required=True, help="a file in configs/")
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="one folder a run in it")
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
  parser.add_argument("--arm", action="append", required=True, help="NAME [--config.KEY=VALUE...]")
  return parser.parse_args()


def run(args: argparse.Namespace, name: str, overrides: list[str], seed: int) -> dict:
  """The results of one run, from its workdir if it is finished."""
  workdir = args.workdir / f"{name.replace(' ', '_')}-{seed}"
  results = workdir / "results.json"
  if not results.exists():
    start = time.perf_counter()
    command = [sys.executable, "-m", "jaxdml.main", f"--config={args.config}"]
    command += [f"--workdir={workdir}", f"--config.seed={seed}"]
    command += ["--config.train.report=False", *overrides]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
  return json.loads(results.read_text())


def row(name: str, results: list[dict[str, float]], metrics: list[str]) -> str:
  """One line: mean of each metric, with its range where there are several seeds."""
  cells = []
  for key in metrics:
    values = [result[key] for result in results]
    mean = sum(values) / len(values)
    spread = f" ({min(values):.3f}-{max(values):.3f})" if max(values) > min(values) else ""
    cells.append(f"{mean:.3f}{spread}")
  return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
  """Runs what is missing, then prints the table."""
  args = parse()
  rows, metrics = [], []
  for arm in args.arm:
    name, *overrides = arm.split(" --")
    results = [run(args, name, [f"--{o.strip()}" for o in overrides], seed) for seed in args.seeds]
    if not rows:
      # A config may leave some out, as eval.clustering=False does NMI and F1.
      metrics = [key for key in METRICS if key in results[0]["trained model"]]
      floors = [key for key in results[0] if key != "trained model"]
      rows += [row(floor, [result[floor] for result in results], metrics) for floor in floors]
    rows.append(row(name, [result["trained model"] for result in results], metrics))
  print("| | " + " | ".join(METRICS[key] for key in metrics) + " |")
  print("|---" * (len(metrics) + 1) + "|")
  print("\n".join(rows))
  print(f"\nMean (range) over seeds {', '.join(map(str, args.seeds))}. {_machine.describe()}")


if __name__ == "__main__":
  main()
