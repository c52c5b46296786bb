"""Prints how much of the package one eager call of a loss enters: files, frames and time.

  python benchmarks/call_path.py
  PYTHONPATH=/path/to/another/clone python benchmarks/call_path.py --rounds 50

A frame is a call of a function of jaxdml, lambdas and comprehensions included (Python 3.12 runs
comprehensions in the frame that holds them); a file is one that such a frame's code stands in. They
are counted by sys.setprofile on one call after a first, warm one, and do not depend on what is in
JAX's caches: a loss builds its expression anew at each call. The miners are made in the call, as a
reader would write it. Exits 1 where a call enters more than it may: a path that a person reads.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxdml
from jaxdml import losses, mining

PACKAGE = pathlib.Path(jaxdml.__file__).resolve().parent
SHORTEST = "margin, nearest_positive"


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--batch", type=int, default=64, help="examples, 4 a class (default: %(default)s)")
  add("--dim", type=int, default=32, help="default: %(default)s")
  add("--rounds", type=int, default=100, help="timed calls of each (default: %(default)s)")
  add("--most-files", type=int, default=10, help="that a call may enter (default: %(default)s)")
  add("--most-frames", type=int, default=90, help="default: %(default)s")
  add("--most-files-of-margin", type=int, default=8, help="default: %(default)s")
  add("--most-frames-of-margin", type=int, default=45, help="default: %(default)s")
  return parser.parse_args()


def calls(batch: int, dim: int) -> dict[str, Callable[[], jax.Array]]:
  """Returns the calls by name, each of no argument."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, dim)), jnp.float32)
  y = jnp.arange(batch) // 4
  params = losses.init("proxy_nca", jax.random.key(0), batch // 4, dim)
  chain = lambda: mining.chain(mining.nearest_positive, mining.semihard_negative)
  return {
    SHORTEST: lambda: losses.margin_loss(x, y, mining_fn=mining.nearest_positive),
    "triplet, EPS + semihard": lambda: losses.triplet_loss(x, y, mining_fn=chain()),
    "triplet, EPS + semihard, blocks of 32": lambda: losses.triplet_loss(
      x, y, mining_fn=chain(), block_size=32
    ),
    "proxy_nca": lambda: losses.proxy_nca_loss(x, y, params=params),
  }


def entered(call: Callable[[], jax.Array]) -> tuple[list[str], int]:
  """Returns the files of the package that a call enters, and how many frames of theirs."""
  frames = []

  def look(frame, event, _):
    path = pathlib.Path(frame.f_code.co_filename)
    if event == "call" and path.is_relative_to(PACKAGE):
      frames.append(str(path.relative_to(PACKAGE)))

  sys.setprofile(look)
  try:
    call()
  finally:
    sys.setprofile(None)
  return sorted(set(frames)), len(frames)


def milliseconds(call: Callable[[], jax.Array], rounds: int) -> float:
  """Returns the median time of a call, after two that are not counted."""
  times = []
  for _ in range(rounds + 2):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    times.append(1e3 * (time.perf_counter() - begin))
  return statistics.median(times[2:])


def main() -> None:
  """Prints a line a call."""
  args, too_long = parse(), []
  print(f"{PACKAGE}, {args.batch} x {args.dim}")
  print(f"{'loss':40s}{'files':>7s}{'frames':>8s}{'ms':>9s}")
  for name, call in calls(args.batch, args.dim).items():
    call()
    files, frames = entered(call)
    print(f"{name:40s}{len(files):7d}{frames:8d}{milliseconds(call, args.rounds):9.2f}", flush=True)
    most_files, most_frames = args.most_files, args.most_frames
    if name == SHORTEST:
      most_files, most_frames = args.most_files_of_margin, args.most_frames_of_margin
    if len(files) > most_files or frames > most_frames:
      too_long.append(
        f"{name}: {len(files)} files and {frames} frames are more than {most_files} and "
        f"{most_frames}: {', '.join(files)}"
      )
  if too_long:
    raise SystemExit("\n".join(too_long))


if __name__ == "__main__":
  main()
