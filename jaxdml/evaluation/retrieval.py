"""Retrieval metrics: Recall@K, MAP@R and R-precision, exact and in blocks of queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdml.evaluation.checks import as_column, as_embeddings, as_positive, normalized
from jaxdml.types import Array


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
  block_size: int = 1024,
) -> dict[str, float]:
  """Ranks a gallery for every query and scores how early the items of its class come.

  With rel(i) = 1 where the i-th nearest item has the query's label, R their number in the gallery:

      Recall@K    = share of queries with any rel(i) = 1, i <= K
      R-precision = mean over queries of  1/R sum_{i<=R} rel(i)
      MAP@R       = mean over queries of  1/R sum_{i<=R} rel(i) P(i),  P(i) = 1/i sum_{j<=i} rel(j)

  (Recall@K of arXiv 1511.06452, MAP@R of arXiv 2003.08505.) A query without a relevant item is left
  out and counted. Items that are equally near rank by their index. Recall@K takes no sort: it
  counts the items that beat the best relevant one.

  Args:
    embeddings: queries [n, d]; also the gallery, unless one is given.
    labels: [n], of any type that compares.
    ks: the K of Recall@K.
    gallery: items to rank [m, d]; None ranks the queries among themselves.
    gallery_labels: [m], with `gallery` and only with it.
    ids: [n] identities; an item with the query's id is the query itself and is dropped. By default
      the row number without `gallery`; with one, nothing is dropped unless both ids are given.
    gallery_ids: [m], with `gallery`.
    normalize: scale embeddings to unit norm and rank by cosine similarity; else by Euclidean
      distance between them as they are.
    block_size: queries at a time; memory is O(block_size * m).

  Returns:
    "recall@K" for each K, "map@r", "r_precision" (NaN where no query has a relevant item),
    "num_queries" (those scored) and "num_without_match" (those left out).

  Raises:
    ValueError: NaN in embeddings, lengths that differ, a gallery without labels or the reverse.

  >>> x = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.2]]
  >>> retrieval_metrics(x, [0, 0, 1, 2], ks=(1,))
  {'recall@1': 1.0, 'map@r': 1.0, 'r_precision': 1.0, 'num_queries': 2, 'num_without_match': 2}
  """
  ks = [as_positive("ks", k) for k in ks]
  block_size = as_positive("block_size", block_size)
  queries = as_embeddings("embeddings", embeddings)
  labels = as_column("labels", labels, len(queries), "embeddings")
  if gallery is None:
    for name, value in (("gallery_labels", gallery_labels), ("gallery_ids", gallery_ids)):
      if value is not None:
        raise ValueError(f"{name}: expected only with gallery, got it alone; pass gallery too")
    ids = (
      np.arange(len(queries)) if ids is None else as_column("ids", ids, len(queries), "embeddings")
    )
    items, item_labels, item_ids = queries, labels, ids
  else:
    items, item_labels, item_ids = _check_gallery(
      queries, gallery, gallery_labels, gallery_ids, ids
    )
    ids = None if ids is None else as_column("ids", ids, len(queries), "embeddings")
  if normalize:
    queries, items = normalized(queries), normalized(items)
    offset = np.zeros(len(items), np.float32)
  else:
    # q.g - |g|^2/2 = (|q|^2 - |q - g|^2)/2: its order is that of the Euclidean distance.
    offset = 0.5 * np.square(items).sum(1)

  label, item_label = _codes(labels, item_labels)
  if ids is None:
    identity, item_identity = np.full(len(label), -1), np.full(len(item_label), -2)
  else:
    identity, item_identity = _codes(ids, item_ids)
  # The most items of a query's class, rounded up so that few programs are compiled.
  counts = np.bincount(item_label, minlength=label.max() + 1)[label].max()
  depth = min(len(items), 1 << int(max(counts, 1) - 1).bit_length())
  rank, relevant, precision, average = _score_all(
    queries,
    label,
    identity,
    items,
    offset,
    item_label,
    item_identity,
    depth,
    min(block_size, len(label)),
  )

  scored = relevant > 0
  count = int(scored.sum())

  def mean(values: np.ndarray) -> float:
    return float(values[scored].mean(dtype=np.float64)) if count else float("nan")

  return {
    **{f"recall@{k}": mean(rank < k) for k in ks},
    "map@r": mean(average),
    "r_precision": mean(precision),
    "num_queries": count,
    "num_without_match": len(label) - count,
  }


def _check_gallery(
  queries: np.ndarray, gallery: Any, gallery_labels: Any, gallery_ids: Any, ids: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  items = as_embeddings("gallery", gallery)
  if items.shape[1] != queries.shape[1]:
    raise ValueError(
      f"gallery: expected embeddings of size {queries.shape[1]} like the queries, "
      f"got {items.shape[1]}; embed both with the same model"
    )
  if gallery_labels is None:
    raise ValueError("gallery_labels: expected one label a gallery row, got None; pass them")
  if (ids is None) != (gallery_ids is None):
    raise ValueError(
      "ids, gallery_ids: expected both or neither, got one; an id means something only if "
      "queries and gallery share it"
    )
  item_labels = as_column("gallery_labels", gallery_labels, len(items), "gallery")
  if gallery_ids is not None:
    gallery_ids = as_column("gallery_ids", gallery_ids, len(items), "gallery")
  return items, item_labels, gallery_ids


def _codes(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Renumbers the values of both arrays from 0, equal values alike: any type, any range."""
  _, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
  codes = codes.astype(np.int32)
  return codes[: len(first)], codes[len(first) :]


