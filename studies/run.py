"""Runs suites: python -m studies.run --suite=digits --seeds=5.

A suite is a grid of configs over losses, methods and seeds. Each cell is an ordinary run in a
folder of its own; finished cells are kept, an interrupted one goes on from its checkpoint, so give
the same command again after any interruption. First each arm's candidates are compared on held-out
training classes, then its best one runs with every seed. --task, --loss and --method pick
arms. Writes
OUT/SUITE/table.csv (one row a number), table.jsonl, tuning.json and info.json; python -m
studies.document draws them. The suite "theory" is no grid but the simulation of
studies.simulation: it writes theory.csv and theory.png.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from jaxdml import _files
from studies import cells as cells_lib
from studies import pool, simulation, table
from studies.cells import Cell
from studies.suites import SUITES, Arm, Suite

__all__ = ["main"]

THEORY = "theory"
_PICKS = ("task", "loss", "method")


def _train(cell: Cell, data_dir: str, cache: str, keep_checkpoints: bool) -> str | None:
  """Runs a cell in this process."""
  import jax

  from jaxdml import models
  from jaxdml.training import loop

  jax.config.update("jax_compilation_cache_dir", cache)
  config = cells_lib.config_of(cell)
  cell.folder.mkdir(parents=True, exist_ok=True)
  _files.write_json(cell.folder / "cell.json", cells_lib.as_json(config))
  config.data.data_dir = data_dir
  config.train.report = False  # of hundreds of runs nobody reads the pages

  def count(run: Any, _: Any) -> None:
    learns = run.setup.program.learns(run.state.params)
    cells_lib.write_count(cell, models.count_parameters(learns))

  rows = loop.train_and_evaluate(config, cell.folder, finished=count)
  # Programs of other shapes than the next cell's would pile up.
  jax.clear_caches()
  if rows is None:
    return pool.INTERRUPTED
  if not keep_checkpoints:
    shutil.rmtree(cell.folder / "checkpoints")
  return None


def _run_cells(cells: Sequence[Cell], args: argparse.Namespace, title: str) -> int:
  """Runs those not finished yet; returns how many failed."""
  stale = [cell for cell in cells if cell.folder.exists() and not cell.current()]
  if stale:
    tqdm.write(f"{title}: {len(stale)} runs were of another config and run again", file=sys.stderr)
  for cell in stale:
    shutil.rmtree(cell.folder)
  waiting = [cell for cell in cells if cell.results() is None]
  shared = (args.data_dir, str(args.out / "compiled"), args.keep_checkpoints)
  tasks = [((cell, *shared), cell.folder / "log.txt") for cell in waiting]
  failed, ended = 0, len(cells) - len(waiting)
  bar = tqdm(total=len(cells), initial=ended, desc=title, unit="run", disable=None)
  with bar:
    for done in pool.run(_train, tasks, args.workers):
      cell = waiting[done.index]
      seconds = cell.seconds() + done.seconds
      _files.write_json(cell.folder / "seconds.json", seconds)
      arm = SUITES[cell.suite].arms[cell.arm]
      ended += 1
      what = f"{ended} of {len(cells)}: {arm.task}, {arm.loss} {arm.method}, {cell.folder.name}"
      if done.error:
        failed += 1
        tqdm.write(f"FAILED {what}: {done.error}; see {cell.folder / 'log.txt'}", file=sys.stderr)
      else:
        metric = SUITES[cell.suite].metrics[0]
        score = cell.results()["trained model"][metric]
        tqdm.write(f"{what}: {metric} {score:.3f}, {done.seconds:.0f} s", file=sys.stderr)
      bar.update()
  return failed


def _wanted(arm: Arm, args: argparse.Namespace) -> bool:
  given = {name: getattr(args, name) for name in _PICKS}
  return all(values is None or getattr(arm, name) in values for name, values in given.items())


def _no_such_arm(name: str, args: argparse.Namespace) -> str | None:
  """Says what is wrong with --task, --loss and --method for a suite."""
  if name == THEORY:
    return None
  arms = SUITES[name].arms
  for field in _PICKS:
    valid, given = [getattr(arm, field) for arm in arms], getattr(args, field) or []
    if unknown := [value for value in given if value not in valid]:
      known = ", ".join(dict.fromkeys(valid))
      return f"--{field}: suite {name} has no {unknown[0]!r}; expected {known}"
  if not any(_wanted(arm, args) for arm in arms):
    return f"--task, --loss, --method: suite {name} has no arm of all that was given"
  return None


def run_suite(suite: Suite, args: argparse.Namespace) -> int:
  """Tunes, runs and writes the table of one suite; returns how many cells failed."""
  folder = args.out / suite.name
  folder.mkdir(parents=True, exist_ok=True)
  wall = time.perf_counter()
  wanted = {index for index, arm in enumerate(suite.arms) if _wanted(arm, args)}
  only = lambda by_arm: {index: value for index, value in by_arm.items() if index in wanted}
  tuned = only(cells_lib.tuning_cells(suite, args.out))
  flat = [cell for cells in tuned.values() for cell in cells]
  failed = _run_cells(flat, args, f"{suite.name}: tuning") if flat else 0
  chosen = only(cells_lib.choose(suite, tuned))
  cells = cells_lib.result_cells(suite, args.out, chosen, args.seeds)
  failed += _run_cells(cells, args, suite.name)
  rows = cells_lib.rows_of(cells)
  table.write(rows, folder / "table.csv")
  table.write(rows, folder / "table.jsonl")
  tuning = [
    {
      "task": suite.arms[cell.arm].task,
      "loss": suite.arms[cell.arm].loss,
      "arm": suite.arms[cell.arm].method,
      "candidate": dict(cell.overrides),
      "validation": (cell.results() or {}).get("trained model", {}).get(suite.metrics[0]),
      "chosen": chosen.get(cell.arm) == cell.overrides,
    }
    for cell in flat
  ]
  _files.write_json(folder / "tuning.json", tuning)
  _files.write_json(folder / "info.json", _info(suite, args, [*flat, *cells]))
  minutes = (time.perf_counter() - wall) / 60
  print(f"{suite.name}: {len(rows)} rows in {folder / 'table.csv'}, {minutes:.1f} minutes")
  return failed


def _info(suite: Suite, args: argparse.Namespace, cells: Sequence[Cell]) -> dict[str, Any]:
  from jaxdml.training import machine

  given = [(pick, value) for pick in _PICKS for value in getattr(args, pick) or ()]
  only = "".join(f" --{name}={shlex.quote(value)}" for name, value in given)
  return {
    "command": f"python -m studies.run --suite={suite.name} --seeds={args.seeds}{only}",
    "about": suite.about,
    "metrics": list(suite.metrics),
    "seeds": args.seeds,
    "runs": sum(cell.results() is not None for cell in cells),
    "seconds": round(sum(cell.seconds() for cell in cells)),
    "workers": args.workers,
    "machine": machine.describe_machine(),
    "versions": machine.describe_versions(),
  }


def _run(name: str, args: argparse.Namespace) -> int:
  if name == THEORY:
    return simulation.main(["--out", str(args.out / THEORY)])
  return run_suite(SUITES[name], args)


def _parser() -> argparse.ArgumentParser:
  listing = "\n".join(
    f"  {suite.name:12s}{suite.about} ({len(suite.arms)} arms)" for suite in SUITES.values()
  )
  listing += f"\n  {THEORY:12s}two modes a class under label noise, all positives against EPS"
  parser = argparse.ArgumentParser(
    prog="python -m studies.run",
    description=__doc__,
    epilog=f"suites:\n{listing}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--suite", action="append", required=True, choices=[*SUITES, THEORY], help="may be given again"
  )
  add("--task", action="append", help="arms of this task alone; may be given again (all)")
  add("--loss", action="append", help="arms of this loss alone; may be given again (all)")
  add("--method", action="append", help="arms of this method alone; may be given again (all)")
  add("--out", type=pathlib.Path, default=pathlib.Path("runs/studies"), help="(%(default)s)")
  add("--seeds", type=int, default=5, help="runs of each arm: seeds 0, 1, ... (%(default)s)")
  add(
    "--workers",
    type=int,
    default=1,
    help="runs at a time, each on its share of the cores (%(default)s; on CPUs as many as cores is "
    "fastest, on one GPU keep 1)",
  )
  add("--data_dir", default="", help="where the data sets are (TFDS's default)")
  add("--keep_checkpoints", action="store_true", help="else a finished run keeps its numbers only")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit status."""
  parser = _parser()
  args = parser.parse_args(argv)
  for name in ("seeds", "workers"):
    if getattr(args, name) < 1:
      parser.error(f"--{name}: expected at least 1; got {getattr(args, name)}")
  for name in args.suite:
    if message := _no_such_arm(name, args):
      parser.error(message)
  args.out = args.out.absolute()
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # As Ctrl-C: the processes save first.
  previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    failed = sum(_run(name, args) for name in dict.fromkeys(args.suite))
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 130
  finally:
    signal.signal(signal.SIGTERM, previous)
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
