"""k-means beside faiss.Kmeans, at equal iterations: seconds, objective, NMI.

  python benchmarks/evaluation_kmeans.py            # 100 clusters of 6,000 x 512: under a minute
  python benchmarks/evaluation_kmeans.py --large    # 11,316 clusters of 60,502 x 512: 20 minutes

Both libraries run in this process on all cores, in turns, the fastest of --repeats counts (the
large size runs once, our compilation included). A run ends with the assignment of all points, its
seeding is part of it. faiss is told to use every point (by default it trains on at most 256 a
cluster; the sizes here have fewer, so nothing changes) and starts from random points, its default.
Both do --iterations, whether or not anything still moves; "stops" is ours when it ends by itself.
The objective is the sum of squared distances to the nearest center, computed anew from the centers
in the same way for both. Points have unit norm: "clustered" are one draw or more around each center
of a 32-dimensional space, "without structure" is uniform on the sphere. Needs faiss-cpu.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import machine
import numpy as np

from jaxdml import evaluation

SMALL, LARGE = (6_000, 512, 100), (60_502, 512, 11_316)
LATENT, SPREAD = 32, 0.5
HEAD = (
  "| points, clusters | data | jaxdml s | faiss s | of faiss | objective / faiss's | NMI | "
  "faiss's NMI | stops: iterations, s |\n|---|---|---|---|---|---|---|---|---|"
)


class Result(NamedTuple):
  """What one run took and found."""

  seconds: float
  centers: np.ndarray
  assignment: np.ndarray
  iterations: int


def points(n: int, d: int, k: int, clustered: bool, seed: int = 0) -> tuple[np.ndarray, Any]:
  """Returns points [n, d] of unit norm and their classes (None without structure)."""
  rng = np.random.default_rng(seed)
  if not clustered:
    return unit(rng.normal(size=(n, d))), None
  labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
  latent = rng.normal(size=(k, LATENT))[labels] + SPREAD * rng.normal(size=(n, LATENT))
  basis, _ = np.linalg.qr(rng.normal(size=(d, LATENT)))
  return unit(latent @ basis.T + 0.02 * rng.normal(size=(n, d))), labels


def unit(x: np.ndarray) -> np.ndarray:
  """Rows at unit norm, float32, contiguous."""
  return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def of_jaxdml(x: np.ndarray, k: int, iterations: int, tolerance: float, seed: int) -> Result:
  """Ours; below zero no tolerance is ever met."""
  start = time.perf_counter()
  found = evaluation.kmeans(x, k, seed=seed, max_iterations=iterations, tolerance=tolerance)
  seconds = time.perf_counter() - start
  return Result(seconds, found.centers, found.assignment, found.iterations)


def of_faiss(x: np.ndarray, k: int, iterations: int, seed: int) -> Result:
  """The peer, and the assignment to its centers."""
  import faiss

  start = time.perf_counter()
  found = faiss.Kmeans(
    x.shape[1], k, niter=iterations, seed=seed, max_points_per_centroid=len(x),
    min_points_per_centroid=1,
  )  # fmt: skip
  found.train(x)
  _, assignment = found.index.search(x, 1)
  return Result(time.perf_counter() - start, found.centroids, assignment[:, 0], iterations)


def objective(x: np.ndarray, centers: np.ndarray) -> float:
  """The sum of squared distances to the nearest center."""
  total, squares = 0.0, np.square(centers, dtype=np.float64).sum(1)
  for block in np.array_split(x, -(-len(x) // 1024)):
    nearest = (squares - 2 * (block @ centers.T)).min(1)
    total += float((nearest + np.square(block, dtype=np.float64).sum(1)).sum())
  return total


def row(size: tuple[int, int, int], clustered: bool, iterations: int, repeats: int) -> str:
  """Measures one size on one kind of data; a line of the table."""
  n, d, k = size
  x, labels = points(n, d, k, clustered)
  ours, theirs, stopped = [], [], []
  for seed in range(repeats):
    ours.append(of_jaxdml(x, k, iterations, -1.0, seed))
    theirs.append(of_faiss(x, k, iterations, seed))
    stopped.append(of_jaxdml(x, k, iterations, 0.0, seed))
  fastest = [min(runs, key=lambda run: run.seconds) for runs in (ours, theirs, stopped)]
  objectives = [np.mean([objective(x, run.centers) for run in runs]) for runs in (ours, theirs)]
  scores = ["-", "-"]
  if labels is not None:
    scores = [
      f"{np.mean([evaluation.nmi(labels, run.assignment) for run in runs]):.3f}"
      for runs in (ours, theirs)
    ]
  return (
    f"| {n:,} x {d}, {k:,} | {'clustered' if clustered else 'without structure'} | "
    f"{fastest[0].seconds:.2f} | {fastest[1].seconds:.2f} | "
    f"{fastest[0].seconds / fastest[1].seconds:.2f}x | {objectives[0] / objectives[1]:.4f} | "
    f"{scores[0]} | {scores[1]} | {fastest[2].iterations}, {fastest[2].seconds:.2f} |"
  )


def table(large: bool = False, iterations: int = 25, repeats: int = 5) -> str:
  """Measures every line of one size, printing as it goes, and returns the table."""
  lines = [HEAD]
  print(HEAD)
  for clustered in (True, False):
    lines.append(row(LARGE if large else SMALL, clustered, iterations, 1 if large else repeats))
    print(lines[-1], flush=True)
  return "\n".join(lines)


def main() -> None:
  """Measures and prints one size."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--large", action="store_true", help="11,316 clusters instead of 100")
  parser.add_argument(
    "--iterations", type=int, default=25, help="of Lloyd's algorithm, both (default: %(default)s)"
  )
  parser.add_argument(
    "--repeats", type=int, default=5, help="runs at the small size (default: %(default)s)"
  )
  args = parser.parse_args()
  table(args.large, args.iterations, args.repeats)
  print(f"\n{machine.describe('faiss-cpu')}.")


if __name__ == "__main__":
  main()
