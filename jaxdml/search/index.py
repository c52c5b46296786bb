"""The nearest embeddings of a query: exactly, or by a library's approximate index.

All rank by cosine similarity, as `evaluation.retrieval_metrics` does, or the exact one by the
distance that a model was trained on.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdml import evaluation
from jaxdml.errors import JaxdmlError
from jaxdml.evaluation import Neighbours
from jaxdml.evaluation import _checks as checks
from jaxdml.types import DistanceFn

# HNSW (arXiv 1603.09320): links a node, candidates looked at while building and while searching.
_LINKS, _BUILDING, _SEARCHING = 32, 200, 128


class SearchError(JaxdmlError, RuntimeError):
  """A store, a folder or an image that cannot be used; the message names it and what to do."""


SearchFn = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(queries of length 1, k) -> (rows [q, k], -1 where there are fewer; their cosines [q, k])."""


def _exact(items: np.ndarray, distance_fn: DistanceFn | None = None) -> SearchFn:
  return lambda queries, k: evaluation.nearest_neighbours(
    queries, k, gallery=items, distance_fn=distance_fn
  )


def _faiss(items: np.ndarray) -> SearchFn:
  import faiss

  items = checks.normalized(items)
  index = faiss.IndexHNSWFlat(items.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
  index.hnsw.efConstruction = _BUILDING
  index.add(items)

  def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    index.hnsw.efSearch = max(_SEARCHING, 2 * k)
    similarities, rows = index.search(queries, k)
    return rows, similarities

  return search


def _usearch(items: np.ndarray) -> SearchFn:
  from usearch.index import BatchMatches, MetricKind
  from usearch.index import Index as Graph

  graph = Graph(ndim=items.shape[1], metric=MetricKind.IP, dtype="f32", connectivity=_LINKS,
                expansion_add=_BUILDING, expansion_search=_SEARCHING)  # fmt: skip
  graph.add(np.arange(len(items)), checks.normalized(items))

  def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    graph.expansion_search = max(_SEARCHING, 2 * k)
    found = graph.search(queries, k)
    rows = np.full((len(queries), k), -1)
    similarities = np.full((len(queries), k), -np.inf)
    for i, matches in enumerate(found if isinstance(found, BatchMatches) else [found]):
      rows[i, : len(matches)] = matches.keys
      similarities[i, : len(matches)] = 1 - matches.distances  # 1 - inner product
    return rows, similarities

  return search


BACKENDS: Mapping[str, tuple[Callable[[np.ndarray], SearchFn], str, str]] = {
  "exact": (_exact, "exact", ""),
  "faiss": (_faiss, "approximate: HNSW of faiss", "faiss-cpu"),
  "usearch": (_usearch, "approximate: HNSW of usearch", "usearch"),
}
"""Name -> (what builds its search, what it is, the package that it needs)."""


class Index:
  """Embeddings to search.

  Attributes:
    backend: its name.
    description: what it is, for people: exact, or approximate and of which library.
    approximate: whether it may miss neighbours; `recall` says how many.

  >>> index = Index([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
  >>> found = index.search([[3.0, 0.1]], k=2)
  >>> found.indices.tolist(), found.similarities.round(2).tolist()
  ([[1, 2]], [[1.0, 0.7300000190734863]])
  """

  def __init__(
    self, embeddings: Any, *, backend: str = "exact", distance_fn: DistanceFn | None = None
  ):
    """Builds the index.

    Args:
      embeddings: [n, d], of any length.
      backend: "exact" (`evaluation.nearest_neighbours`, on all local devices); "faiss" or
        "usearch", which build a graph (HNSW, arXiv 1603.09320) that is searched in a fraction of
        the time and may miss some: most of all exact copies, where there are hundreds of one.
      distance_fn: to rank by in place of cosine similarity, e.g. `Store.distance_fn`; exact alone.
        Similarities are its negatives.

    Raises:
      ValueError: an unknown backend, NaN or no embeddings.
      SearchError: the backend's library is not installed, or it cannot rank by the distance.
    """
    if backend not in BACKENDS:
      raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}; got {backend!r}")
    build, self.description, package = BACKENDS[backend]
    self.backend, self.approximate = backend, backend != "exact"
    self._items = checks.as_embeddings("embeddings", embeddings)
    self._ranks_by = distance_fn
    if distance_fn is not None:
      if self.approximate:
        raise SearchError(
          f"backend {backend!r} ranks by cosine similarity alone, and these embeddings are ranked "
          f"by {getattr(distance_fn, 'name', distance_fn)}; take the backend exact"
        )
      build = functools.partial(_exact, distance_fn=distance_fn)
    try:
      self._search = build(self._items)
    except ImportError as error:
      raise SearchError(
        f"backend {backend!r} needs the package {package}, which cannot be imported ({error}); "
        f"install it with: pip install {package}, or take the backend exact"
      ) from error

  def __len__(self) -> int:
    return len(self._items)

  def search(self, queries: Any, k: int) -> Neighbours:
    """Finds the k nearest rows of each query.

    Args:
      queries: [q, d], of any length.
      k: how many; at most as many as there are rows are returned.

    Returns:
      Neighbours(indices [q, k] int32, similarities [q, k] float32), the nearest first; equally near
      ones by index. Where an approximate index finds fewer, -1 and -inf come last.

    Raises:
      ValueError: NaN in queries, another dimension, k below 1.
    """
    queries = checks.as_embeddings("queries", queries)
    queries = checks.normalized(queries) if self._ranks_by is None else queries
    k = min(checks.as_positive("k", k), len(self))
    if queries.shape[1] != self._items.shape[1]:
      raise ValueError(
        f"queries: expected {self._items.shape[1]} dimensions as the index has, "
        f"got {queries.shape[1]}"
      )
    rows, similarities = map(np.asarray, self._search(queries, k))
    similarities = np.where(rows < 0, -np.inf, similarities).astype(np.float32)
    order = np.lexsort((rows, -similarities))
    return Neighbours(np.take_along_axis(rows, order, 1).astype(np.int32),
                      np.take_along_axis(similarities, order, 1))  # fmt: skip


def recall(found: Neighbours, exact: Neighbours) -> float:
  """The share of the places whose item is as near as that of the exact search.

  Counted by similarity, so that an equally near item is no miss; both are of the same queries and
  the same k.

  >>> exact = Neighbours(np.array([[0, 1]]), np.array([[0.9, 0.8]]))
  >>> recall(Neighbours(np.array([[0, 2]]), np.array([[0.9, 0.3]])), exact)
  0.5
  """
  last = np.where(np.isfinite(exact.similarities), exact.similarities, np.inf).min(1)
  near = (found.similarities >= last[:, None] - 1e-5) & (found.indices >= 0)
  return float(near.sum() / max((exact.indices >= 0).sum(), 1))
