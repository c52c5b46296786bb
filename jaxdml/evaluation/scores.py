"""What retrieval metrics and neighbours share: checked inputs, one score, blocks over devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxdml.evaluation.checks import as_column, as_embeddings, normalized
from jaxdml.types import Array

AXIS = "queries"
# A bar is shown only for work that takes a while: query-item products.
_LONG = 2e12


class Problem(NamedTuple):
  """Queries, the items that they rank, and which items each query must not see.

  Attributes:
    queries: [n, d] float32.
    items: [m, d] float32; the same object as `queries` where they rank each other.
    offset: [m] float32; the score of query q and item g is q.g - offset.
    dropped: for each query the items that are the query itself, as a table by identity: `order`
      lists the items by identity, and query i drops order[start[i] : stop[i]].
  """

  queries: np.ndarray
  items: np.ndarray
  offset: np.ndarray
  dropped: tuple[np.ndarray, np.ndarray, np.ndarray]

  def excluded(self, rows: np.ndarray) -> np.ndarray:
    """The items that queries `rows` must not see, [len(rows), e]; places left over hold m."""
    order, start, stop = self.dropped
    return padded_slices(order, start[rows], stop[rows], fill=len(self.items))


def problem(
  queries: Any,
  gallery: Any,
  ids: Any,
  gallery_ids: Any,
  normalize: bool,
  *,
  name: str,
) -> Problem:
  """Checks the arguments that every ranking takes; `name` is what the caller calls its queries."""
  queries = as_embeddings(name, queries)
  ids = None if ids is None else as_column("ids", ids, len(queries), name)
  if gallery is None:
    if gallery_ids is not None:
      raise ValueError("gallery_ids: expected only with gallery, got it alone; pass gallery too")
    items = queries
    item_ids = ids = np.arange(len(queries)) if ids is None else ids
  else:
    items = as_embeddings("gallery", gallery)
    if items.shape[1] != queries.shape[1]:
      raise ValueError(
        f"gallery: expected embeddings of size {queries.shape[1]} like the queries, "
        f"got {items.shape[1]}; embed both with the same model"
      )
    if (ids is None) != (gallery_ids is None):
      raise ValueError(
        "ids, gallery_ids: expected both or neither, got one; an id means something only if "
        "queries and gallery share it"
      )
    item_ids = gallery_ids
    if gallery_ids is not None:
      item_ids = as_column("gallery_ids", gallery_ids, len(items), "gallery")
  if normalize:
    same = items is queries
    queries = normalized(queries)
    items = queries if same else normalized(items)
    offset = np.zeros(len(items), np.float32)
  else:
    # q.g - |g|^2/2 = (|q|^2 - |q - g|^2)/2: its order is that of the Euclidean distance.
    offset = 0.5 * np.einsum("nd,nd->n", items, items)
  if ids is None:
    nothing = np.zeros(len(queries), np.int64)
    return Problem(queries, items, offset, (np.zeros(0, np.int64), nothing, nothing))
  return Problem(queries, items, offset, matches(ids, item_ids))


def matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where the values of `first` [n] occur in `second` [m], whatever their type.

  Returns (order [m], start [n], stop [n]): first[i] occurs at order[start[i] : stop[i]], ascending.

  >>> order, start, stop = matches(np.array(["b", "z"]), np.array(["a", "b", "b"]))
  >>> order[start[0] : stop[0]].tolist(), (stop - start).tolist()
  ([1, 2], [2, 0])
  """
  if first is second:
    second_codes = first_codes = np.unique(first, return_inverse=True)[1]
  else:
    codes = np.unique(np.concatenate([first, second]), return_inverse=True)[1]
    first_codes, second_codes = codes[: len(first)], codes[len(first) :]
  order = np.argsort(second_codes, kind="stable")
  ranked = second_codes[order]
  start = np.searchsorted(ranked, first_codes, side="left")
  return order, start, np.searchsorted(ranked, first_codes, side="right")


def padded_slices(
  values: np.ndarray, start: np.ndarray, stop: np.ndarray, *, fill: int, width: int | None = None
) -> np.ndarray:
  """Lays out values[start[i] : stop[i]] as rows, int32 [n, width], filled up with `fill`.

  The default width is the longest row, at least 1, rounded up to a power of 2: few shapes, few
  programs.
  """
  length = stop - start
  if width is None:
    width = power_of_two(int(length.max(initial=1)))
  places = np.arange(width)
  inside = places < length[:, None]
  if not len(values):
    return np.full(inside.shape, fill, np.int32)
  chosen = values[np.where(inside, start[:, None] + places, 0)]
  return np.where(inside, chosen, fill).astype(np.int32)


def power_of_two(n: int) -> int:
  """The smallest power of 2 that is at least n."""
  return 1 << max(n - 1, 0).bit_length()


def scores(queries: Array, items: Array, offset: Array) -> Array:
  """Scores [b, c] of queries [b, d] and items [c, d]; -inf where the offset is infinite."""
  dots = jnp.matmul(queries, items.T, precision=lax.Precision.HIGHEST)
  return dots - offset


def tiled_items(task: Problem, tile: int) -> tuple[np.ndarray, np.ndarray]:
  """The items in tiles [tiles, tile, d] and their offsets [tiles, tile], infinite for padding."""
  m, d = task.items.shape
  tiles = -(-m // tile)
  offset = np.full(tiles * tile, np.inf, np.float32)
  offset[:m] = task.offset
  items = task.items
  if tiles * tile != m:
    items = np.zeros((tiles * tile, d), np.float32)
    items[:m] = task.items
  return items.reshape(tiles, tile, d), offset.reshape(tiles, tile)


def device_mesh(blocks: int) -> Mesh:
  """As many local devices as there are blocks of queries to share out."""
  devices = jax.local_devices()
  return Mesh(np.asarray(devices[: max(min(len(devices), blocks), 1)]), (AXIS,))


def replicated(mesh: Mesh, values: Any) -> Any:
  """Puts arrays whole on every device of the mesh."""
  return jax.device_put(values, NamedSharding(mesh, PartitionSpec()))


def sharded(mesh: Mesh, values: Any) -> Any:
  """Splits the first axis of arrays over the devices of the mesh."""
  return jax.device_put(values, NamedSharding(mesh, PartitionSpec(AXIS)))


def blocks_of_rows(
  n: int, block: int, mesh: Mesh, *, work: float, description: str, progress: bool
) -> Iterator[np.ndarray]:
  """Yields rows 0 to n - 1, `block` for each device at a time; the last one repeats row n - 1.

  A bar shows how far one is, if `progress` and the work, in multiply-adds, takes a while.
  """
  step = block * mesh.size
  starts = range(0, n, step)
  for start in tqdm(
    starts, desc=description, unit="block", leave=False,
    disable=None if progress and work > _LONG else True,
  ):  # fmt: skip
    yield np.minimum(np.arange(start, start + step), n - 1)
