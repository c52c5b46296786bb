"""One measurement of retrieval metrics in this process; prints a line of JSON.

  python benchmarks/_evaluation_measure.py times|memory ROWS DIM CLASSES [REPEATS]

`benchmarks/evaluation.py` calls it; the libraries are imported only where they are measured.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

KS = (1, 10, 100, 1000)
BLOCK, TILE = 1024, 512  # those of jaxdml/evaluation/counting.py on a CPU


def data(n: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings [n, d] of unit norm around their classes' centers, and labels, 2 items or more."""
  rng = np.random.default_rng(0)
  labels = np.concatenate([np.arange(classes)] * 2 + [rng.integers(0, classes, n - 2 * classes)])
  rng.shuffle(labels)
  # Cosines within a class are 3.8 standard deviations of those between classes: neither all nor
  # nothing is found.
  cosine = min(3.8 / d**0.5, 0.9)
  weight = np.float32((cosine / (1 - cosine)) ** 0.5)
  centers = rng.standard_normal((classes, d), np.float32)
  x = rng.standard_normal((n, d), np.float32)
  for start in range(0, n, 4096):
    rows = x[start : start + 4096]
    rows += weight * centers[labels[start : start + 4096]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return x, labels


def peak_mb() -> float:
  """Peak resident set of this process so far, in MB (10^6 bytes)."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def held_mb() -> float:
  """Resident set of this process now; where /proc is missing, its peak so far."""
  status = pathlib.Path("/proc/self/statm")
  if not status.exists():
    return peak_mb()
  return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
  """Seconds that a call took, and what it returned."""
  start = time.perf_counter()
  result = fn()
  return time.perf_counter() - start, result


def bare_matmul(x: np.ndarray) -> Callable[[], Any]:
  """The product of all rows with all rows in the same blocks, and the largest of each."""
  import jax
  import jax.numpy as jnp
  from jax import lax

  def blocks(size: int) -> jax.Array:
    padded = np.zeros((-(-len(x) // size) * size, x.shape[1]), np.float32)
    padded[: len(x)] = x
    return jnp.asarray(padded.reshape(-1, size, x.shape[1]))

  @jax.jit
  def run(queries, tiles):
    def one(block):
      def body(best, tile):
        scores = jnp.matmul(block, tile.T, precision=lax.Precision.HIGHEST)
        return jnp.maximum(best, jnp.max(scores, axis=1)), None

      return lax.scan(body, jnp.full(BLOCK, -jnp.inf), tiles)[0]

    return lax.map(one, queries)

  queries, tiles = blocks(BLOCK), blocks(TILE)
  return lambda: jax.block_until_ready(run(queries, tiles))


def of_faiss(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Recall@K and MAP@R from an exact index's neighbours, at unit norm."""
  import faiss

  index = faiss.IndexFlatIP(x.shape[1])
  index.add(x)
  counts = np.bincount(labels)[labels] - 1
  k = max(*KS, int(counts.max()))
  rank, average = np.zeros(len(x)), np.zeros(len(x))
  for start in range(0, len(x), 8192):  # its answer for all at once would hold n x k
    rows = np.arange(start, min(start + 8192, len(x)))
    found = index.search(x[rows], k + 1)[1]
    itself = found == rows[:, None]
    itself[~itself.any(1), -1] = True  # behind more duplicates than neighbours asked for
    hits = labels[found[~itself].reshape(len(rows), k)] == labels[rows, None]
    rank[rows] = np.where(hits.any(1), hits.argmax(1), k)
    hits &= np.arange(k) < counts[rows, None]
    precision = hits * np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    average[rows] = precision.sum(1) / np.maximum(counts[rows], 1)
  scored = counts > 0
  recalls = {f"recall@{k}": float((rank[scored] < k).mean()) for k in KS}
  return recalls | {"map@r": float(average[scored].mean())}


def times(n: int, d: int, classes: int, repeats: int) -> dict[str, Any]:
  """Seconds of all three in turns, the fastest of each, and what they found."""
  from jaxdml import evaluation

  x, labels = data(n, d, classes)
  matmul = bare_matmul(x)
  runs = {
    "matmul": matmul,
    "jaxdml": lambda: evaluation.retrieval_metrics(x, labels, ks=KS),
    "faiss": lambda: of_faiss(x, labels),
  }
  small, small_labels = x[:2048], labels[:2048]
  evaluation.retrieval_metrics(small, small_labels)  # JAX starts; programs compile for a size
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  found = {}
  first = None
  for repeat in range(repeats):
    for name, run in runs.items():
      if name == "faiss" and repeat:
        continue  # the slowest, and nothing in it varies
      took, found[name] = timed(run)
      seconds[name].append(took)
    first = seconds["jaxdml"][0] if first is None else first
  gap = max(abs(found["jaxdml"][name] - found["faiss"][name]) for name in found["faiss"])
  return {
    "seconds": {name: min(took) for name, took in seconds.items()},
    "first": first,
    "metrics": {name: found["jaxdml"][name] for name in found["faiss"]},
    "gap": gap,
  }


def memory(n: int, d: int, classes: int, repeats: int) -> dict[str, Any]:
  """Peak memory beyond the embeddings and what the process took before, and seconds."""
  import jax.numpy as jnp

  from jaxdml import evaluation

  x, labels = data(n, d, classes)
  float(jnp.ones(8).sum())  # JAX is up
  before = held_mb()
  took, found = timed(lambda: evaluation.retrieval_metrics(x, labels, ks=KS))
  return {
    "seconds": took,
    "beyond_mb": peak_mb() - before,
    "embeddings_mb": x.nbytes / 1e6,
    "metrics": {name: found[name] for name in (*(f"recall@{k}" for k in KS), "map@r")},
  }


if __name__ == "__main__":
  what, *sizes = sys.argv[1:]
  numbers = [int(size) for size in sizes]
  repeats = numbers.pop() if len(numbers) == 4 else 1
  print(json.dumps({"times": times, "memory": memory}[what](*numbers, repeats)))
