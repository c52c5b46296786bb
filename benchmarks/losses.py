"""Every loss, there and back: jaxdml and pytorch-metric-learning 2.9 side by side, then us alone.

  python benchmarks/losses.py                          # all tables, about 40 minutes on 2 cores
  python benchmarks/losses.py --sizes 512 --large      # one size, no large batches
  python benchmarks/losses.py --only margin ntxent --write

Each figure is the fastest of several calls after warm-up in a process of its own, whose peak memory
is taken too (on a GPU, the device's); the two libraries take turns, on a GPU where both see one.
--turns 3 keeps the fastest of three processes, for machines that others use too. A size that the
peer could not finish, judged from its last one (time and memory grow at most with the cube and the
fourth power of B), is skipped and shown as "-". The summary's last column is the median speed-up
that a loss would have which took no longer than its three matrix products at the rate of a large
one. --json keeps every figure, and takes from that file what it already holds of this machine and
these versions. --write puts the tables into docs/benchmarks.md. Needs the extra [parity].
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import _losses_measure
import _machine
import _page

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ("torch", "pytorch-metric-learning")
SECONDS, MEGABYTES = 20.0, 16_000.0  # what one call of the peer may take before it is skipped


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--sizes", type=int, nargs="*", default=[128, 512, 1024, 2048],
    help="batches for both libraries (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--large", type=int, nargs="*", default=[8192, 32768, 65536],
    help="batches for jaxdml alone (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--turns", type=int, default=1, help="processes a figure (default: %(default)s)"
  )
  parser.add_argument("--only", nargs="+", help="names of losses (default: all)")
  parser.add_argument(
    "--side", type=int, default=4096, help="of the large product (default: %(default)s)"
  )
  parser.add_argument(
    "--json", type=pathlib.Path, help="append every figure to this file; go on from it"
  )
  parser.add_argument("--write", action="store_true", help="replace the tables in the docs")
  return parser.parse_args()


def child(
  args: argparse.Namespace, library: str, name: str, batch: int, turn: int = 0
) -> dict | None:
  """One measurement in a process of its own; None if that failed."""
  what = {"library": library, "loss": name, "batch": batch, "turn": turn, "on": args.described}
  if args.json and args.json.exists():
    for line in args.json.read_text().splitlines():
      figures = json.loads(line)
      if what.items() <= figures.items():
        return figures
  path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
  run = subprocess.run(
    [sys.executable, str(ROOT / "benchmarks" / "_losses_measure.py"), library, name, str(batch)],
    capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
  )  # fmt: skip
  if run.returncode:
    reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
    print(f"{library} {name} B={batch}: {reason}", file=sys.stderr)
    return None
  figures = json.loads(run.stdout.splitlines()[-1]) | what
  if args.json:
    with args.json.open("a") as file:
      file.write(json.dumps(figures) + "\n")
  return figures


def fastest(
  args: argparse.Namespace, libraries: tuple[str, ...], name: str, batch: int
) -> list[dict | None]:
  """A figure for each library, which take turns; None for one that failed."""
  turns = [
    [child(args, library, name, batch, turn) for library in libraries] for turn in range(args.turns)
  ]
  of_library = ([run for run in runs if run] for runs in zip(*turns, strict=True))
  return [min(runs, key=lambda run: run["seconds"], default=None) for runs in of_library]


def feasible(last: dict | None, batch: int) -> bool:
  """True if the peer can be expected to finish `batch`, from its run at a smaller one."""
  if last is None:
    return False
  growth = batch / last["batch"]
  return last["seconds"] * growth**3 < SECONDS and last["peak_mb"] * growth**2.5 < MEGABYTES


def compare(args: argparse.Namespace, names: list[str]) -> str:
  """The tables of both libraries, one a size, and the medians."""
  peers: dict[str, dict | None] = {name: {"batch": 1, "seconds": 0, "peak_mb": 0} for name in names}
  tables, summary = [], []
  rate = 1e9 * child(args, "matmul", "", args.side)["matmul_gflops"]
  for batch in args.sizes:
    lines = [
      f"**B = {batch:,}**",
      "",
      "| loss | jaxdml ms | peer ms | speed-up | jaxdml MB | peer MB | compile s |",
      "|---|---|---|---|---|---|---|",
    ]
    ratios, bounds = [], []
    for name in names:
      both = ("jaxdml", "peer") if feasible(peers[name], batch) else ("jaxdml",)
      ours, peer = [*fastest(args, both, name, batch), None][:2]
      if ours is None:
        raise SystemExit(f"jaxdml failed on {name}, B={batch}")
      peers[name] = peer
      theirs = ("-", "-", "-")
      if peer and peer["device"] != ours["device"]:
        raise SystemExit(
          f"jaxdml ran on a {ours['device']}, the peer on a {peer['device']}: install both for the "
          "same, or hide the GPU (JAX_PLATFORMS=cpu, CUDA_VISIBLE_DEVICES=)"
        )
      if peer:
        ratios.append(peer["seconds"] / ours["seconds"])
        bounds.append(peer["seconds"] * rate / _losses_measure.operations(name, batch))
        theirs = f"{1e3 * peer['seconds']:,.2f}", f"{ratios[-1]:.1f}x", f"{peer['peak_mb']:,.0f}"
      line = (
        f"| `{name}` | {1e3 * ours['seconds']:.2f} | {theirs[0]} | {theirs[1]} | "
        f"{ours['peak_mb']:.0f} | {theirs[2]} | {ours['compile_seconds']:.2f} |"
      )
      print(f"B={batch} {line}", flush=True)
      lines.append(line)
    if ratios:
      spread = [statistics.median(ratios), min(ratios), max(ratios)]
      shown = " | ".join(f"{ratio:,.1f}x" for ratio in spread)
      counts = f"{len(ratios)} | {len(names) - len(ratios)}"
      summary.append(f"| {batch:,} | {shown} | {counts} | {statistics.median(bounds):,.1f}x |")
      print(summary[-1], flush=True)
    tables.append("\n".join(lines))
  head = [
    "| B | median speed-up | smallest | largest | losses | not run by the peer | bare products |",
    "|---|---|---|---|---|---|---|",
  ]
  return "\n".join([*head, *summary]) + "\n\n" + "\n\n".join(tables)


def alone(args: argparse.Namespace, names: list[str]) -> str:
  """The table of large batches."""
  lines = [
    "| loss | B | time s | peak MB | of a large product |",
    "|---|---|---|---|---|",
  ]
  for name in names:
    for batch in args.large:
      [figures] = fastest(args, ("jaxdml",), name, batch)
      if figures is None:
        raise SystemExit(f"jaxdml failed on {name}, B={batch}")
      if "matmul_gflops" not in figures:  # small ones do not measure it beside themselves
        figures |= child(args, "matmul", "", args.side)
      rate = _losses_measure.operations(name, batch) / figures["seconds"] / 1e9
      line = (
        f"| `{name}` | {batch:,} | {figures['seconds']:.2f} | {figures['peak_mb']:.0f} | "
        f"{rate / figures['matmul_gflops']:.0%} ({rate:.0f} of {figures['matmul_gflops']:.0f} "
        "GFLOP/s) |"
      )
      print(line, flush=True)
      lines.append(line)
  return "\n".join(lines)


def main() -> None:
  """Measures, prints and, if asked, writes the tables."""
  args = parse()
  unknown = sorted(set(args.only or ()) - set(_losses_measure.NAMES))
  if args.turns < 1:
    raise SystemExit(f"--turns must be at least 1, got {args.turns}")
  if unknown:
    raise SystemExit(f"--only: no loss {unknown}; valid names: {', '.join(_losses_measure.NAMES)}")
  names = args.only or list(_losses_measure.NAMES)
  described = _machine.describe(*(PEER if args.sizes and _machine.installed(*PEER) else ()))
  args.described = described
  if args.sizes:
    table = compare(args, names) + f"\n\n{described}."
    if args.write:
      _page.write("losses", table)
  if args.large:
    table = alone(args, [n for n in names if n in _losses_measure.LARGE]) + f"\n\n{described}."
    if args.write:
      _page.write("large", table)
  print(described)


if __name__ == "__main__":
  main()
