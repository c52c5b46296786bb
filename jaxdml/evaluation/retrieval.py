"""Nearest neighbours, and Recall@K, R-precision, MAP@R, mAP and MRR, of any number of items."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jaxdml._labels import numbered
from jaxdml._sharding import own_devices
from jaxdml.evaluation import _scores
from jaxdml.evaluation._checks import as_column, as_positive
from jaxdml.evaluation._ranks import Ranks, Relevant, relevant_ranks
from jaxdml.evaluation._scores import scores
from jaxdml.types import Array, DistanceFn

_AVERAGES = ("map@r", "r_precision", "precision@1", "map", "mrr")
# Items scored at a time, and queries on a CPU: 16 MB of scores.
_TILE = 16_384
_BLOCK_CPU, _BLOCK = 256, 1024


class Neighbours(NamedTuple):
  """Neighbours that `nearest_neighbours` found, the nearest first."""

  indices: np.ndarray  # rows of the gallery, [q, k] int32; -1 where a query has fewer than k
  similarities: np.ndarray  # [q, k] float32; -inf where a query has fewer than k


@own_devices
def nearest_neighbours(
  queries: Any,
  k: int,
  *,
  gallery: Any = None,
  ids: Any = None,
  gallery_ids: Any = None,
  normalize: bool = True,
  distance_fn: DistanceFn | None = None,
  block_size: int | None = None,
  progress: bool = False,
) -> Neighbours:
  """Finds the k items nearest to each query, exactly, on all local devices.

  Items that are equally near come in the order of their index. The query itself is dropped by
  identity, its duplicates are not. Memory beyond the arrays is O(block_size (16,384 + k)) a device,
  whatever the sizes.

  Args:
    queries: [q, d]; also the gallery, unless one is given.
    k: neighbours a query; at most as many as there are items are returned.
    gallery: items to search [m, d]; None searches the queries.
    ids: [q] identities, of any type that compares; an item with the query's id is the query itself.
      By default the row number without `gallery`; with one, nothing is dropped unless both ids are
      given.
    gallery_ids: [m], with `gallery`.
    normalize: scale to unit norm: similarities are cosines. Else the order is that of the Euclidean
      distance, and the similarity of q and g is q.g - |g|^2/2 (of both less the gallery's mean, or
      about that, where they are farther from the origin than from each other).
    distance_fn: ranks instead, e.g. `distances.hyperbolic()`; similarities are its negatives.
    block_size: queries at a time on a device; the default suits the device.
    progress: show a bar where it takes long.

  Raises:
    ValueError: NaN in embeddings, lengths or dimensions that differ, k below 1.

  >>> found = nearest_neighbours([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]], 2)
  >>> found.indices.tolist(), found.similarities[0].tolist()
  ([[2, 1], [0, 2], [0, 1]], [1.0, 0.0])
  """
  k = as_positive("k", k)
  task = _scores.problem(queries, gallery, ids, gallery_ids, normalize, distance_fn, name="queries")
  n, m = len(task.queries), len(task.items)
  if block_size is None:
    block_size = _BLOCK_CPU if _scores.on_cpu() else _BLOCK
  block = min(as_positive("block_size", block_size), _scores.power_of_two(n))
  mesh = _scores.device_mesh(-(-n // block))
  tile = min(_TILE, -(-m // 64) * 64)
  found = min(k, m)
  items, offset = _scores.replicated(mesh, task.tiles(tile))
  indices = np.empty((n, found), np.int32)
  similarities = np.empty((n, found), np.float32)
  for rows in _scores.blocks_of_rows(
    n, block, mesh, work=n * task.items.size, description="neighbours", progress=progress
  ):
    chosen = _scores.sharded(mesh, (task.query_rows(rows), task.excluded(rows)))
    values, places = _nearest(
      *chosen, items, offset, k=found, mesh=mesh, distance_fn=task.distance_fn
    )
    here = slice(rows[0], rows[-1] + 1)
    count = here.stop - here.start
    similarities[here] = np.asarray(values)[:count]
    indices[here] = np.asarray(places)[:count]
  indices[np.isneginf(similarities)] = -1
  if task.exponent:  # back to the units of the embeddings, as far as float32 goes
    there, most = indices >= 0, np.finfo(np.float32).max
    exact = np.ldexp(similarities[there].astype(np.float64), 2 * task.exponent)
    similarities[there] = np.clip(exact, -most, most)
  return Neighbours(indices, similarities)


@own_devices
def retrieval_metrics(
  embeddings: Any,
  labels: Any,
  *,
  ks: Sequence[int] = (1, 2, 4, 8),
  gallery: Any = None,
  gallery_labels: Any = None,
  ids: Any = None,
  gallery_ids: Any = None,
  normalize: bool = True,
  distance_fn: DistanceFn | None = None,
  macro: bool = False,
  block_size: int | None = None,
  progress: bool = False,
) -> dict[str, float]:
  """Ranks a gallery for every query and scores how early the items of its class come.

  With rel(i) = 1 where the i-th nearest item has the query's label, R their number in the gallery,
  P(i) = 1/i sum_{j<=i} rel(j), each a mean over the queries:

      Recall@K    = 1 if any rel(i) = 1, i <= K, else 0         (arXiv 1511.06452)
      Precision@1 = rel(1), the same as Recall@1
      R-precision = 1/R sum_{i<=R} rel(i)                        (arXiv 2003.08505)
      MAP@R       = 1/R sum_{i<=R} rel(i) P(i)                   (arXiv 2003.08505)
      mAP         = 1/R sum_i rel(i) P(i), over the whole gallery
      MRR         = 1/i of the first i with rel(i) = 1

  A query without a relevant item is left out and counted. An unknown label (None, NaN, or -1) is
  no class: such an item is relevant to no query, and such a query is left out. Items that are
  equally near rank by their index. Exact, in float32, on all local devices; memory beyond the
  arrays is one copy of the gallery and a few blocks, whatever the sizes. Few relevant items a query
  (128 on a CPU) take no sort: the items that beat each are counted, at little more than the cost of
  the product. With more the host sorts, at some 20 ns an item and query.

  Args:
    embeddings: queries [n, d]; also the gallery, unless one is given.
    labels: [n], of any type that compares; or several sets of them, a mapping name -> [n], all
      scored in one pass over the gallery.
    ks: the K of Recall@K.
    gallery: items to rank [m, d]; None ranks the queries among themselves.
    gallery_labels: [m], or a mapping of the same names; with `gallery` and only with it.
    ids: [n] identities; an item with the query's id is the query itself and is dropped. By default
      the row number without `gallery`; with one, nothing is dropped unless both ids are given.
    gallery_ids: [m], with `gallery`.
    normalize: scale embeddings to unit norm and rank by cosine similarity; else by Euclidean
      distance between them as they are.
    distance_fn: ranks instead, smaller first, embeddings as they are; the host sorts.
    macro: also average within each class of queries first, then over the classes.
    block_size: queries at a time on a device; the default suits the device.
    progress: show a bar where it takes long.

  Returns:
    "recall@K" for each K, "map@r", "r_precision", "precision@1", "map", "mrr" (NaN where no query
    has a relevant item), "num_queries" (those scored) and "num_without_match" (those left out),
    of them "num_unknown" that have no known label, where there are such.
    `macro` adds "macro/NAME" of each mean. Several sets of labels give "SET/NAME".

  Raises:
    ValueError: NaN in embeddings, lengths that differ, a gallery without labels or the reverse,
      text on one side and numbers on the other.

  >>> x = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.2]]
  >>> metrics = retrieval_metrics(x, [0, 0, 1, 2], ks=(1,))
  >>> metrics["recall@1"], metrics["map@r"], metrics["num_queries"], metrics["num_without_match"]
  (1.0, 1.0, 2, 2)
  >>> sorted(retrieval_metrics(x, {"fine": [0, 0, 1, 2], "coarse": [0, 0, 1, 1]}, ks=(1,)))[:2]
  ['coarse/map', 'coarse/map@r']
  """
  if not isinstance(ks, Iterable):
    raise ValueError(f"ks: expected numbers, such as (1, 10), got {ks!r}")
  ks = [as_positive("ks", k) for k in ks]
  block_size = None if block_size is None else as_positive("block_size", block_size)
  task = _scores.problem(
    embeddings, gallery, ids, gallery_ids, normalize, distance_fn, name="embeddings"
  )
  sets = _label_sets(labels, gallery_labels, len(task.queries), len(task.items), gallery is None)
  relevant = [Relevant(task, mine, theirs) for mine, theirs in sets.values()]
  values = [_Values(ks, len(task.queries)) for _ in sets]
  for number, ranks in relevant_ranks(task, relevant, block_size=block_size, progress=progress):
    values[number].add(ranks)
  result = {}
  for (name, (mine, _)), per_query in zip(sets.items(), values, strict=True):
    prefix = f"{name}/" if isinstance(labels, Mapping) else ""
    means = per_query.means(mine, macro=macro)
    result |= {prefix + key: value for key, value in means.items()}
  return result


@partial(jax.jit, static_argnames=("k", "mesh", "distance_fn"))
def _nearest(
  queries: Array, excluded: Array, items: Array, offset: Array, *, k: int, mesh: Mesh,
  distance_fn: DistanceFn | None,
) -> tuple[Array, Array]:  # fmt: skip
  """Returns the k best scores of each query [b, k] and the items that have them."""
  tile = items.shape[1]
  kept = min(k, tile)

  def one_device(queries, excluded, items, offset):
    rows = jnp.arange(len(queries))[:, None]

    def body(best, inputs):
      number, items, offset = inputs
      start = number * tile
      similarity = scores(queries, items, offset, distance_fn)
      similarity = jnp.where(similarity == 0, 0.0, similarity)  # top_k tells -0 from 0
      here = jnp.where(excluded >= start, excluded - start, tile)
      similarity = similarity.at[rows, here].set(-jnp.inf, mode="drop")
      values, places = _top_k(similarity, kept)
      # Items found before have the lower indices and stand first: they win ties.
      values = jnp.concatenate([best[0], values], axis=1)
      places = jnp.concatenate([best[1], places + start], axis=1)
      values, order = lax.top_k(values, k)
      return (values, jnp.take_along_axis(places, order, axis=1)), None

    nothing = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    return lax.scan(body, nothing, (jnp.arange(len(items)), items, offset))[0]

  return _scores.on_each_device(one_device, mesh, (queries, excluded), (items, offset))


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


class _Values:
  """The metrics of each query, NaN until its ranks are known."""

  def __init__(self, ks: Sequence[int], n: int):
    self._ks = ks
    names = [*(f"recall@{k}" for k in ks), *_AVERAGES]
    self._values = {name: np.full(n, np.nan) for name in names}

  def add(self, found: Ranks) -> None:
    """Takes the ranks of some queries' relevant items."""
    scored = found.counts > 0
    rows, counts = found.rows[scored], found.counts[scored]
    if not len(rows):
      return
    starts = np.cumsum(counts) - counts
    before = np.arange(len(found.ranks)) - np.repeat(starts, counts)
    early = found.ranks < np.repeat(counts, counts)
    precision = (before + 1) / (found.ranks + 1.0)
    first = found.ranks[starts]
    total = lambda terms: np.add.reduceat(terms, starts, dtype=np.float64) / counts
    self._values["map@r"][rows] = total(precision * early)
    self._values["r_precision"][rows] = total(early)
    self._values["precision@1"][rows] = first == 0
    self._values["map"][rows] = total(precision)
    self._values["mrr"][rows] = 1 / (first + 1.0)
    for k in self._ks:
      self._values[f"recall@{k}"][rows] = first < k

  def means(self, labels: np.ndarray, *, macro: bool) -> dict[str, float]:
    """Means over the queries that have a relevant item, over their classes too if `macro`."""
    scored = ~np.isnan(self._values["mrr"])
    count = int(scored.sum())
    mean = lambda values: float(values.mean()) if count else float("nan")
    found = {name: values[scored] for name, values in self._values.items()}
    result = {name: mean(values) for name, values in found.items()}
    result |= {"num_queries": count, "num_without_match": len(scored) - count}
    if unknown := int((labels < 0).sum()):
      result["num_unknown"] = unknown
    if macro:
      sizes = np.bincount(labels[scored])
      for name, values in found.items():
        sums = np.bincount(labels[scored], weights=values)
        result[f"macro/{name}"] = mean(sums[sizes > 0] / sizes[sizes > 0])
    return result


