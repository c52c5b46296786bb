"""Clustering metrics: k-means in JAX, then NMI and pairwise F1 of its clusters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdml.evaluation.checks import as_column, as_embeddings, as_positive, normalized
from jaxdml.types import Array

_HIGHEST = lax.Precision.HIGHEST


class KMeans(NamedTuple):
  """The best of the restarts of `kmeans`.

  Attributes:
    assignment: cluster of each row, [n] int32.
    centers: [k, d] float32.
    inertia: sum of the squared distances to the assigned centers.
  """

  assignment: np.ndarray
  centers: np.ndarray
  inertia: float


def clustering_metrics(
  embeddings: Any,
  labels: Any,
  *,
  seed: int = 0,
  normalize: bool = True,
  restarts: int = 3,
  max_iterations: int = 30,
  block_size: int = 1024,
) -> dict[str, float]:
  """Clusters the embeddings by k-means, k the number of classes, and compares with the labels.

  The protocol of arXiv 1511.06452. The default, the best of 3 runs of at most 30 iterations, is
  meant for evaluation during training; the cost is linear in both.

  Args:
    embeddings: [n, d].
    labels: [n], of any type that compares.
    seed: of the k-means seeding.
    normalize: scale embeddings to unit norm first.
    restarts: independent runs of k-means, the one of lowest inertia is taken.
    max_iterations: of each run.
    block_size: rows at a time.

  Returns:
    "nmi" and "f1".

  Raises:
    ValueError: NaN in embeddings, labels of another length.

  >>> clustering_metrics([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "a", "b", "b"])
  {'nmi': 1.0, 'f1': 1.0}
  """
  embeddings = as_embeddings("embeddings", embeddings)
  labels = as_column("labels", labels, len(embeddings), "embeddings")
  if normalize:
    embeddings = normalized(embeddings)
  clusters = kmeans(
    embeddings,
    len(np.unique(labels)),
    seed=seed,
    restarts=restarts,
    max_iterations=max_iterations,
    block_size=block_size,
  ).assignment
  return {"nmi": nmi(labels, clusters), "f1": pairwise_f1(labels, clusters)}


def kmeans(
  points: Any,
  k: int,
  *,
  seed: int = 0,
  restarts: int = 1,
  max_iterations: int = 30,
  tolerance: float = 1e-4,
  block_size: int = 1024,
) -> KMeans:
  """Minimises the sum of squared distances to k centers: greedy k-means++, then Lloyd's algorithm.

  Seeding tries 2 + log k candidates a center and keeps the best (as scikit-learn does). A cluster
  left empty restarts at the point farthest from its center. The same seed gives the same result.
  Memory is O(n d + block_size k); a program is compiled once a shape.

  Args:
    points: [n, d].
    k: number of clusters, at most n.
    seed: of the restarts.
    restarts: independent runs; the lowest inertia wins.
    max_iterations: of Lloyd's algorithm.
    tolerance: stop when an iteration lowers the inertia by less than this share of it.
    block_size: rows assigned at a time.

  Raises:
    ValueError: more clusters than points, NaN in points.

  >>> kmeans([[0.0], [0.2], [5.0], [5.2]], 2).inertia.__round__(4)
  0.04
  """
  points = as_embeddings("points", points)
  k, restarts = as_positive("k", k), as_positive("restarts", restarts)
  max_iterations = as_positive("max_iterations", max_iterations)
  block_size = min(as_positive("block_size", block_size), len(points))
  if k > len(points):
    raise ValueError(f"k: expected at most the number of points, {len(points)}, got {k}")
  # Distances are taken by ||x||^2 - 2 x.c + ||c||^2, which cancels less around the mean.
  mean = points.mean(0, dtype=np.float64).astype(np.float32)
  padded = np.zeros((-(-len(points) // block_size) * block_size, points.shape[1]), np.float32)
  padded[: len(points)] = points - mean
  blocks = jnp.asarray(padded.reshape(-1, block_size, points.shape[1]))
  best = None
  for key in jax.random.split(jax.random.key(seed), restarts):
    run = _run(key, blocks, tolerance, len(points), k, max_iterations)
    if best is None or run[2] < best[2]:
      best = run
  assignment, centers, inertia = best
  return KMeans(np.asarray(assignment)[: len(points)], np.asarray(centers) + mean, float(inertia))


@partial(jax.jit, static_argnames=("n", "k", "max_iterations"))
def _run(
  key: Array, blocks: Array, tolerance: float, n: int, k: int, max_iterations: int
) -> tuple[Array, Array, Array]:
  filled = (jnp.arange(blocks.shape[0] * blocks.shape[1]) < n).reshape(blocks.shape[:2])

  def cond(state):
    iteration, _, before, now, reseeded = state
    improved = before - now > tolerance * before
    return (iteration < max_iterations) & (improved | reseeded | (iteration < 2))

  def body(state):
    iteration, centers, _, before, _ = state
    _, distance, sums, counts = _assign(blocks, filled, centers)
    centers, reseeded = _update(blocks, distance, sums, counts, centers)
    return iteration + 1, centers, before, jnp.sum(distance), reseeded

  centers = _seed(key, blocks.reshape(-1, blocks.shape[-1])[:n], k)
  infinity = jnp.float32(jnp.inf)
  start = (0, centers, infinity, infinity, False)
  _, centers, _, _, _ = lax.while_loop(cond, body, start)
  assignment, distance, _, _ = _assign(blocks, filled, centers)
  return assignment.reshape(-1), centers, jnp.sum(distance)


def _seed(key: Array, points: Array, k: int) -> Array:
  """Greedy k-means++: candidates drawn by squared distance, the one that lowers their sum most."""
  n, d = points.shape
  trials = 2 + int(math.log(k))
  squares = jnp.sum(jnp.square(points), axis=1)
  first_key, key = jax.random.split(key)
  first = points[jax.random.randint(first_key, (), 0, n)]
  centers = jnp.zeros((k, d)).at[0].set(first)

  def body(index, state):
    centers, closest = state
    cumulative = jnp.cumsum(closest)
    draws = jax.random.uniform(jax.random.fold_in(key, index), (trials,)) * cumulative[-1]
    # The first row whose cumulative weight exceeds the draw has weight above zero.
    chosen = jnp.minimum(jnp.searchsorted(cumulative, draws, side="right"), n - 1)
    candidates = points[chosen]
    dots = jnp.matmul(points, candidates.T, precision=_HIGHEST)
    distances = jnp.maximum(squares[:, None] - 2 * dots + squares[chosen], 0)
    # Rounding would leave a chosen point (or its duplicates) a little weight.
    distances = jnp.where(distances <= 1e-6 * squares[:, None], 0.0, distances)
    distances = jnp.minimum(closest[:, None], distances)
    best = jnp.argmin(jnp.sum(distances, axis=0))
    return centers.at[index].set(candidates[best]), distances[:, best]

  closest = jnp.sum(jnp.square(points - first), axis=1)
  return lax.fori_loop(1, k, body, (centers, closest))[0]


def _assign(blocks: Array, filled: Array, centers: Array) -> tuple[Array, Array, Array, Array]:
  """Assigns points, a block at a time.

  Returns: clusters [blocks, b], squared distances [blocks, b] (0 for padding), and each cluster's
  sum of points [k, d] and count [k].
  """
  k, d = centers.shape
  center_squares = jnp.sum(jnp.square(centers), axis=1)

  def body(carry, block):
    sums, counts = carry
    points, valid = block
    scores = center_squares - 2 * jnp.matmul(points, centers.T, precision=_HIGHEST)
    cluster = jnp.argmin(scores, axis=1).astype(jnp.int32)
    distance = jnp.maximum(jnp.min(scores, axis=1) + jnp.sum(jnp.square(points), axis=1), 0)
    # A product with the one-hot matrix: scatters add in no fixed order on a GPU.
    member = ((cluster[:, None] == jnp.arange(k)) & valid[:, None]).astype(jnp.float32)
    sums += jnp.matmul(member.T, points, precision=_HIGHEST)
    counts += jnp.sum(member, axis=0)
    return (sums, counts), (cluster, jnp.where(valid, distance, 0.0))

  start = (jnp.zeros((k, d)), jnp.zeros(k))
  (sums, counts), (cluster, distance) = lax.scan(body, start, (blocks, filled))
  return cluster, distance, sums, counts


def _update(
  blocks: Array, distance: Array, sums: Array, counts: Array, centers: Array
) -> tuple[Array, Array]:
  """Moves centers to their means; the j-th empty cluster to the j-th farthest point.

  Returns the centers and whether one was moved to a point that is not a center already.
  """
  k, d = centers.shape
  empty = counts == 0
  means = jnp.where(empty[:, None], centers, sums / jnp.maximum(counts, 1)[:, None])

  def reseed(means):
    far, row = lax.top_k(distance.reshape(-1), k)
    order = jnp.maximum(jnp.cumsum(empty) - 1, 0)
    move = empty & (far[order] > 0)
    chosen = blocks.reshape(-1, d)[row[order]]
    return jnp.where(move[:, None], chosen, means), jnp.any(move)

  return lax.cond(jnp.any(empty), reseed, lambda means: (means, jnp.array(False)), means)


def nmi(labels_true: Any, labels_pred: Any) -> float:
  """Normalised mutual information of two partitions, 2 I / (H + H'), in [0, 1].

  Two partitions of one class each are identical and score 1.

  Args:
    labels_true: [n], of any type that compares.
    labels_pred: [n].

  Raises:
    ValueError: lengths that differ, or nothing to compare.

  >>> round(nmi([0, 0, 1, 1], [5, 5, 7, 7]), 6), round(nmi([0, 0, 1, 1], [0, 1, 0, 1]), 6)
  (1.0, 0.0)
  """
  joint, rows, columns, counts = _contingency(labels_true, labels_pred)
  n = rows.sum()
  entropies = sum(float(-(c / n * np.log(c / n)).sum()) for c in (rows, columns))
  if entropies == 0:
    return 1.0
  expected = rows[joint[0]] * (columns[joint[1]] / n)
  information = float((counts / n * np.log(counts / expected)).sum())
  return min(max(2 * information / entropies, 0.0), 1.0)


def pairwise_f1(labels_true: Any, labels_pred: Any) -> float:
  """F1 of the pairs that share a cluster, as a prediction of the pairs that share a class.

  2 P R / (P + R), P the share of same-cluster pairs that are of one class, R the share of
  same-class pairs that are in one cluster. 1 where neither partition has a pair, 0 where no pair is
  common.

  Args:
    labels_true: [n], of any type that compares.
    labels_pred: [n].

  Raises:
    ValueError: lengths that differ, or nothing to compare.

  >>> round(pairwise_f1([0, 0, 0, 1], [0, 0, 1, 1]), 6)  # P = 1/2, R = 1/3
  0.4
  """
  _, rows, columns, counts = _contingency(labels_true, labels_pred)
  common, same_class, same_cluster = (
    float((c * (c - 1) / 2).sum()) for c in (counts, rows, columns)
  )
  if same_class + same_cluster == 0:
    return 1.0
  return 2 * common / (same_class + same_cluster)


def _contingency(
  labels_true: Any, labels_pred: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns the pairs (class, cluster) that occur [2, p], class and cluster sizes, pair counts."""
  labels_true = np.asarray(labels_true)
  labels_true = as_column("labels_true", labels_true, labels_true.size, "itself")
  labels_pred = as_column("labels_pred", labels_pred, len(labels_true), "labels_true")
  if not len(labels_true):
    raise ValueError("labels_true: expected at least one label, got none")
  _, classes, rows = np.unique(labels_true, return_inverse=True, return_counts=True)
  _, clusters, columns = np.unique(labels_pred, return_inverse=True, return_counts=True)
  pairs = classes.astype(np.int64) * len(columns) + clusters
  occurring, counts = np.unique(pairs, return_counts=True)
  joint = np.stack(np.divmod(occurring, len(columns)))
  return joint, rows.astype(float), columns.astype(float), counts.astype(float)
