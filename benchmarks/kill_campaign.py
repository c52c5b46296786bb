"""kill -9 at random moments, and every resumed run ends as the uninterrupted one, bit by bit.

  python benchmarks/kill_campaign.py [--kills 30] [--early 10] [--steps 60] [--data_dir DIR]

Of the kills, `--early` come before the first checkpoint, the others at random moments after
it: while steps run, while an evaluation does, in the middle of a save. After each kill the same
command is given again, in the same workdir, until it has been killed as often as one run is to be;
then it may end, and is compared with the run that nobody touched: parameters, optimizer state and
what the loop remembers, metrics.jsonl but for the two columns that are times, results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import _machine
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMES = ("images_per_second", "data_wait", "crc")  # and the check sum over these
KILLS_A_RUN = 5


def command(workdir: pathlib.Path, steps: int, data_dir: str | None) -> list[str]:
  """A run of seconds: HDML on digits, with an evaluation and checkpoints every few steps."""
  keys = {
    "data.batch_size": 64, "data.images_per_class": 32, "train.duration": f"{steps} steps",
    "train.evaluate_every": "20 steps", "train.checkpoint_every": "5 steps",
    "train.log_every": "5 steps", "hdml.enabled": True, "hdml.slots": 4, "hdml.window": "7 steps",
    "train.report": False, "eval.diagnostics": False,
  }  # fmt: skip
  if data_dir:
    keys["data.data_dir"] = data_dir
  config = [f"--config={ROOT / 'configs' / 'eps_digits.py'}", f"--workdir={workdir}"]
  overrides = [f"--config.{key}={value}" for key, value in keys.items()]
  return [sys.executable, "-m", "jaxdml.main", *config, *overrides]


def start(arguments: list[str], log: pathlib.Path) -> subprocess.Popen:
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  with log.open("a") as file:
    return subprocess.Popen(arguments, stdout=file, stderr=file, env=environment)


def kill_at(process: subprocess.Popen, moment: float) -> bool:
  """Kills after so many seconds; False if the command ended before."""
  try:
    process.wait(timeout=max(moment, 0))
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True
  return False


def has_checkpoint(workdir: pathlib.Path) -> bool:
  return any((workdir / "checkpoints").glob("*/[0-9]*/_CHECKPOINT_METADATA"))


def contents(workdir: pathlib.Path) -> dict[str, object]:
  """What a run leaves: every array of its checkpoints by name, and its files."""
  import orbax.checkpoint as ocp

  found: dict[str, object] = {}
  for path in sorted((workdir / "checkpoints").glob("[bl]*/[0-9]*")):
    name = f"{path.parent.name}/{path.name}"
    with ocp.StandardCheckpointer() as reader:
      flat = ocp.tree.to_flat_dict(reader.restore(path / "state"), sep="/")
    found |= {f"{name}/{key}": np.asarray(value).tobytes() for key, value in flat.items()}
    found[f"{name}/progress"] = json.loads((path / "progress" / "metadata").read_text())
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found["metrics.jsonl"] = [{k: v for k, v in e.items() if k not in TIMES} for e in lines]
  found["results.json"] = (workdir / "results.json").read_bytes()
  return found


def difference(one: dict[str, object], other: dict[str, object]) -> list[str]:
  return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def main() -> int:
  """Runs the campaign; prints a line a run; returns 1 if one ended otherwise."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=30, help="in all (%(default)s)")
  parser.add_argument("--early", type=int, default=10, help="before a checkpoint (%(default)s)")
  parser.add_argument("--steps", type=int, default=60, help="of a run (%(default)s)")
  parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
  parser.add_argument("--data_dir", help="where digits are, or will be built")
  args = parser.parse_args()
  rng, wrong = random.Random(args.seed), 0
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    whole = root / "whole"
    began = time.perf_counter()
    process = start(command(whole, args.steps, args.data_dir), root / "whole.log")
    first = 0.0  # seconds to the first checkpoint
    while process.poll() is None:
      if not first and has_checkpoint(whole):
        first = time.perf_counter() - began
      time.sleep(0.01)
    length = time.perf_counter() - began
    if process.returncode:
      print((root / "whole.log").read_text())
      return 1
    right = contents(whole)
    print(f"the uninterrupted run: {length:.1f} s, its first checkpoint after {first:.1f} s")
    early, late, number = min(args.early, args.kills), max(args.kills - args.early, 0), 0
    while early + late > 0:
      number += 1
      workdir, log = root / f"run{number}", root / f"run{number}.log"
      told: list[str] = []
      while len(told) < KILLS_A_RUN and early + late > 0:
        before = early > 0 and not has_checkpoint(workdir)
        moment = rng.uniform(0.05, 1.0) * first if before else rng.uniform(0.3, 1.0) * length
        began = time.perf_counter()
        process = start(command(workdir, args.steps, args.data_dir), log)
        if not kill_at(process, moment):
          # It was done: the machine may be less busy now. The next moments come from another run.
          length = min(length, time.perf_counter() - began)
          break
        was_early = not has_checkpoint(workdir)
        if was_early:
          early = max(early - 1, 0)
        else:
          late = max(late - 1, 0)
        told.append(f"{moment:.1f}{' early' if was_early else ''}")
      process = start(command(workdir, args.steps, args.data_dir), log)
      status = process.wait()
      said = log.read_text()
      differing = difference(right, contents(workdir)) if status == 0 else [f"exit {status}"]
      if "Traceback" in said:
        differing.append("a traceback")
      wrong += bool(differing)
      print(
        f"run {number}, killed after {', '.join(told) or 'nothing'} s: "
        f"{'the same, bit by bit' if not differing else 'DIFFERS in ' + ', '.join(differing[:5])}",
        flush=True,
      )
      if differing:
        print(said[-4000:])
  print(f"\n{_machine.describe()}.")
  return int(wrong > 0)


if __name__ == "__main__":
  sys.exit(main())