def _score_all(
  queries: np.ndarray,
  label: np.ndarray,
  identity: np.ndarray,
  items: np.ndarray,
  offset: np.ndarray,
  item_label: np.ndarray,
  item_identity: np.ndarray,
  depth: int,
  block_size: int,
) -> tuple[np.ndarray, ...]:
  """Runs `_score_block` over blocks of queries, the last one padded, and joins the results."""
  on_device = jax.device_put((items, offset, item_label, item_identity.astype(np.int32)))
  results = []
  for start in range(0, len(queries), block_size):
    rows = np.arange(start, start + block_size)
    rows = np.minimum(rows, len(queries) - 1)
    results.append(
      _score_block(queries[rows], label[rows], identity[rows].astype(np.int32), *on_device, depth)
    )
  return tuple(
    np.concatenate([np.asarray(block) for block in column])[: len(queries)]
    for column in zip(*results, strict=True)
  )


@partial(jax.jit, static_argnums=7)
def _score_block(
  queries: Array,
  label: Array,
  identity: Array,
  items: Array,
  offset: Array,
  item_label: Array,
  item_identity: Array,
  depth: int,
) -> tuple[Array, Array, Array, Array]:
  """Returns, a query: rank of the best relevant item (from 0), R, R-precision, AP at R."""
  dots = jnp.matmul(queries, items.T, precision=lax.Precision.HIGHEST)
  similarity = dots - offset
  similarity = jnp.where(similarity == 0, 0.0, similarity)  # top_k tells -0 from 0
  present = identity[:, None] != item_identity
  relevant = (label[:, None] == item_label) & present
  similarity = jnp.where(present, similarity, -jnp.inf)

  best = jnp.max(jnp.where(relevant, similarity, -jnp.inf), axis=1, keepdims=True)
  at_best = similarity == best
  first = jnp.argmax(at_best & relevant, axis=1)
  index = jnp.arange(items.shape[0])
  beats = (similarity > best) | (at_best & (index < first[:, None]))
  rank = jnp.sum(beats, axis=1)

  total = jnp.sum(relevant, axis=1)
  _, nearest = lax.top_k(similarity, depth)  # equal similarities come in the order of their index
  hits = jnp.take_along_axis(relevant, nearest, axis=1) & (jnp.arange(depth) < total[:, None])
  found = jnp.cumsum(hits, axis=1)
  denominator = jnp.maximum(total, 1)
  average = jnp.sum(hits * found / jnp.arange(1, depth + 1), axis=1) / denominator
  return rank, total, jnp.sum(hits, axis=1) / denominator, average
