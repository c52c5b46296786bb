"""Prints what `pip install jaxdml` brings, and what importing parts of it imports.

  python benchmarks/footprint.py [--write]

Packages and megabytes are those of the requirements in setup.cfg without extras, as pip recorded
their files in this environment, its compiled .pyc among them. Each import runs in processes of its
own, of which the fastest counts, in milliseconds of one core; MB is the peak memory of the process,
Python's own among it. A process that has no .pyc yet would take longer.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.metadata
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable

import _machine
import _page
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
MATHEMATICS = ("jax", "numpy")
CARD = (
  "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "ml-collections",
  "chex",
)  # fmt: skip
"""What the project is built on; the rest serves a part of it."""
IMPORTS = {
  "jax alone": "import jax.numpy",
  "losses, mining": "import jaxdml.losses, jaxdml.mining",
  "hdml": "import jaxdml.losses, jaxdml.mining, jaxdml.hdml",
  "evaluation": "from jaxdml.evaluation import retrieval_metrics",
  "models": "from jaxdml.models import create",
  "data": "from jaxdml.data import load",
  "search in memory": "from jaxdml.search import Index",
  "search on disk": "from jaxdml.search import Store",
  "inference": "from jaxdml.inference import load",
  "training": "from jaxdml.training import train_and_evaluate",
  "report": "from jaxdml.report import build, write",
  "jaxdml --help": "from jaxdml.commands import main; main(['--help'])",
}
TOLD = (
  "jax", "flax", "orbax", "tensorflow_datasets", "grain", "cv2", "matplotlib", "pyarrow", "bokeh",
  "sklearn", "tensorboardX",
)  # fmt: skip
_MEASURE = """
import contextlib, io, resource, sys, time
before, start = len(sys.modules), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
  {statement}
taken = time.process_time() - start
print(1e3 * taken, len(sys.modules) - before, end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, end=" ")
print(*(name for name in {told} if name in sys.modules))
"""


def brought(names: Iterable[str]) -> set[str]:
  """All packages that some packages require, they themselves among them."""
  waiting, found = [Requirement(name) for name in names], set()
  while waiting:
    asked = waiting.pop()
    package = (canonicalize_name(asked.name), *sorted(asked.extras))
    if package in found:
      continue
    found.add(package)
    for line in importlib.metadata.requires(asked.name) or ():
      needed, extras = Requirement(line), ("", *asked.extras)
      if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
        waiting.append(needed)
  return {name for name, *_ in found}


def megabytes(packages: Iterable[str]) -> float:
  """The files of packages on disk."""
  paths = (file.locate() for name in packages for file in importlib.metadata.files(name) or ())
  return sum(os.path.getsize(path) for path in paths if os.path.exists(path)) / 1e6


def packages_table() -> str:
  """What all brings, what the mathematics needs, and what each other requirement adds alone."""
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  required = config["options"]["install_requires"].split()
  everything = brought(required)
  lines = ["| | packages | MB |", "|---|---|---|"]
  row = lambda text, found: lines.append(f"| {text} | {len(found)} | {megabytes(found):,.0f} |")
  row("`pip install jaxdml`", everything)
  row("the mathematics: jax and numpy", brought(MATHEMATICS))
  row("those and flax, optax, orbax, TFDS, ml-collections, chex", brought(CARD))
  for name in required:
    if Requirement(name).name not in CARD:
      only = everything - brought(other for other in required if other != name)
      if megabytes(only) >= 1:
        row(f"{Requirement(name).name}, and what it alone brings", only)
  return "\n".join(lines)


def imports_table(names: Iterable[str], rounds: int) -> str:
  """Time, modules and memory of imports."""
  lines = ["| import | CPU ms | modules | MB | of the large ones |", "|---|---|---|---|---|"]
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  for name in names:
    runs = [
      subprocess.run(
        [sys.executable, "-c", _MEASURE.format(statement=IMPORTS[name], told=TOLD)],
        env=environment, capture_output=True, text=True, check=True,
      ).stdout.split()
      for _ in range(rounds)
    ]  # fmt: skip
    ms, modules, memory, *large = min(runs, key=lambda run: float(run[0]))
    told = ", ".join(large) or "none"
    lines.append(f"| {name} | {float(ms):,.0f} | {modules} | {float(memory):.0f} | {told} |")
  return "\n".join(lines)


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rounds", type=int, default=5, help="processes a row (default: 5)")
  parser.add_argument("--only", nargs="+", default=list(IMPORTS), choices=IMPORTS, metavar="NAME")
  parser.add_argument("--write", action="store_true", help="put the tables into the docs")
  args = parser.parse_args()
  text = f"{packages_table()}\n\n{imports_table(args.only, args.rounds)}\n\n{_machine.describe()}."
  print(text)
  if args.write:
    _page.write("footprint", text)


if __name__ == "__main__":
  main()
