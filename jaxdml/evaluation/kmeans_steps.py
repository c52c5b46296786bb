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
    def to_candidates(part):
      points, squares = part
      dots = jnp.matmul(candidates, points.T, precision=_HIGHEST)
      distances = jnp.maximum(squares - 2 * dots + candidate_squares[:, None], 0)
      # Rounding would leave a chosen point (or its duplicates) a little weight.
      return jnp.where(distances <= 1e-6 * squares, 0.0, distances)

    distances = lax.map(to_candidates, (points[:, 0], squares[:, 0]))  # [rounds, m, rows]

    def body(index, state):
      taken, closest, standing, following = state
      lowered = lambda part: jnp.sum(jnp.minimum(part[0], part[1][standing]), axis=1)
      parts = lax.all_gather(lax.map(lowered, (closest, distances)), AXIS, axis=1)
      order = jnp.argsort(jnp.sum(parts.reshape(-1, trials), axis=0))
      best = standing[order[0]]
      leave = jnp.concatenate([order[:1], order[max(trials - DROPPED, 1) :]])
      standing = standing.at[leave].set(following + jnp.arange(len(leave)))
      closest = jnp.minimum(closest, distances[:, best])
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
  points: Array, centers: Array, *, mesh: Mesh, blocks: int, scatter: bool
) -> tuple[Array, Array, Array]:
  """Assigns the points to their nearest centers [k, d].

  Returns: clusters of the rows and squared distances, padding among them, and the sums of the
  clusters' points [k, d].
  """
  k, d = centers.shape

  def assign(points, center_squares, doubled):
    scores = center_squares - jnp.matmul(points, doubled, precision=_HIGHEST)
    least = jnp.min(scores, axis=1)
    # The first of equal centers; twice as fast as argmin on a CPU.
    cluster = jnp.min(jnp.where(scores == least[:, None], jnp.arange(k), k), axis=1)
    return cluster, jnp.maximum(least + jnp.sum(jnp.square(points), axis=1), 0)

  def sums_of(points, cluster):
    if scatter:
      return jax.ops.segment_sum(points, cluster, k)

    # Scatters add in no fixed order on a GPU: a product with the one-hot matrix, in blocks.
    def add(total, block):
      member = (block[1] == jnp.arange(k)[:, None]).astype(jnp.float32)
      return total + jnp.matmul(member, block[0], precision=_HIGHEST), None

    blocked = points.reshape(blocks, -1, d), cluster.reshape(blocks, -1)
    return lax.scan(add, jnp.zeros((k, d)), blocked)[0]

  def local(points, centers):
    devices, device = lax.axis_size(AXIS), lax.axis_index(AXIS)
    center_squares, doubled = jnp.sum(jnp.square(centers), axis=1), 2 * centers.T

    def part(sums, points):
      cluster, distance = lax.map(
        lambda block: assign(block, center_squares, doubled), points.reshape(blocks, -1, d)
      )
      cluster = cluster.reshape(-1)
      own = sums_of(points, cluster)  # padding is of zeros, and adds nothing
      for other in range(devices):  # adding zeros does not round: the order is that of the parts
        sums += lax.psum(jnp.where(device == other, own, 0.0), AXIS)
      return sums, (cluster, distance.reshape(-1))

    sums, (cluster, distance) = lax.scan(part, jnp.zeros((k, d)), points[:, 0])
    return cluster[:, None], distance[:, None], sums

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(SHARDED, _REPLICATED),
    out_specs=(SHARDED, SHARDED, _REPLICATED),
    check_vma=False,
  )(points, centers)
