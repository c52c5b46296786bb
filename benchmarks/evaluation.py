"""Retrieval metrics and k-means beside faiss and the bare product, and their memory.

  python benchmarks/evaluation.py --quick          # 8,000 items, for trying: two minutes
  python benchmarks/evaluation.py --write          # 60,502 x 512 and 200,000 x 128: half an hour
  python benchmarks/evaluation.py --write --large-kmeans   # and 11,316 clusters: half an hour more

Recall@1, 10, 100, 1000 and MAP@R of embeddings with as many items and classes as the test part of
Stanford Online Products. In one process, in turns, the fastest of --repeats counts: ours (from
arrays to all metrics, compilation left out; "first call" has it), faiss's exact index with the
same K and the same metrics from its neighbours (once), and the bare product with the largest score
of each row, in the same blocks. Memory: the peak of a fresh process less what it held before the
call, embeddings and JAX included. --write puts the tables into docs/benchmarks.md. Needs faiss-cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import _machine
import _page

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOP, LARGE, QUICK = (60_502, 512, 11_316), (200_000, 128, 37_000), (8_000, 512, 1_500)
TINY = (1_200, 16, 300)


def child(what: str, *numbers: int) -> dict[str, Any]:
  """One measurement in a process of its own."""
  path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
  script = str(ROOT / "benchmarks" / "_evaluation_measure.py")
  run = subprocess.run(
    [sys.executable, script, what, *map(str, numbers)],
    stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
  )  # fmt: skip
  if run.returncode:
    raise SystemExit(f"{what} {numbers}: exit code {run.returncode}")
  return json.loads(run.stdout.splitlines()[-1])


def size_name(size: tuple[int, int, int]) -> str:
  """Returns a size as it is shown."""
  return f"{size[0]:,} x {size[1]}, {size[2]:,} classes"


def beside_faiss(size: tuple[int, int, int], repeats: int) -> str:
  """The table of times."""
  figures = child("times", *size, repeats)
  seconds = figures["seconds"]
  lines = [
    "| items | bare product s | jaxdml s | of the product | first call s | faiss s | of faiss "
    "| largest difference from faiss |",
    "|---|---|---|---|---|---|---|---|",
    f"| {size_name(size)} | {seconds['matmul']:.2f} | {seconds['jaxdml']:.2f} | "
    f"{seconds['jaxdml'] / seconds['matmul']:.2f}x | {figures['first']:.2f} | "
    f"{seconds['faiss']:.2f} | {seconds['jaxdml'] / seconds['faiss']:.2f}x | "
    f"{figures['gap']:.1e} |",
  ]
  print("\n".join(lines), flush=True)
  return "\n".join(lines)


def bounded(sizes: list[tuple[int, int, int]]) -> str:
  """The table of memory."""
  lines = [
    "| items | embeddings MB | beyond them MB | s | R@1 | R@10 | R@100 | R@1000 | MAP@R |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for size in sizes:
    figures = child("memory", *size)
    shown = " | ".join(f"{value:.3f}" for value in figures["metrics"].values())
    lines.append(
      f"| {size_name(size)} | {figures['embeddings_mb']:.0f} | {figures['beyond_mb']:.0f} | "
      f"{figures['seconds']:.1f} | {shown} |"
    )
    print(lines[-1], flush=True)
  return "\n".join(lines)


def main() -> None:
  """Measures, prints and, if asked, writes the tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="a small size, nothing written")
  parser.add_argument(
    "--repeats", type=int, default=2, help="of what is timed in turns (default: %(default)s)"
  )
  parser.add_argument("--no-kmeans", action="store_true", help="retrieval alone")
  parser.add_argument("--large-kmeans", action="store_true", help="also 11,316 clusters")
  parser.add_argument("--write", action="store_true", help="replace the tables in the docs")
  parser.add_argument("--tiny", action="store_true", help="sizes that show only that it runs")
  args = parser.parse_args()
  described = _machine.describe("faiss-cpu")
  small = TINY if args.tiny else QUICK if args.quick else None
  times = beside_faiss(small or SOP, args.repeats)
  memory = bounded([small] if small else [SOP, LARGE])
  tables = {"retrieval": f"{times}\n\n{memory}\n\n{described}."}
  if not args.no_kmeans:
    import evaluation_kmeans

    tiny = evaluation_kmeans.TINY if args.tiny else evaluation_kmeans.SMALL
    rows = evaluation_kmeans.table(tiny)
    if args.large_kmeans:
      rows += "\n" + "\n".join(evaluation_kmeans.table(evaluation_kmeans.LARGE).splitlines()[2:])
    tables["kmeans"] = f"{rows}\n\n{described}."
  print(f"\n{described}.")
  if args.write and not small:
    for name, text in tables.items():
      _page.write(name, text)


if __name__ == "__main__":
  main()
