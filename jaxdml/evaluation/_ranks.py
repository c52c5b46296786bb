"""Ranks of the relevant items of every query, exact, by whichever way is the cheaper.

A query with few relevant items has their ranks counted on the devices: how many items beat each,
in tiles that fit a cache, no sort (`_counted`). One with many has all items put in order on the
host, from scores computed on the devices (`_in_order`). Both rank equal scores by index.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jaxdml.evaluation import _scores
from jaxdml.evaluation._scores import Problem, scores
from jaxdml.types import Array, DistanceFn

# Relevant items that are counted at most; beyond it, on a CPU, a row is put in order in less time.
# Elsewhere the devices count and the host sorts.
_MOST_COUNTED_CPU, _MOST_COUNTED = 128, 256
# Widths of the tables of relevant items, and the comparisons that one more program is worth.
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_COMPILATION = 2e9
# Items that the host looks at in one piece, while it makes the tables.
_PIECE = 1 << 22
# Queries and items of a tile: 2 MB of scores, which the cores' caches hold while they are compared.
_BLOCK_CPU, _TILE_CPU = 1024, 512
_BLOCK, _TILE = 1024, 8192
_COMPARED_CPU = 1 << 21  # comparisons written down at a time
# Where all items are put in order: items of a tile, and scores at a time on a device.
_SORTED_TILE, _SORTED_SCORES = 1024, 1 << 22
_TINY = np.finfo(np.float32).tiny
_NONE = np.iinfo(np.int32).max


class Ranks(NamedTuple):
  """Places of the relevant items of some queries, for one set of labels."""

  rows: np.ndarray  # the queries [b]
  counts: np.ndarray  # relevant items of each [b]
  # Their ranks from 0, ascending within a query, one query after the other [sum of counts].
  ranks: np.ndarray


class Relevant:
  """The items that are relevant to each query of a task; the query itself never is.

  Labels of the queries [n] and of the items [m] are codes, int32.
  """

  def __init__(self, task: Problem, labels: np.ndarray, item_labels: np.ndarray):
    self.labels, self.item_labels = labels, item_labels
    self._order, self._start, self._stop = _scores.matches(labels, item_labels)
    self._task = task
    self.counts = self._stop - self._start
    # An item that the query must not see is not relevant to it, if it was of its class.
    of_class = np.empty(len(item_labels), np.int64)
    of_class[self._order] = np.arange(len(self._order))
    _, first, last = task.dropped
    if (last > first).any():
      step = max(1, _PIECE // int((last - first).max()))
      for begin in range(0, len(labels), step):
        rows = np.arange(begin, min(begin + step, len(labels)))
        dropped = task.excluded(rows)
        place = of_class[np.minimum(dropped, len(item_labels) - 1)]
        inside = (self._start[rows, None] <= place) & (place < self._stop[rows, None])
        self.counts[rows] -= (inside & (dropped < len(item_labels))).sum(1)

  def table(self, rows: np.ndarray, width: int) -> np.ndarray:
    """Returns the relevant items of queries `rows`, ascending, int32 [b, width], filled with m."""
    m = len(self._order)
    table = _scores.padded_slices(self._order, self._start[rows], self._stop[rows], fill=m)
    for column in self._task.excluded(rows).T:
      table[table == column[:, None]] = m
    table.sort(axis=1)
    if table.shape[1] < width:
      table = np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=m)
    return np.ascontiguousarray(table[:, :width])


def relevant_ranks(
  task: Problem, relevant: list[Relevant], *, block_size: int | None = None, progress: bool = False
) -> Iterator[tuple[int, Ranks]]:
  """Yields the ranks for every set of labels, (number of the set, `Ranks`), a block at a time.

  A query comes once a set, unless it has nothing relevant there.
  """
  total = sum(r.counts for r in relevant)
  most = _MOST_COUNTED_CPU if _scores.on_cpu() else _MOST_COUNTED
  most = most if task.distance_fn is None else 0  # Counting knows products alone.
  counted = (total > 0) & (total <= most)
  for low, high in _groups(total[counted], len(task.items)):
    rows = np.flatnonzero((low < total) & (total <= high))
    # Queries of a class stand together, and so do the items: few tiles hold a block's relevant.
    rows = rows[np.lexsort([r.labels[rows] for r in relevant])]
    order = np.lexsort([r.item_labels for r in relevant])
    widths = [int(r.counts[rows].max()) for r in relevant]
    table_fn = lambda some, widths=widths: np.concatenate(
      [r.table(some, width) for r, width in zip(relevant, widths, strict=True)], axis=1
    )
    blocks = _counted(task, table_fn, rows, order, block_size=block_size, progress=progress)
    for some, table, ranks in blocks:
      ranks = np.where(table < len(task.items), ranks, _NONE)
      for number, part in enumerate(np.split(ranks, np.cumsum(widths)[:-1], axis=1)):
        part = np.sort(part, axis=1)
        yield number, Ranks(some, relevant[number].counts[some], part[part < _NONE])
  rows = np.flatnonzero(total > most)
  _, first, last = task.dropped
  seen = len(task.items) - (last - first)  # those that a query must not see come last
  for some, order in _in_order(task, rows, progress=progress):
    for number, r in enumerate(relevant):
      hits = r.item_labels[order] == r.labels[some, None]
      hits[np.arange(order.shape[1]) >= seen[some, None]] = False
      yield number, Ranks(some, r.counts[some], np.nonzero(hits)[1])


def _groups(counts: np.ndarray, m: int) -> list[tuple[int, int]]:
  """Splits (0, largest count] where narrower tables save more than another program costs."""
  if not len(counts):
    return []
  groups, high = [], int(counts.max())
  for width in reversed(_WIDTHS):
    narrow = counts[counts <= width]
    if (high - width) * float(len(narrow)) * m > _COMPILATION:
      groups.append((width, high))
      high = int(narrow.max())
  return [*groups, (0, high)]


def _counted(
  task: Problem,
  table_fn: Callable[[np.ndarray], np.ndarray],
  rows: np.ndarray,
  order: np.ndarray,
  *,
  block_size: int | None,
  progress: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields (rows [b], relevant items [b, w], their ranks from 0 [b, w]), a block at a time.

  An item's rank is the number of items that the query may see and that score higher, or equally
  with a lower index. Items are compared with a score of the very product that is counted, so
  nothing depends on how another product would have rounded.

  Args:
    task: the queries and items.
    table_fn: queries [b] -> their relevant items [b, w], w always the same; m: none.
    rows: the queries wanted; neighbours in it should share relevant items.
    order: of the items in the tiles, [m]; relevant items of neighbouring rows close together.
    block_size, progress: as in `retrieval_metrics`.
  """
  on_cpu = _scores.on_cpu()
  m = len(task.items)
  block = min(block_size or (_BLOCK_CPU if on_cpu else _BLOCK), _scores.power_of_two(len(rows)))
  tile = min(_TILE_CPU if on_cpu else _TILE, -(-m // 64) * 64)
  mesh = _scores.device_mesh(-(-len(rows) // block))
  tiles, offset = task.tiles(tile, order)
  index = np.full(offset.shape, m, np.int32)
  index.reshape(-1)[:m] = order
  place = np.full(m + 1, offset.size, np.int32)  # of each item in the tiles; m: nowhere
  place[order] = np.arange(m, dtype=np.int32)
  # Unit vectors need no offset, and one pass less over the scores is a tenth of the time.
  zeros = offset.size - m if task.normalize else 0
  whole = _scores.replicated(mesh, (tiles, None if task.normalize else offset, index))
  del tiles
  # A CPU writes each comparison down before it sums them: no more at a time than its caches hold.
  width = table_fn(rows[:1]).shape[1]
  piece = _scores.power_of_two(max(_COMPARED_CPU // (width * tile), 8)) if on_cpu else block
  for chosen in _scores.blocks_of_rows(
    len(rows), block, mesh, work=len(rows) * task.items.size, description="rank", progress=progress
  ):
    some = rows[chosen]
    table, dropped = table_fn(some), task.excluded(some)
    wanted, count = _wanted_tiles(place[table], place[dropped], tile, len(index), mesh.size)
    inputs = task.query_rows(some), table, place[table], dropped, place[dropped], wanted, count
    split = _scores.sharded(mesh, inputs)
    ranks = np.asarray(_count_all(split, whole, mesh=mesh, piece=piece, zeros=zeros))
    real = int(chosen[-1] + 1 - chosen[0])
    yield some[:real], table[:real], ranks[:real]


def _wanted_tiles(
  place: np.ndarray, dropped: np.ndarray, tile: int, tiles: int, devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tiles that hold what each device compares with, [devices, tiles], and how many."""
  wanted = np.zeros((devices, tiles), np.int32)
  count = np.zeros(devices, np.int32)
  needed = np.concatenate([place, dropped], axis=1) // tile
  for device, part in enumerate(np.split(needed, devices)):
    found = np.unique(part[part < tiles])
    wanted[device, : len(found)], count[device] = found, len(found)
  return wanted, count


@partial(jax.jit, static_argnames=("mesh", "piece", "zeros"))
def _count_all(
  split: tuple[Array, ...], whole: tuple[Array | None, ...], *, mesh: Mesh, piece: int, zeros: int
) -> Array:
  """Calls `_count` on every device: ranks [b, w]."""
  return _scores.on_each_device(partial(_count, piece=piece, zeros=zeros), mesh, split, whole)


def _count(*arrays: Array | None, piece: int, zeros: int) -> Array:
  """Returns the ranks [b, w] of items `number` [b, w] for one device's queries.

  A loop goes twice over tiles: first over those that hold the items compared with, to take their
  scores, then over all, to count. Both steps share one product in the program: were there two,
  they might round differently.

  Args:
    arrays: of the device: queries [b, d]; the `number` and the `place` in the tiles of the relevant
      items of each, [b, w]; those of the items that it must not see, [b, e]; the tiles that hold
      any of these, [1, tiles], and how many those are, [1]. Of all items: `tiles` [tiles, size, d],
      their `offset` and `index`, [tiles, size].
    piece: rows compared at a time.
    zeros: where there are no offsets, the last items that are zero vectors and only fill the tiles.
  """
  queries, number, place, dropped, dropped_place, wanted, count, tiles, offset, index = arrays
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
      compared = similarity, number, score[:, :width], below[:, :width]
      wins = _in_pieces(partial(_wins, index=index[tile]), piece, compared)
      return score, below, beaten + wins

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


def _wins(similarity: Array, number: Array, score: Array, below: Array, *, index: Array) -> Array:
  """Counts the items `index` [c], of similarity [b, c], that beat each of [b, w] items."""
  # An item of lower index wins a tie: it has to exceed the next lower number only.
  limit = jnp.where(index < number[:, :, None], below[:, :, None], score[:, :, None])
  # A CPU sums these in half the time that it takes for whole numbers; the sum is exact.
  wins = (similarity[:, None, :] > limit).astype(jnp.bfloat16)
  return jnp.sum(wins, axis=2, dtype=jnp.float32).astype(jnp.int32)


def _in_pieces(fn: Callable[..., Array], rows: int, arrays: tuple[Array, ...]) -> Array:
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


def _in_order(
  task: Problem, rows: np.ndarray, *, progress: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (rows [b], the items in descending order of their score for each, int32 [b, m]).

  Equal scores come in the order of the index; items that a query must not see come last, among
  themselves by index. The host sorts: XLA's own sort takes ten times as long on a CPU.
  """
  if not len(rows):
    return
  m = len(task.items)
  tiles, offset = task.tiles(min(_SORTED_TILE, -(-m // 64) * 64))
  block = min(max(_SORTED_SCORES // offset.size, 1), 256, _scores.power_of_two(len(rows)))
  mesh = _scores.device_mesh(-(-len(rows) // block))
  whole = _scores.replicated(mesh, (tiles, offset))
  del tiles
  workers = os.cpu_count() or 1
  with ThreadPoolExecutor(workers) as pool:
    for chosen in _scores.blocks_of_rows(
      len(rows), block, mesh, work=len(rows) * task.items.size, description="sort",
      progress=progress,
    ):  # fmt: skip
      some = rows[chosen]
      queries = _scores.sharded(mesh, task.query_rows(some))
      found = _all_scores(queries, *whole, mesh=mesh, distance_fn=task.distance_fn)
      similarity = np.asarray(found)
      some = some[: int(chosen[-1] + 1 - chosen[0])]
      parts = (similarity[: len(some), :m], task.excluded(some))
      parts = [np.array_split(part, workers) for part in parts]
      yield some, np.concatenate(list(pool.map(_order, *parts)))


def _order(similarity: np.ndarray, excluded: np.ndarray) -> np.ndarray:
  """Items by descending similarity [b, m], then by index, the excluded ones last."""
  m = similarity.shape[1]
  keys = _scores.descending_keys(similarity)
  row, column = np.nonzero(excluded < m)
  keys[row, excluded[row, column]] |= np.uint64(np.iinfo(np.uint32).max << 32)
  keys.sort(axis=1)
  return (keys & np.uint64(0xFFFFFFFF)).astype(np.int32)


@partial(jax.jit, static_argnames=("mesh", "distance_fn"))
def _all_scores(
  queries: Array, tiles: Array, offset: Array, *, mesh: Mesh, distance_fn: DistanceFn | None
) -> Array:
  """Scores of queries [b, d] and all items, [b, tiles * size]."""

  def one_device(queries, tiles, offset):
    similarity = lax.map(lambda tile: scores(queries, *tile, distance_fn), (tiles, offset))
    return similarity.swapaxes(0, 1).reshape(len(queries), -1)

  return _scores.on_each_device(one_device, mesh, (queries,), (tiles, offset))
