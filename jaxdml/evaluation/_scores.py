"""Scores of queries and items, on all local devices: shared by neighbours and retrieval metrics.

A `Problem` holds the checked inputs. Queries are split over the devices in blocks of one size, so
that one program serves them all; the items lie whole on every device, in tiles. `scores` is the
only product that ranks anything: a pair's score is then the same wherever it is computed.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxdml._labels import numbered
from jaxdml.evaluation._checks import as_column, as_embeddings, normalized
from jaxdml.types import Array, DistanceFn

AXIS = "queries"
# A bar is shown only for work that takes a while: query-item products.
_LONG = 2e12


class Problem(NamedTuple):
  """Queries, the items that they rank, and which items each query must not see."""

  queries: np.ndarray  # [n, d] float32, as given, or moved to the origin with the items
  # [m, d] float32, likewise; the same object as `queries` where they rank each other.
  items: np.ndarray
  normalize: bool  # scale both to unit norm
  offset: np.ndarray  # [m] float32; the score of query q and item g is q.g - offset
  # (order, start, stop): query i must not see the items order[start[i] : stop[i]].
  dropped: tuple[np.ndarray, np.ndarray, np.ndarray]
  distance_fn: DistanceFn | None = None  # scores are the negatives of its distances; None: as above
  exponent: int = 0  # both were divided by 2^exponent, and scores by its square

  def query_rows(self, rows: np.ndarray) -> np.ndarray:
    """Returns queries `rows` as they are scored, [len(rows), d]."""
    chosen = self.queries[rows]
    return normalized(chosen) if self.normalize else chosen

  def excluded(self, rows: np.ndarray) -> np.ndarray:
    """Returns the items that queries `rows` must not see, [len(rows), e], filled up with m."""
    order, start, stop = self.dropped
    return padded_slices(order, start[rows], stop[rows], fill=len(self.items))

  def tiles(self, size: int, order: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the items as they are scored, [tiles, size, d], and their offsets [tiles, size].

    Offsets are infinite for the padding. Each row is scaled by itself, so that it has the same
    bits here and among the queries. `order` [m] is that of the items; None: their own.
    """
    m, d = self.items.shape
    count = -(-m // size)
    items = np.zeros((count * size, d), np.float32)
    for start in range(0, m, size):
      here = slice(start, min(start + size, m))
      rows = self.items[here] if order is None else self.items[order[here]]
      items[here] = normalized(rows) if self.normalize else rows
    offset = np.full(count * size, np.inf, np.float32)
    offset[:m] = self.offset if order is None else self.offset[order]
    return items.reshape(count, size, d), offset.reshape(count, size)


def problem(
  queries: Any, gallery: Any, ids: Any, gallery_ids: Any, normalize: bool,
  distance_fn: DistanceFn | None = None, *, name: str,
) -> Problem:  # fmt: skip
  """Checks the arguments that every ranking takes; `name` is the queries' in the messages."""
  normalize = normalize and distance_fn is None
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
  exponent, offset = 0, np.zeros(len(items), np.float32)
  if not normalize and distance_fn is None:
    alone, exponent = items is queries, _far_exponent(queries, items)
    if exponent:
      queries = np.ldexp(queries, -exponent)
      items = queries if alone else np.ldexp(items, -exponent)
    if (center := _far_center(items)) is not None:
      queries = queries - center
      items = queries if alone else items - center
    # q.g - |g|^2/2 = (|q|^2 - |q - g|^2)/2: its order is that of the Euclidean distance.
    offset = 0.5 * np.einsum("nd,nd->n", items, items)
  nothing = np.zeros(len(queries), np.int64)
  dropped = nothing[:0], nothing, nothing
  if ids is not None:
    columns = (ids,) if item_ids is ids else (ids, item_ids)
    numbers = numbered("labels, ids", *columns, unknown=None)
    dropped = matches(numbers[0], numbers[-1])
  return Problem(queries, items, normalize, offset, dropped, distance_fn, exponent)


def _far_exponent(queries: np.ndarray, items: np.ndarray) -> int:
  """Returns the power of 2 at the largest entry, 0 where squares keep to float32 as they are."""
  largest = max(float(np.abs(a).max()) for a in (queries, items))
  return 0 if 2.0**-40 <= largest <= 2.0**40 or not largest else int(np.frexp(largest)[1])


def _far_center(items: np.ndarray) -> np.ndarray | None:
  """Returns about the mean [d] of items that are farther from the origin than from each other.

  There the digits of q.g would say where both are, not how far from each other. The mean is
  rounded to a power of two below their spread, so that whole numbers stay whole and equal
  distances equal. None for all other items.
  """
  mean = items.mean(axis=0, dtype=np.float64)
  squares = np.einsum("nd,nd->", items, items, dtype=np.float64) / len(items)
  spread = max(squares - mean @ mean, 1e-12 * squares)
  if mean @ mean <= spread:
    return None
  unit = 2.0 ** np.floor(np.log2(np.sqrt(spread / len(mean))))
  return (np.round(mean / unit) * unit).astype(np.float32)


def matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Finds the numbers of `first` [n] in `second` [m], as `numbered` gave them; -1 matches nothing.

  Returns (order [m], start [n], stop [n]): first[i] occurs at order[start[i] : stop[i]], ascending.

  >>> order, start, stop = matches(np.array([1, 2, -1]), np.array([0, 1, -1, 1]))
  >>> order[start[0] : stop[0]].tolist(), (stop - start).tolist()
  ([1, 3], [2, 0, 0])
  """
  order = np.argsort(second, kind="stable")
  ranked = second[order]
  start = np.searchsorted(ranked, first, side="left")
  stop = np.searchsorted(ranked, first, side="right")
  return order, start, np.where(first < 0, start, stop)


def padded_slices(
  values: np.ndarray, start: np.ndarray, stop: np.ndarray, *, fill: int
) -> np.ndarray:
  """Lays out values[start[i] : stop[i]] as rows, int32 [n, width], filled up with `fill`.

  The width is the longest row, at least 1, rounded up to a power of 2: few shapes, few programs.
  """
  length = stop - start
  places = np.arange(power_of_two(int(length.max(initial=1))))
  inside = places < length[:, None]
  if not len(values):
    return np.full(inside.shape, fill, np.int32)
  chosen = values[np.where(inside, start[:, None] + places, 0)]
  return np.where(inside, chosen, fill).astype(np.int32)


def power_of_two(n: int) -> int:
  """Returns the smallest power of 2 that is at least n."""
  return 1 << max(n - 1, 0).bit_length()


def scores(
  queries: Array, items: Array, offset: Array | None, distance_fn: DistanceFn | None = None
) -> Array:
  """Returns the scores [b, c] of queries [b, d] and items [c, d]; -inf where the offset is inf."""
  if distance_fn is not None:
    return -distance_fn(queries, items) - offset
  dots = jnp.matmul(queries, items.T, precision=lax.Precision.HIGHEST)
  return dots if offset is None else dots - offset


def device_mesh(blocks: int) -> Mesh:
  """Returns a mesh of as many local devices as there are blocks of queries to share out."""
  devices = jax.local_devices()
  return Mesh(np.asarray(devices[: max(min(len(devices), blocks), 1)]), (AXIS,))


def on_cpu(mesh: Mesh | None = None) -> bool:
  """Tells whether programs over a mesh, by default that of `device_mesh`, run on CPUs."""
  return (mesh or device_mesh(1)).devices.flat[0].platform == "cpu"


def replicated(mesh: Mesh, values: Any) -> Any:
  """Puts arrays whole on every device of the mesh."""
  return jax.device_put(values, NamedSharding(mesh, PartitionSpec()))


def sharded(mesh: Mesh, values: Any) -> Any:
  """Splits the first axis of arrays over the devices of the mesh."""
  return jax.device_put(values, NamedSharding(mesh, PartitionSpec(AXIS)))


def on_each_device(
  fn: Callable[..., Any], mesh: Mesh, split: tuple[Any, ...], whole: tuple[Any, ...]
) -> Any:
  """Calls fn(*split, *whole) on each device with its part of the queries and with all items.

  `split` are arrays of the queries, `whole` of the items, or None; each result of `fn` has the
  queries of the device as first axis.
  """
  specs = (PartitionSpec(AXIS),) * len(split) + (PartitionSpec(),) * len(whole)
  mapped = jax.shard_map(
    fn, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
  )
  return mapped(*split, *whole)


def descending_keys(similarity: np.ndarray) -> np.ndarray:
  """Returns uint64 keys [b, m] of scores [b, m] that sort by score, highest first, then by index.

  The index is in the lower half: no two keys are equal, and an unstable sort gives one order.

  >>> keys = np.sort(descending_keys(np.array([[-1.0, 0.5, -0.0, 0.5, 0.0]], np.float32)))
  >>> (keys & 0xFFFFFFFF).tolist()
  [[1, 3, 2, 4, 0]]
  """
  # As unsigned integers, floats of either sign ascend away from 0: with those above 0 turned
  # round, all descend. Adding 0 makes -0 equal to 0.
  bits = (similarity + np.float32(0)).view(np.uint32)
  keys = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)
  keys <<= np.uint64(32)
  keys |= np.arange(similarity.shape[1], dtype=np.uint64)
  return keys


def blocks_of_rows(
  n: int, block: int, mesh: Mesh, *, work: float, description: str, progress: bool
) -> Iterator[np.ndarray]:
  """Yields rows 0 to n - 1, `block` for each device at a time; the last one repeats row n - 1.

  A bar shows how far one is, if `progress` and the work, in multiply-adds, takes a while.
  """
  step = block * mesh.size
  shown = {"leave": False, "disable": None if progress and work > _LONG else True}
  for start in tqdm(range(0, n, step), desc=description, unit="block", **shown):
    yield np.minimum(np.arange(start, start + step), n - 1)
