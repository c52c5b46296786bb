"""How many items beat each relevant one: ranks without a sort, on all devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxdml.evaluation.scores import (
  AXIS,
  Problem,
  blocks_of_rows,
  device_mesh,
  power_of_two,
  replicated,
  scores,
  sharded,
)
from jaxdml.types import Array

# Queries and items of a tile: 2 MB of scores, which the cores' caches hold while they are compared.
_BLOCK_CPU, _TILE_CPU = 1024, 512
_BLOCK, _TILE = 1024, 8192
_PIECE_CPU = 1 << 21  # comparisons
_TINY = np.finfo(np.float32).tiny


def count_ranks(
  task: Problem,
  table_fn: Callable[[np.ndarray], np.ndarray],
  rows: np.ndarray,
  order: np.ndarray,
  *,
  block_size: int | None = None,
  progress: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields (rows [b], relevant items [b, w], their ranks from 0 [b, w]), a block at a time.

  An item's rank is the number of items that the query may see and that score higher, or equally
  with a lower index. What items are compared with is a score of the very product that is counted,
  so nothing depends on how another product would have rounded.

  Args:
    task: the queries and items.
    table_fn: queries [b] -> their relevant items [b, w], w always the same; m: none.
    rows: the queries wanted; neighbours in it should share relevant items.
    order: of the items in the tiles, [m]; relevant items of neighbouring rows close together.
    block_size: queries at a time on a device.
    progress: show a bar where it takes long.
  """
  on_cpu = jax.default_backend() == "cpu"
  m = len(task.items)
  block = min(block_size or (_BLOCK_CPU if on_cpu else _BLOCK), power_of_two(len(rows)))
  tile = min(_TILE_CPU if on_cpu else _TILE, -(-m // 64) * 64)
  mesh = device_mesh(-(-len(rows) // block))
  tiles, offset = task.tiles(tile, order)
  index = np.full(offset.shape, m, np.int32)
  index.reshape(-1)[:m] = order
  place = np.full(m + 1, offset.size, np.int32)  # of each item in the tiles; m: nowhere
  place[order] = np.arange(m, dtype=np.int32)
  # Unit vectors need no offset, and one pass less over the scores is a tenth of the time.
  zeros = offset.size - m if task.normalize else 0
  whole = replicated(mesh, (tiles, None if task.normalize else offset, index))
  del tiles
  # A CPU writes each comparison down before it sums them: no more at a time than its caches hold.
  width = table_fn(rows[:1]).shape[1]
  piece = power_of_two(max(_PIECE_CPU // (width * tile), 8)) if on_cpu else block
  for chosen in blocks_of_rows(
    len(rows), block, mesh, work=len(rows) * task.items.size, description="rank", progress=progress
  ):
    some = rows[chosen]
    table, dropped = table_fn(some), task.excluded(some)
    wanted, count = _wanted_tiles(place[table], place[dropped], tile, len(index), mesh.size)
    inputs = task.query_rows(some), table, place[table], dropped, place[dropped], wanted, count
    ranks = np.asarray(_count(*sharded(mesh, inputs), *whole, mesh=mesh, piece=piece, zeros=zeros))
    real = int(chosen[-1] + 1 - chosen[0])
    yield some[:real], table[:real], ranks[:real]


def _wanted_tiles(
  place: np.ndarray, dropped: np.ndarray, tile: int, tiles: int, devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """The tiles that hold what each device compares with, [devices, tiles], and their number."""
  wanted = np.zeros((devices, tiles), np.int32)
  count = np.zeros(devices, np.int32)
  needed = np.concatenate([place, dropped], axis=1) // tile
  for device, part in enumerate(np.split(needed, devices)):
    found = np.unique(part[part < tiles])
    wanted[device, : len(found)] = found
    count[device] = len(found)
  return wanted, count


@partial(jax.jit, static_argnames=("mesh", "piece", "zeros"))
def _count(
  queries: Array,
  number: Array,
  place: Array,
  dropped: Array,
  dropped_place: Array,
  wanted: Array,
  count: Array,
  tiles: Array,
  offset: Array | None,
  index: Array,
  *,
  mesh: Mesh,
  piece: int,
  zeros: int,
) -> Array:
  """Ranks [b, w] of items `number` [b, w] at `place` in the tiles, `piece` rows at a time.

  Without offsets the last `zeros` items are zero vectors that only fill the tiles.
  """

  def one_device(
    queries, number, place, dropped, dropped_place, wanted, count, tiles, offset, index
  ):
    width, size = number.shape[1], tiles.shape[1]
    places = jnp.concatenate([place, dropped_place], axis=1)
    extracting = count[0]

    def body(step, state):
      tile = jnp.where(
        step < extracting, wanted[0, jnp.minimum(step, len(tiles) - 1)], step - extracting
      )
      similarity = scores(queries, tiles[tile], None if offset is None else offset[tile])

      def extract(state):
        score, _, beaten = state
        here = places - tile * size
        value = jnp.take_along_axis(similarity, jnp.clip(here, 0, size - 1), axis=1)
        score = jnp.where((here >= 0) & (here < size), value, score)
        return score, _below(score), beaten

      def compare(state):
        score, below, beaten = state
        wins = _pieces(
          partial(_wins, index=index[tile]),
          piece,
          (similarity, number, score[:, :width], below[:, :width]),
        )
        return score, below, beaten + wins

      # One product, used twice: were there two, they might round differently.
      return lax.cond(step < extracting, extract, compare, state)

    missing = jnp.where(jnp.arange(places.shape[1]) < width, jnp.inf, -jnp.inf)
    score = jnp.broadcast_to(missing, places.shape)
    beaten = jnp.zeros(number.shape, jnp.int32)
    score, _, beaten = lax.fori_loop(0, extracting + len(tiles), body, (score, score, beaten))
    # The query itself was counted like any other item, and so were zeros (score 0).
    mine, other = score[:, :width, None], score[:, None, width:]
    unseen = (other > mine) | ((other == mine) & (dropped[:, None, :] < number[:, :, None]))
    beaten -= zeros * (score[:, :width] < 0)
    return beaten - jnp.sum(unseen, axis=2, dtype=jnp.int32)

  split, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(
    one_device, mesh=mesh, in_specs=(split,) * 7 + (whole,) * 3, out_specs=split, check_vma=False
  )(queries, number, place, dropped, dropped_place, wanted, count, tiles, offset, index)


def _wins(similarity: Array, number: Array, score: Array, below: Array, *, index: Array) -> Array:
  """How many of the items `index` [c], of similarity [b, c], beat each of [b, w] items."""
  # An item of lower index wins a tie: it has to exceed the next lower number only.
  limit = jnp.where(index < number[:, :, None], below[:, :, None], score[:, :, None])
  # A CPU sums these in half the time that it takes for whole numbers; the sum is exact.
  wins = (similarity[:, None, :] > limit).astype(jnp.bfloat16)
  return jnp.sum(wins, axis=2, dtype=jnp.float32).astype(jnp.int32)


def _pieces(fn: Callable[..., Array], rows: int, arrays: tuple[Array, ...]) -> Array:
  """Applies `fn` to `rows` rows of the arrays at a time, where that divides them."""
  total = len(arrays[0])
  if rows >= total or total % rows:
    return fn(*arrays)
  split = [array.reshape(-1, rows, *array.shape[1:]) for array in arrays]
  result = lax.map(lambda part: fn(*part), split)
  return result.reshape(total, *result.shape[2:])


def _below(x: Array) -> Array:
  """The next lower float; below 0 the smallest normal one, as devices take smaller ones for 0."""
  return jnp.where(x == 0, -_TINY, jnp.nextafter(x, -jnp.inf))
