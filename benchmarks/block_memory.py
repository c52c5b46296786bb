"""Peak memory and speed of the margin loss, forward and backward, on a batch of 16,384.

  python benchmarks/block_memory.py
  python benchmarks/block_memory.py --batch 32768 --block-size 512

Every measurement runs in a fresh process, because the peak of the resident set only ever grows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time

import machine as machine_lib


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--batch", type=int, default=16384, help="B (default: %(default)s)")
  parser.add_argument("--dim", type=int, default=128, help="d (default: %(default)s)")
  parser.add_argument("--per-class", type=int, default=4, help="images a class (%(default)s)")
  parser.add_argument(
    "--block-size", type=int, nargs="+", default=[256],
    help="anchors at a time; 0 is the whole batch at once (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument("--repeats", type=int, default=3, help="timed calls (default: %(default)s)")
  parser.add_argument("--limit-mb", type=float, help="exit 1 if the peak of any run is above this")
  parser.add_argument("--json", help="append the figures to this file, one line a run")
  parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
  return parser.parse_args()


def peak_mb() -> float:
  """Peak resident set of this process so far, in MB (10^6 bytes)."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def best_time(fn, repeats: int) -> float:
  """Seconds of the fastest of `repeats` calls, after one that warms up."""
  import jax

  jax.block_until_ready(fn())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return min(times)


def measure(args: argparse.Namespace, block_size: int) -> dict:
  """One block size, in this process."""
  import jax
  import jax.numpy as jnp

  from jaxdml import losses

  x = jax.random.normal(jax.random.key(0), (args.batch, args.dim))
  y = jnp.arange(args.batch) // args.per_class
  jax.block_until_ready(jax.jit(jax.grad(lambda x: jnp.sum(x @ x[:8].T)))(x))
  baseline = peak_mb()
  loss = losses.create("margin", block_size=block_size or None)
  step = jax.jit(jax.value_and_grad(loss))
  start = time.perf_counter()
  value, _ = jax.block_until_ready(step(x, y))
  first = time.perf_counter() - start
  seconds = best_time(lambda: step(x, y), args.repeats)
  peak = peak_mb()
  # What the machine can do, measured last: its own memory must not count.
  side = jax.random.normal(jax.random.key(1), (4096, 4096))
  matmul = jax.jit(lambda a: a @ a)
  machine = 2 * 4096**3 / best_time(lambda: matmul(side), args.repeats) / 1e9
  flops = 6 * args.batch**2 * args.dim / seconds / 1e9
  return {
    "batch": args.batch,
    "dim": args.dim,
    "block_size": block_size or args.batch,
    "loss": float(value),
    "seconds": round(seconds, 3),
    "first_call_seconds": round(first, 3),
    "peak_mb": round(peak, 1),
    "above_baseline_mb": round(peak - baseline, 1),
    "gflops": round(flops, 1),
    "matmul_gflops": round(machine, 1),
    "share_of_matmul": round(flops / machine, 3),
    "device": jax.devices()[0].device_kind,
    "cpu": machine_lib.cpu_model(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "python": platform.python_version(),
    "jax": jax.__version__,
    "jaxdml": importlib.metadata.version("jaxdml") if _installed() else "source tree",
  }


def _installed() -> bool:
  try:
    importlib.metadata.version("jaxdml")
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


def main() -> int:
  """Runs every block size in a process of its own and prints what it took."""
  args = parse()
  if args.child is not None:
    print(json.dumps(measure(args, args.child)))
    return 0
  worst = 0.0
  for block_size in args.block_size:
    command = [sys.executable, *sys.argv, "--child", str(block_size)]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    # Only this project's directory is added: the benchmark also runs from a clone.
    env = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    if run.returncode:
      print(f"block_size {block_size}: the process ended with code {run.returncode}")
      worst = float("inf")
      continue
    figures = json.loads(run.stdout.splitlines()[-1])
    worst = max(worst, figures["peak_mb"])
    print(
      "margin loss, forward + backward, B={batch:,}, d={dim}, block_size={block_size:,}: "
      "{seconds:.2f} s (first call {first_call_seconds:.2f} s), peak memory {peak_mb:.0f} MB of "
      "the whole process ({above_baseline_mb:.0f} MB above JAX, the data and a small program), "
      "{gflops:.0f} GFLOP/s = {share_of_matmul:.0%} of a large matmul's {matmul_gflops:.0f}".format(
        **figures
      )
    )
    if block_size == args.block_size[-1]:
      print("{cpu}, {cores} cores, {device}; Python {python}, jax {jax}, jaxdml {jaxdml}".format(
        **figures
      ))  # fmt: skip
    if args.json:
      with open(args.json, "a") as file:
        file.write(json.dumps(figures) + "\n")
  if args.limit_mb and worst > args.limit_mb:
    print(f"peak memory {worst:.0f} MB is above --limit-mb {args.limit_mb:.0f}")
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
