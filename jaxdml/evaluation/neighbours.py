"""Exact nearest neighbours, streamed over the gallery in blocks."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxdml.evaluation.checks import as_positive
from jaxdml.evaluation.scores import (
  AXIS,
  blocks_of_rows,
  device_mesh,
  power_of_two,
  problem,
  replicated,
  scores,
  sharded,
)
from jaxdml.types import Array

# Items scored at a time, and queries on a CPU: 16 MB of scores.
_TILE = 16_384
_BLOCK_CPU, _BLOCK = 256, 1024


class Neighbours(NamedTuple):
  """What `nearest_neighbours` found, the nearest first.

  Attributes:
    indices: rows of the gallery, [q, k] int32; -1 where there are fewer than k.
    similarities: [q, k] float32; -inf where there are fewer than k.
  """

  indices: np.ndarray
  similarities: np.ndarray


def nearest_neighbours(
  queries: Any,
  k: int,
  *,
  gallery: Any = None,
  ids: Any = None,
  gallery_ids: Any = None,
  normalize: bool = True,
  block_size: int | None = None,
  progress: bool = False,
) -> Neighbours:
  """Finds the k items nearest to each query, exactly, on all local devices.

  Items that are equally near come in the order of their index. The query itself is dropped by
  identity, its duplicates are not. Memory beyond the arrays is O(block_size (16,384 + k)) a device,
  whatever the sizes.

  Args:
    queries: [q, d]; also the gallery, unless one is given.
    k: neighbours a query; may exceed the number of items.
    gallery: items to search [m, d]; None searches the queries.
    ids: [q] identities, of any type that compares; an item with the query's id is the query itself.
      By default the row number without `gallery`; with one, nothing is dropped unless both ids are
      given.
    gallery_ids: [m], with `gallery`.
    normalize: scale to unit norm: similarities are cosines. Else the order is that of the Euclidean
      distance, and the similarity of q and g is q.g - |g|^2/2 (of both less the gallery's mean, or
      about that, where they are farther from the origin than from each other).
    block_size: queries at a time on a device; the default suits the device.
    progress: show a bar where it takes long.

  Raises:
    ValueError: NaN in embeddings, lengths or dimensions that differ, k below 1.

  >>> found = nearest_neighbours([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]], 2)
  >>> found.indices.tolist(), found.similarities[0].tolist()
  ([[2, 1], [0, 2], [0, 1]], [1.0, 0.0])
  """
  k = as_positive("k", k)
  task = problem(queries, gallery, ids, gallery_ids, normalize, name="queries")
  n, m = len(task.queries), len(task.items)
  if block_size is None:
    block_size = _BLOCK_CPU if jax.default_backend() == "cpu" else _BLOCK
  block = min(as_positive("block_size", block_size), power_of_two(n))
  mesh = device_mesh(-(-n // block))
  tile = min(_TILE, -(-m // 64) * 64)
  found = min(k, m)
  items, offset = replicated(mesh, task.tiles(tile))
  indices = np.full((n, k), -1, np.int32)
  similarities = np.full((n, k), -np.inf, np.float32)
  for rows in blocks_of_rows(
    n, block, mesh, work=n * task.items.size, description="neighbours", progress=progress
  ):
    chosen = sharded(mesh, (task.query_rows(rows), task.excluded(rows)))
    values, places = _nearest(*chosen, items, offset, k=found, mesh=mesh)
    here = slice(rows[0], rows[-1] + 1)
    count = here.stop - here.start
    similarities[here, :found] = np.asarray(values)[:count]
    indices[here, :found] = np.asarray(places)[:count]
  indices[np.isneginf(similarities)] = -1
  return Neighbours(indices, similarities)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _nearest(
  queries: Array, excluded: Array, items: Array, offset: Array, *, k: int, mesh: Mesh
) -> tuple[Array, Array]:
  """The k best scores of each query [b, k] and the items that have them."""
  tile = items.shape[1]
  kept = min(k, tile)

  def one_device(queries, excluded, items, offset):
    rows = jnp.arange(len(queries))[:, None]

    def body(best, inputs):
      number, items, offset = inputs
      start = number * tile
      similarity = scores(queries, items, offset)
      similarity = jnp.where(similarity == 0, 0.0, similarity)  # top_k tells -0 from 0
      here = jnp.where(excluded >= start, excluded - start, tile)
      similarity = similarity.at[rows, here].set(-jnp.inf, mode="drop")
      values, places = _top_k(similarity, kept)
      # What was found before has the lower indices and stands first: it wins ties.
      values = jnp.concatenate([best[0], values], axis=1)
      places = jnp.concatenate([best[1], places + start], axis=1)
      values, order = lax.top_k(values, k)
      return (values, jnp.take_along_axis(places, order, axis=1)), None

    nothing = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    return lax.scan(body, nothing, (jnp.arange(len(items)), items, offset))[0]

  split, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(
    one_device, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=split, check_vma=False
  )(queries, excluded, items, offset)


def _top_k(values: Array, k: int) -> tuple[Array, Array]:
  """`lax.top_k` along the last axis, ties by index too, over maxima of groups first.

  The k largest lie in the k groups of largest maximum: each of those holds a value at least as
  large as any outside, and before it where they are equal.
  """
  width = values.shape[1]
  group = 1
  while group < 64 and 4 * group * group * k <= width and width % (2 * group) == 0:
    group *= 2
  if group == 1:
    return lax.top_k(values, k)
  grouped = values.reshape(len(values), -1, group)
  chosen = jnp.sort(lax.top_k(jnp.max(grouped, axis=2), k)[1], axis=1)
  members = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1).reshape(len(values), -1)
  top, places = lax.top_k(members, k)
  return top, jnp.take_along_axis(chosen, places // group, axis=1) * group + places % group
