"""Results of a search, with the names and the images of what was found, and a text table."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from jaxdml._text import printable
from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
from jaxdml.evaluation import Neighbours
from jaxdml.search.store import Store


class Query(NamedTuple):
  """An image that was searched for: its name, and its encoded bytes."""

  path: str
  image: bytes


class Hit(NamedTuple):
  """One image that was found."""

  rank: int  # from 1
  similarity: float  # to the query, cosine
  label: str | None  # its class, None without one
  path: str  # as the store has it
  image: bytes | None = None  # encoded; None where it is gone
  itself: bool = False  # it is the query: the same file, or the same bytes


class Result(NamedTuple):
  """A query and what was found for it, the nearest first."""

  query: Query
  hits: tuple[Hit, ...]


def collect(store: Store, queries: Sequence[Query], found: Neighbours) -> list[Result]:
  """Looks up what a search of `store` found for each of the queries [q]."""
  results = []
  for query, rows, similarities in zip(queries, *found, strict=True):
    hits = []
    for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
      if row < 0:
        continue
      image, file = _image(store, row), store.file(row)
      itself = image == query.image or (
        file is not None and os.path.realpath(file) == os.path.realpath(query.path)
      )
      rank, label, path = len(hits) + 1, store.labels[row], store.paths[row]
      hits.append(Hit(rank, similarity, label, path, image, itself))
    results.append(Result(query, tuple(hits)))
  return results


def without_query(result: Result, k: int) -> Result:
  """Returns the result with its first k hits that are not the query itself, ranked anew.

  >>> hits = Hit(1, 1.0, "cat", "q.png", itself=True), Hit(2, 0.9, "cat", "cat/1.png")
  >>> [(hit.rank, hit.path) for hit in without_query(Result(Query("q.png", b""), hits), 1).hits]
  [(1, 'cat/1.png')]
  """
  others = [hit for hit in result.hits if not hit.itself][:k]
  return result._replace(hits=tuple(hit._replace(rank=i + 1) for i, hit in enumerate(others)))


def _image(store: Store, row: int) -> bytes | None:
  """Returns the image of a row; None where it is gone, which the page shows."""
  try:
    return store.image(row)
  except (ImageDecodeError, DatasetNotPreparedError, OSError):
    return None


def format_results(results: Sequence[Result]) -> str:
  """A text table for each query: rank, similarity, label, path.

  Control characters in names are shown as code points, so that no name can steer a terminal.

  >>> print(format_results([Result(Query("q.png", b""), (Hit(1, 0.9, "cat", "cat/1.png"),))]))
  q.png
    rank  similarity  label  path
       1       0.900  cat    cat/1.png
  """
  lines = []
  for query, hits in results:
    labels = ["-" if hit.label is None else printable(hit.label) for hit in hits]
    width = max([5, *map(len, labels)])
    lines += [printable(query.path), f"  rank  similarity  {'label':<{width}}  path"]
    for hit, label in zip(hits, labels, strict=True):
      path = printable(hit.path) + ("  (the query itself)" if hit.itself else "")
      lines.append(f"  {hit.rank:>4}  {hit.similarity:>10.3f}  {label:<{width}}  {path}")
  return "\n".join(lines)
