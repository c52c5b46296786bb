"""k-means in JAX at any size: the products on all local devices, the decisions on the host.

On the devices the points are [parts / devices, devices, rows, d], sharded along the second axis.
Partial sums are taken by part and added in the order of the parts, so that the result does not
depend on the number of devices.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxdml._sharding import own_devices
from jaxdml.evaluation import _scores
from jaxdml.evaluation._checks import as_embeddings, as_positive
from jaxdml.types import Array

_AXIS = "devices"
_SHARDED, _REPLICATED = PartitionSpec(None, _AXIS), PartitionSpec()
_HIGHEST = lax.Precision.HIGHEST
# Two parts for each of 8 devices: a loop over one part alone is compiled into another program,
# which rounds in other ways.
_PARTS = 16
_SCORES = 1 << 22  # of points and centers, at once
_DROPPED = 3  # candidates of the seeding that leave with each winner
_CENTERS_A_ROUND = 64  # of the seeding; its distances, 4 times as many a point, are held
_SEEDED_A_CLUSTER, _SEEDED = 20, 2048  # points that the seeding looks at: the larger number


class KMeans(NamedTuple):
  """The best of the restarts of `kmeans`."""

  assignment: np.ndarray  # cluster of each row, [n] int32
  centers: np.ndarray  # [k, d] float32
  inertia: float  # sum of the squared distances to the assigned centers
  iterations: int  # how often the centers were moved


@own_devices
def kmeans(
  points: Any,
  k: int,
  *,
  seed: int = 0,
  restarts: int = 1,
  max_iterations: int = 30,
  tolerance: float = 1e-4,
  block_size: int = 512,
  centers: Any = None,
  progress: bool = True,
) -> KMeans:
  """Minimises the sum of squared distances to k centers: greedy k-means++, then Lloyd's algorithm.

  Seeding is greedy k-means++ (best of 2 + log k candidates drawn by squared distance, as in
  scikit-learn) with candidates drawn for up to 64 centers at a time: the winner and the 3 worst of
  a center make room for new ones, the others stand again for the next center, so that a center
  costs the distances to 4 points instead of to 2 + log k. It looks at max(2,048, 20 k) of the
  points, drawn at random for each restart; Lloyd's algorithm at all. A cluster left empty restarts
  at the point farthest from its center. The same seed gives the same result, on any number of
  local devices that divides 8. Memory is O(n d + block_size k); the seeding holds up to 258 + log k
  distances a point.

  Args:
    points: [n, d].
    k: number of clusters, at most n.
    seed: of the restarts.
    restarts: independent runs; the lowest inertia wins.
    max_iterations: of Lloyd's algorithm.
    tolerance: stop when an iteration lowers the inertia by no more than this share of it; at 0
      it goes on until nothing moves.
    block_size: rows assigned at a time.
    centers: [k, d] to start from in place of the seeding; there is nothing to restart then.
    progress: show a progress bar if it takes longer than 5 seconds.

  Raises:
    ValueError: more clusters than points, NaN in points, centers of another shape.

  >>> kmeans([[0.0], [0.2], [5.0], [5.2]], 2).inertia.__round__(4)
  0.04
  """
  points = as_embeddings("points", points)
  k, restarts = as_positive("k", k), as_positive("restarts", restarts)
  max_iterations = as_positive("max_iterations", max_iterations)
  block_size = as_positive("block_size", block_size)
  if k > len(points):
    raise ValueError(f"k: expected at most the number of points, {len(points)}, got {k}")
  # Distances are taken by ||x||^2 - 2 x.c + ||c||^2, which cancels less near the mean.
  mean = points.mean(0)
  if centers is not None:
    centers = as_embeddings("centers", centers) - mean
    if centers.shape != (k, points.shape[1]) or restarts > 1:
      raise ValueError(
        f"centers: expected shape {(k, points.shape[1])} and restarts=1, got {centers.shape} and "
        f"restarts={restarts}; leave centers out for several seeded runs"
      )
  data = _Data(points, mean, block_size)
  best = None
  steps = restarts * (-(-k // _centers_a_round(k)) + max_iterations + 1)
  shown = {"delay": 5, "leave": False, "disable": None if progress else True}
  with tqdm(total=steps, desc=f"{k}-means", unit="step", **shown) as bar:
    for rng in np.random.default_rng(seed).spawn(restarts):
      start = _seed(rng, data, k, bar) if centers is None else centers
      run = _lloyd(data, start, max_iterations, tolerance, bar)
      best = run if best is None or run.inertia < best.inertia else best
  return best._replace(centers=best.centers + mean)


class _Data:
  """Points around their mean, on the host and in equal parts on the local devices.

  The last part is padded with zeros. Part p is [p // devices, p % devices], its first row is
  rows * p.
  """

  def __init__(self, points: np.ndarray, mean: np.ndarray, block_size: int):
    n, d = points.shape
    devices = jax.local_devices()
    self.mesh = Mesh(np.array(devices), (_AXIS,))
    rounds = -(-_PARTS // len(devices))
    rows = -(-n // (rounds * len(devices)))
    self.blocks = -(-rows // block_size)
    rows = -(-rows // self.blocks) * self.blocks
    self._shape = (rounds, len(devices), rows)
    self._points, self._mean, self._block_size, self.n = points, mean, block_size, n
    padded = np.empty((math.prod(self._shape), d), np.float32)
    np.subtract(points, mean, out=padded[:n])
    padded[n:] = 0
    self.squares = np.einsum("nd,nd->n", padded[:n], padded[:n])
    self.sharded, self.sharded_squares = self._put(padded), self.put(self.squares)

  def sample(self, rng: np.random.Generator, size: int) -> _Data:
    """Returns so many of the points, in their order; all where there are no more."""
    if size >= self.n:
      return self
    chosen = np.sort(rng.choice(self.n, size, replace=False, shuffle=False))
    return _Data(self._points[chosen], self._mean, self._block_size)

  def rows(self, indices: Any) -> np.ndarray:
    """Returns points by their indices, on the host."""
    return self._points[indices] - self._mean

  def distances(self, index: int) -> np.ndarray:
    """Returns the squared distances [n] to one of the points."""
    blocks = np.array_split(self._points, -(-self.n // 1024))
    apart = (block - self._points[index] for block in blocks)
    return np.concatenate([np.einsum("nd,nd->n", x, x) for x in apart])

  def put(self, values: np.ndarray) -> Array:
    """Shards a value for each row, [n], as the points are."""
    return self._put(np.pad(values, (0, math.prod(self._shape) - self.n)))

  def _put(self, padded: np.ndarray) -> Array:
    padded = padded.reshape(*self._shape, *padded.shape[1:])
    return jax.device_put(padded, NamedSharding(self.mesh, _SHARDED))

  def get(self, sharded: Array) -> np.ndarray:
    """Returns a value for each row, [n], on the host."""
    return np.asarray(sharded).reshape(-1)[: self.n]


def _centers_a_round(k: int) -> int:
  """Returns for how many centers at a time candidates are drawn."""
  # Candidates are drawn by the distances at the start of a round: it should not add too many.
  return min(max(k // 6, 1), _CENTERS_A_ROUND)


def _seed(rng: np.random.Generator, data: _Data, k: int, bar: tqdm) -> np.ndarray:
  """Draws k centers by greedy k-means++, a batch of candidates at a time."""
  data = data.sample(rng, max(_SEEDED_A_CLUSTER * k, _SEEDED))
  n = data.n
  a_round, trials = _centers_a_round(k), 2 + int(math.log(k))
  chosen = [rng.integers(n)]
  closest = data.put(data.distances(chosen[0]))
  while len(chosen) < k:
    cumulative = np.cumsum(data.get(closest), dtype=np.float64)
    draws = rng.random(trials + a_round * (1 + _DROPPED)) * cumulative[-1]
    # The first row whose cumulative weight exceeds the draw has weight above zero.
    rows = np.minimum(np.searchsorted(cumulative, draws, side="right"), n - 1)
    points, candidates = (data.sharded, data.sharded_squares), (data.rows(rows), data.squares[rows])
    counts = {"count": a_round, "trials": trials}
    taken, closest = _take_centers(*points, closest, *candidates, mesh=data.mesh, **counts)
    chosen.extend(rows[np.asarray(taken)])
    bar.update()
  return data.rows(np.array(chosen[:k]))


def _lloyd(
  data: _Data, centers: np.ndarray, max_iterations: int, tolerance: float, bar: tqdm
) -> KMeans:
  """Assigns and moves in turn; returns the last assignment and the centers that it is to."""
  scatter = _scores.on_cpu(data.mesh)
  before, moved = np.inf, True
  for iteration in range(max_iterations + 1):
    points = data.sharded, data.sharded_squares
    assignment, distance, sums = _assign_points(
      *points, centers, mesh=data.mesh, blocks=data.blocks, scatter=scatter
    )
    assignment, distance = data.get(assignment), data.get(distance)
    bar.update()
    inertia = float(distance.sum(dtype=np.float64))
    improved = before - inertia > tolerance * before
    if iteration == max_iterations or not (improved or moved):
      break
    before = inertia
    centers, moved = _move(data, assignment, distance, np.asarray(sums), centers)
  return KMeans(assignment, centers, inertia, iteration)


def _move(
  data: _Data, assignment: np.ndarray, distance: np.ndarray, sums: np.ndarray, centers: np.ndarray
) -> tuple[np.ndarray, bool]:
  """Moves centers to their means; the j-th empty cluster to the j-th farthest point.

  Returns the centers and whether one was moved to a point that is not a center already.
  """
  counts = np.bincount(assignment, minlength=len(centers))[:, None]
  centers = np.where(counts > 0, sums / np.maximum(counts, 1).astype(np.float32), centers)
  empty = np.flatnonzero(counts == 0)
  far = np.argsort(-distance, kind="stable")[: len(empty)] if len(empty) else empty
  far = far[distance[far] > 0]
  centers[empty[: len(far)]] = data.rows(far)
  return centers, len(far) > 0


@partial(jax.jit, static_argnames=("mesh", "count", "trials"))
def _take_centers(*arrays: Array, mesh: Mesh, count: int, trials: int) -> tuple[Array, Array]:
  """Takes `count` of the candidates [m, d], each the best of `trials` that stand.

  Takes points and their squared norms, the squared distances `closest` to the nearest center, and
  candidates and their squared norms. Returns the rows of candidates taken, [count], and `closest`,
  lowered.
  """

  def local(points, squares, closest, candidates, candidate_squares):
    rounds, _, rows, d = points.shape
    dots = jnp.matmul(candidates, points.reshape(-1, d).T, precision=_HIGHEST)
    squares = squares.reshape(-1)
    distances = jnp.maximum(squares - 2 * dots + candidate_squares[:, None], 0)
    # Rounding would leave a chosen point (or its duplicates) a little weight.
    distances = jnp.where(distances <= 1e-6 * squares, 0.0, distances)
    distances = distances.reshape(-1, rounds, rows)  # one product: larger ones are faster

    def body(index, state):
      taken, closest, standing, following = state
      lowered = jnp.sum(jnp.minimum(closest, distances[standing]), axis=2)
      parts = lax.all_gather(lowered.T, _AXIS, axis=1)
      order = jnp.argsort(jnp.sum(parts.reshape(-1, trials), axis=0))
      best = standing[order[0]]
      # The winner leaves, and with it the worst of this turn: the next of the list take their
      # places. All others stand again, as their distances are known already.
      leave = jnp.concatenate([order[:1], order[max(trials - _DROPPED, 1) :]])
      standing = standing.at[leave].set(following + jnp.arange(len(leave)))
      closest = jnp.minimum(closest, distances[best])
      return taken.at[index].set(best), closest, standing, following + len(leave)

    start = (jnp.zeros(count, jnp.int32), closest[:, 0], jnp.arange(trials), jnp.int32(trials))
    taken, closest, _, _ = lax.fori_loop(0, count, body, start)
    return taken, closest[:, None]

  specs, results = (_SHARDED,) * 3 + (_REPLICATED,) * 2, (_REPLICATED, _SHARDED)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=results, check_vma=False)
  return mapped(*arrays)


@partial(jax.jit, static_argnames=("mesh", "blocks", "scatter"))
def _assign_points(
  points: Array, squares: Array, centers: Array, *, mesh: Mesh, blocks: int, scatter: bool
) -> tuple[Array, Array, Array]:
  """Assigns the points, of the given squared norms, to their nearest centers [k, d].

  Returns: clusters of the rows and squared distances, padding among them, and the sums of the
  clusters' points [k, d].
  """
  k, d = centers.shape

  def assign(points, center_squares, doubled):
    scores = center_squares - jnp.matmul(points, doubled, precision=_HIGHEST)
    least = jnp.min(scores, axis=1)
    # The first of equal centers; twice as fast as argmin on a CPU.
    return jnp.min(jnp.where(scores == least[:, None], jnp.arange(k), k), axis=1), least

  def sums_of(points, cluster):
    if scatter:
      return jax.ops.segment_sum(points, cluster, k)

    # Scatters add in no fixed order on a GPU: a product with the one-hot matrix, in blocks.
    def add(total, block):
      member = (block[1] == jnp.arange(k)[:, None]).astype(jnp.float32)
      return total + jnp.matmul(member, block[0], precision=_HIGHEST), None

    blocked = points.reshape(blocks, -1, d), cluster.reshape(blocks, -1)
    return lax.scan(add, jnp.zeros((k, d)), blocked)[0]

  def local(points, squares, centers):
    devices, device = lax.axis_size(_AXIS), lax.axis_index(_AXIS)
    center_squares, doubled = jnp.sum(jnp.square(centers), axis=1), 2 * centers.T
    points = points[:, 0]
    # All at once where that is little: larger products are faster.
    pieces = 1 if points[..., 0].size * k <= _SCORES else len(points) * blocks
    cluster, least = lax.map(
      lambda piece: assign(piece, center_squares, doubled), points.reshape(pieces, -1, d)
    )
    cluster = cluster.reshape(len(points), -1)
    distance = jnp.maximum(least.reshape(cluster.shape) + squares[:, 0], 0)

    def add(sums, part):
      own = sums_of(*part)  # padding is of zeros, and adds nothing
      for other in range(devices):  # adding zeros does not round: the order is that of the parts
        sums += lax.psum(jnp.where(device == other, own, 0.0), _AXIS)
      return sums, None

    sums, _ = lax.scan(add, jnp.zeros((k, d)), (points, cluster))
    return cluster[:, None], distance[:, None], sums

  specs = (_SHARDED, _SHARDED, _REPLICATED)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
  return mapped(points, squares, centers)
