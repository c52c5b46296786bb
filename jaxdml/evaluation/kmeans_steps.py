"""The parts of k-means that touch every point, compiled for all local devices.

The points are [parts / devices, devices, rows, d], sharded along the second axis. Partial sums are
taken by part and added in the order of the parts: the result does not depend on the devices.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxdml.types import Array

AXIS = "devices"
SHARDED, _REPLICATED = PartitionSpec(None, AXIS), PartitionSpec()
DROPPED = 3  # candidates that leave with each winner
_HIGHEST = lax.Precision.HIGHEST
_SCORES = 1 << 22  # of points and centers, at once


@partial(jax.jit, static_argnames=("mesh", "count", "trials"))
def take_centers(
  points: Array,
  squares: Array,
  closest: Array,
  candidates: Array,
  candidate_squares: Array,
  *,
  mesh: Mesh,
  count: int,
  trials: int,
) -> tuple[Array, Array]:
  """Takes `count` of the candidates [m, d], each the best of `trials` that stand.

  Returns the rows of candidates taken, [count], and the squared distances `closest` to the nearest
  center, lowered.
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
      parts = lax.all_gather(lowered.T, AXIS, axis=1)
      order = jnp.argsort(jnp.sum(parts.reshape(-1, trials), axis=0))
      best = standing[order[0]]
      leave = jnp.concatenate([order[:1], order[max(trials - DROPPED, 1) :]])
      standing = standing.at[leave].set(following + jnp.arange(len(leave)))
      closest = jnp.minimum(closest, distances[best])
      return taken.at[index].set(best), closest, standing, following + len(leave)

    start = (jnp.zeros(count, jnp.int32), closest[:, 0], jnp.arange(trials), jnp.int32(trials))
    taken, closest, _, _ = lax.fori_loop(0, count, body, start)
    return taken, closest[:, None]

  specs = (SHARDED, SHARDED, SHARDED, _REPLICATED, _REPLICATED)
  return jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=(_REPLICATED, SHARDED), check_vma=False
  )(points, squares, closest, candidates, candidate_squares)


@partial(jax.jit, static_argnames=("mesh", "blocks", "scatter"))
def assign_points(
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
    devices, device = lax.axis_size(AXIS), lax.axis_index(AXIS)
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
        sums += lax.psum(jnp.where(device == other, own, 0.0), AXIS)
      return sums, None

    sums, _ = lax.scan(add, jnp.zeros((k, d)), (points, cluster))
    return cluster[:, None], distance[:, None], sums

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(SHARDED, SHARDED, _REPLICATED),
    out_specs=(SHARDED, SHARDED, _REPLICATED),
    check_vma=False,
  )(points, squares, centers)
