"""All items in order for every query: scores from the devices, sorted on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
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

_TILE = 1024
# Scores at a time on a device.
_SCORES = 1 << 22


def in_order(
  task: Problem, rows: np.ndarray, *, progress: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (rows [b], the items in descending order of their score for each, int32 [b, m]).

  Equal scores come in the order of the index; items that a query must not see come last, among
  themselves by index. The host sorts: XLA's own sort takes ten times as long on a CPU.

  Args:
    task: the queries and items.
    rows: the queries wanted.
    progress: show a bar where it takes long.
  """
  if not len(rows):
    return
  m = len(task.items)
  tile = min(_TILE, -(-m // 64) * 64)
  tiles, offset = task.tiles(tile)
  block = min(max(_SCORES // offset.size, 1), 256, power_of_two(len(rows)))
  mesh = device_mesh(-(-len(rows) // block))
  whole = replicated(mesh, (tiles, offset))
  del tiles
  workers = os.cpu_count() or 1
  with ThreadPoolExecutor(workers) as pool:
    for chosen in blocks_of_rows(
      len(rows), block, mesh, work=len(rows) * task.items.size, description="sort",
      progress=progress,
    ):  # fmt: skip
      some = rows[chosen]
      similarity = np.asarray(_scores(sharded(mesh, task.query_rows(some)), *whole, mesh=mesh))
      real = int(chosen[-1] + 1 - chosen[0])
      some = some[:real]
      excluded = task.excluded(some)
      parts = np.array_split(similarity[:real, :m], workers), np.array_split(excluded, workers)
      yield some, np.concatenate(list(pool.map(_order, *parts)))


def _order(similarity: np.ndarray, excluded: np.ndarray) -> np.ndarray:
  """Items by descending similarity [b, m], then by index, the excluded ones last."""
  m = similarity.shape[1]
  # As unsigned integers floats of either sign ascend away from 0: turn those above 0 round, and
  # all descend.
  bits = (similarity + np.float32(0)).view(np.uint32)  # adding 0 makes -0 equal to 0
  key = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)
  row, column = np.nonzero(excluded < m)
  key[row, excluded[row, column]] = np.iinfo(np.uint32).max
  key <<= np.uint64(32)
  key |= np.arange(m, dtype=np.uint64)
  key.sort(axis=1)
  return (key & np.uint64(0xFFFFFFFF)).astype(np.int32)


@partial(jax.jit, static_argnames=("mesh",))
def _scores(queries: Array, tiles: Array, offset: Array, *, mesh: Mesh) -> Array:
  """Scores of queries [b, d] and all items, [b, tiles * size]."""

  def one_device(queries, tiles, offset):
    similarity = lax.map(lambda tile: scores(queries, *tile), (tiles, offset))
    return similarity.swapaxes(0, 1).reshape(len(queries), -1)

  split, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.shard_map(
    one_device, mesh=mesh, in_specs=(split, whole, whole), out_specs=split, check_vma=False
  )(queries, tiles, offset)
