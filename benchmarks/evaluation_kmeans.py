"""k-means beside faiss.Kmeans, at equal iterations: seconds, objective, NMI.

  python benchmarks/evaluation_kmeans.py            # 100 clusters of 6,000 x 512: under a minute
  python benchmarks/evaluation_kmeans.py --large    # 11,316 clusters of 60,502 x 512: 20 minutes

Both libraries run in this process on all cores, in turns, the fastest of --repeats counts (the
large size runs once, our compilation included). A run ends with the assignment of all points, its
seeding is part of it; both take --iterations at most and stop when nothing moves any more. faiss
is told to use every point (by default it trains on at most 256 a cluster; the sizes here have
fewer, so nothing changes) and starts from random points, its default. "From the same points" has
both make as many iterations, 8 (3 at the large size), from the same random points and assign, so
that the same products are taken. The objective is
the sum of squared distances to the nearest center, computed anew from the centers in the same way
for both. Points have unit norm: "clustered" are one draw or more around each center of a
32-dimensional space, "without structure" is uniform on the sphere. Needs faiss-cpu.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import _machine
import numpy as np

from jaxdml import evaluation

SMALL, LARGE, TINY = (6_000, 512, 100), (60_502, 512, 11_316), (300, 40, 5)
EQUAL = {SMALL: 8, LARGE: 3, TINY: 1}  # iterations from the same points: before faiss stops
LATENT, SPREAD = 32, 0.5
HEAD = (
  "| points, clusters | data | jaxdml: s, iterations | faiss: s, iterations | of faiss | "
  "from the same points | objective / faiss's | NMI | faiss's NMI |\n"
  "|---|---|---|---|---|---|---|---|---|"
)


class Result(NamedTuple):
  """Time and findings of one run."""

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


def of_jaxdml(x: np.ndarray, k: int, iterations: int, seed: int, centers: Any = None) -> Result:
  """Ours, until nothing moves; from given centers it makes all iterations."""
  start = time.perf_counter()
  found = evaluation.kmeans(
    x, k, seed=seed, max_iterations=iterations, centers=centers,
    tolerance=0.0 if centers is None else -1.0,
  )  # fmt: skip
  seconds = time.perf_counter() - start
  return Result(seconds, found.centers, found.assignment, found.iterations)


def of_faiss(x: np.ndarray, k: int, iterations: int, seed: int, centers: Any = None) -> Result:
  """The peer, and the assignment to its centers."""
  import faiss

  start = time.perf_counter()
  found = faiss.Kmeans(
    x.shape[1], k, niter=iterations, seed=seed, max_points_per_centroid=len(x),
    min_points_per_centroid=1,
  )  # fmt: skip
  found.train(x, init_centroids=centers)
  _, assignment = found.index.search(x, 1)
  seconds = time.perf_counter() - start
  return Result(seconds, found.centroids, assignment[:, 0], len(found.obj))


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
  start = x[np.random.default_rng(1).permutation(n)[:k]]
  runs: list[list[Result]] = [[], [], [], []]
  for seed in range(repeats):
    runs[0].append(of_jaxdml(x, k, iterations, seed))
    runs[1].append(of_faiss(x, k, iterations, seed))
    runs[2].append(of_jaxdml(x, k, EQUAL[size], seed, start))
    runs[3].append(of_faiss(x, k, EQUAL[size], seed, start))
  fastest = [min(each, key=lambda run: run.seconds) for each in runs]
  if fastest[2].iterations != fastest[3].iterations:
    raise SystemExit(f"iterations differ: {fastest[2].iterations} and {fastest[3].iterations}")
  ours, theirs = ([objective(x, run.centers) for run in each] for each in runs[:2])
  scores = ["-", "-"]
  if labels is not None:
    mean_nmi = lambda each: np.mean([evaluation.nmi(labels, run.assignment) for run in each])
    scores = [f"{mean_nmi(each):.3f}" for each in runs[:2]]
  shown = [f"{run.seconds:.2f}, {run.iterations}" for run in fastest[:2]]
  return (
    f"| {n:,} x {d}, {k:,} | {'clustered' if clustered else 'without structure'} | {shown[0]} | "
    f"{shown[1]} | {fastest[0].seconds / fastest[1].seconds:.2f}x | "
    f"{fastest[2].seconds / fastest[3].seconds:.2f}x | {np.mean(ours) / np.mean(theirs):.4f} | "
    f"{scores[0]} | {scores[1]} |"
  )


def table(size: tuple[int, int, int], iterations: int = 25, repeats: int = 5) -> str:
  """Measures every line of one size, printing as it goes, and returns the table."""
  lines = [HEAD]
  print(HEAD)
  for clustered in (True, False):
    lines.append(row(size, clustered, iterations, repeats if size == SMALL else 1))
    print(lines[-1], flush=True)
  return "\n".join(lines)


def main() -> None:
  """Measures and prints one size."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--large", action="store_true", help="11,316 clusters instead of 100")
  parser.add_argument("--tiny", action="store_true", help="a size that shows only that it runs")
  parser.add_argument(
    "--iterations", type=int, default=25, help="of Lloyd's algorithm, both (default: %(default)s)"
  )
  parser.add_argument(
    "--repeats", type=int, default=5, help="runs at the small size (default: %(default)s)"
  )
  args = parser.parse_args()
  size = LARGE if args.large else TINY if args.tiny else SMALL
  table(size, args.iterations, args.repeats)
  print(f"\n{_machine.describe('faiss-cpu')}.")


if __name__ == "__main__":
  main()
