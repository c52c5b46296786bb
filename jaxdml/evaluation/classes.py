"""Metrics of each class, and which classes are taken for which, from neighbours already found."""

from typing import Any, NamedTuple

import numpy as np

from jaxdml._labels import as_given, numbered
from jaxdml.evaluation._checks import as_column
from jaxdml.evaluation.retrieval import Neighbours

_PIECE = 1 << 22  # neighbours looked at in one piece


class ClassMetrics(NamedTuple):
  """Metrics of `class_metrics`, a row a class, in the order of the labels."""

  labels: np.ndarray  # [c], those of the queries; objects, as Python has them
  queries: np.ndarray  # int64 [c], those that have something to find; 0: the metrics are NaN
  recall_at_1: np.ndarray  # float64 [c]
  map_at_r: np.ndarray  # float64 [c]
  exact: np.ndarray  # bool [c]: no query has more to find than neighbours were given


class Confusions(NamedTuple):
  """Pairs of classes of `confusions`, the most frequent first."""

  labels: np.ndarray  # [p] of the queries
  found: np.ndarray  # [p] of their nearest neighbours, another class
  queries: np.ndarray  # int64 [p]: how many
  share: np.ndarray  # float64 [p] of the class's queries that have a neighbour
  example: np.ndarray  # int64 [p], the query that is nearest to its wrong neighbour


def class_metrics(found: Neighbours, labels: Any, gallery_labels: Any = None) -> ClassMetrics:
  """Scores each class of queries by the neighbours of `nearest_neighbours`.

  With rel(i) = 1 where the i-th nearest item has the query's label, R their number in the gallery,
  P(i) = 1/i sum_{j<=i} rel(j), and k neighbours given, each a mean over the class's queries:

      Recall@1 = rel(1)
      MAP@R    = 1/min(R, k) sum_{i<=min(R, k)} rel(i) P(i)

  That is MAP@R itself (arXiv 2003.08505) where k is at least R. The mean over classes is `macro/`
  of `retrieval_metrics`. An unknown label (None, NaN, -1) is no class. Memory beyond the arrays is
  that of a block of queries.

  Args:
    found: neighbours of the queries, the nearest first, [q, k].
    labels: [q], of the queries.
    gallery_labels: [m]; None: the queries were ranked among themselves, each without itself.

  Raises:
    ValueError: lengths that differ.

  >>> found = Neighbours(np.array([[1, 2], [0, 2], [1, 0]]), np.zeros((3, 2)))
  >>> classes = class_metrics(found, ["ant", "ant", "bee"])
  >>> classes.labels.tolist(), classes.queries.tolist(), classes.recall_at_1.tolist()
  (['ant', 'bee'], [2, 0], [1.0, nan])
  """
  indices, names, mine, theirs = _checked(found, labels, gallery_labels)
  k = indices.shape[1]
  # Of -1, an unknown label, there are none.
  sizes = np.append(np.bincount(theirs[theirs >= 0], minlength=len(names)), 0)
  relevant = sizes[mine] - (gallery_labels is None)
  scored = (mine >= 0) & (relevant > 0)
  ranks = np.arange(1, k + 1)
  first, average = np.zeros(len(mine)), np.zeros(len(mine))
  for rows in _blocks(len(mine), k):
    right = (indices[rows] >= 0) & (theirs[indices[rows]] == mine[rows, None])
    most = np.clip(relevant[rows], 1, k)
    counted = right & (ranks <= most[:, None])
    first[rows] = right[:, 0]
    average[rows] = (counted * np.cumsum(counted, axis=1) / ranks).sum(1) / most
  count = np.bincount(mine[scored], minlength=len(names))
  mean = lambda x: np.where(
    count > 0, np.bincount(mine[scored], x[scored], len(names)) / np.maximum(count, 1), np.nan
  )
  here = np.unique(mine[mine >= 0])
  exact = sizes[:-1] - (gallery_labels is None) <= k
  return ClassMetrics(*(x[here] for x in (names, count, mean(first), mean(average), exact)))


def confusions(found: Neighbours, labels: Any, gallery_labels: Any = None) -> Confusions:
  """Counts for which other class each class of queries is taken by its nearest neighbours.

  A pair (a, b) counts the queries of class a whose nearest neighbour is of class b != a. There are
  at most as many pairs as queries; equal counts come by the larger share. Unknown labels count
  nowhere.

  Args:
    found, labels, gallery_labels: as of `class_metrics`; similarities choose the example.

  >>> found = Neighbours(np.array([[1], [2], [1]]), np.array([[0.9], [0.8], [0.7]]))
  >>> pairs = confusions(found, ["ant", "ant", "bee"])
  >>> pairs.labels.tolist(), pairs.found.tolist(), pairs.share.tolist()
  (['bee', 'ant'], ['ant', 'bee'], [1.0, 0.5])
  """
  indices, names, mine, theirs = _checked(found, labels, gallery_labels)
  nearest = np.where(indices[:, 0] >= 0, theirs[indices[:, 0]], -1)
  known = (mine >= 0) & (nearest >= 0)
  asked = np.bincount(mine[known], minlength=len(names))
  # The most similar first, so that a pair's first query is its example.
  similarity = np.asarray(found.similarities)[:, 0]
  wrong = np.flatnonzero(known & (nearest != mine))
  wrong = wrong[np.argsort(-similarity[wrong], kind="stable")]
  pairs = mine[wrong].astype(np.int64) * len(names) + nearest[wrong]
  distinct, example, count = np.unique(pairs, return_index=True, return_counts=True)
  one, other = np.divmod(distinct, max(len(names), 1))
  share = count / np.maximum(asked[one], 1)
  order = np.lexsort((-share, -count))
  columns = names[one], names[other], count, share, wrong[example]
  return Confusions(*(column[order] for column in columns))


def _checked(
  found: Neighbours, labels: Any, gallery_labels: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns neighbours [q, k], the labels by code [c], and the codes of both sides, -1 unknown."""
  indices = np.asarray(found.indices)
  mine = as_column("labels", labels, len(indices), "found")
  sides = [mine] if gallery_labels is None else [mine, as_given(gallery_labels)]
  if indices.ndim != 2 or not indices.size or indices.max() >= len(sides[-1]):
    raise ValueError(
      f"found: expected neighbours [q, k] among {len(sides[-1])} items, got shape {indices.shape}, "
      f"items up to {indices.max(initial=-1)}; give the gallery_labels of what was searched"
    )
  codes = numbered("labels", *sides)
  names = np.empty(max(int(c.max(initial=-1)) for c in codes) + 1, object)
  for side, code in zip(sides, codes, strict=True):
    names[code[code >= 0]] = side[code >= 0]
  return indices, names, codes[0].astype(np.int64), codes[-1]


def _blocks(n: int, k: int) -> list[slice]:
  step = max(1, _PIECE // k)
  return [slice(start, start + step) for start in range(0, n, step)]