def _label_sets(
  labels: Any, gallery_labels: Any, n: int, m: int, alone: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Checks the labels and returns name -> (codes of the queries [n], codes of the items [m])."""
  if alone and gallery_labels is not None:
    raise ValueError("gallery_labels: expected only with gallery, got it alone; pass gallery too")
  if not alone and gallery_labels is None:
    raise ValueError("gallery_labels: expected one label a gallery row, got None; pass them")
  several = isinstance(labels, Mapping)
  named = labels if several else {"": labels}
  if not named:
    raise ValueError("labels: expected at least one set of labels, got an empty mapping")
  theirs = named
  if not alone:
    theirs = gallery_labels if several else {"": gallery_labels}
    if not isinstance(theirs, Mapping) or set(theirs) != set(named):
      got = sorted(theirs) if isinstance(theirs, Mapping) else "labels without a name"
      raise ValueError(f"gallery_labels: expected the sets {sorted(named)} of labels, got {got}")
  result = {}
  for name, values in named.items():
    suffix = f"[{name!r}]" if several else ""
    mine = as_column(f"labels{suffix}", values, n, "embeddings")
    if not alone:
      other = as_column(f"gallery_labels{suffix}", theirs[name], m, "gallery")
    numbers = numbered("labels, ids", mine) if alone else numbered("labels, ids", mine, other)
    result[name] = numbers[0], numbers[-1]
  return result
