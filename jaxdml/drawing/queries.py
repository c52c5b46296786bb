"""Queries to look at: drawn at random, one a class, or the best and the worst."""

from typing import Any

import numpy as np

from jaxdml.evaluation import _checks as checks

_MOST = 8  # Queries, and neighbours of each, where they are not given.


def fit_queries(labels: Any, queries: int | None = None, k: int | None = None) -> tuple[int, int]:
  """Returns how many queries, one a class, and how many neighbours of each to show.

  What is not given is at most 8, and what shows the most neighbours that can all be right: a class
  can fill a line of k if it has more than k rows.

  Raises:
    ValueError: what is given is more than there is, or less than 1; or no class has two rows.

  >>> fit_queries([1] * 12 + [2] * 10 + [3] * 9 + [4] * 3)
  (3, 8)
  >>> fit_queries([1] * 12 + [2] * 10 + [3] * 9 + [4] * 3, queries=4)
  (4, 2)
  """
  counts = np.unique(np.asarray(labels), return_counts=True)[1]
  most = int(counts.max(initial=0)) - 1
  if most < 1:
    raise ValueError("labels: no class has two images, so no query has anything to find")
  if k is not None and checks.as_positive("k", k) > most:
    raise ValueError(
      f"k: expected 1 to {most}, one less than the images of the largest class; got {k}"
    )
  # k -> classes that can fill a line of it.
  large = {
    n: int((counts > n).sum()) for n in ([k] if k is not None else range(1, min(_MOST, most) + 1))
  }
  if queries is None:
    shown = {n: min(_MOST, classes) for n, classes in large.items()}
  else:
    shown = {n: queries for n, classes in large.items() if 1 <= queries <= classes}
  if not shown:
    least = min(large)
    raise ValueError(
      f"queries: expected 1 to {large[least]}, the classes with more than k={least} images "
      f"(of {len(counts)}); got {queries}"
    )
  best = max(shown, key=lambda n: (shown[n] * n, n))
  return shown[best], best


def draw_queries(labels: Any, count: int, k: int, seed: int) -> np.ndarray:
  """Draws rows, int64 [count], of as many classes of more than k rows each: k can be right.

  Raises:
    ValueError: there are not so many classes of that size.
  """
  count, k = fit_queries(labels, count, k)
  inverse, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)[1:]
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(np.flatnonzero(counts > k))[:count]
  return np.array([rng.choice(np.flatnonzero(inverse == c)) for c in chosen])


def average_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
  """Scores each query's k neighbours, from 0 (none right) to 1 (all right that could be).

      AP@k = 1 / min(R, k) sum_{i <= k, neighbour i right} (right ones among the first i) / i

  `hits` [q, k] says which neighbours are right, the nearest first; `relevant` [q] is R, how many
  there are to find. float64 [q], NaN where nothing is to be found.

  >>> average_precision(np.array([[True, False, True]]), np.array([2])).round(3).tolist()
  [0.833]
  """
  k = hits.shape[1]
  precision = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
  most = np.minimum(relevant, k)
  score = (hits * precision).sum(1) / np.maximum(most, 1)
  return np.where(most > 0, score, np.nan)


def rank_queries(
  labels: np.ndarray, scores: np.ndarray, similarities: np.ndarray, hits: np.ndarray, count: int,
  seed: int,
) -> dict[str, np.ndarray]:  # fmt: skip
  """Picks queries to look at: "random", "best" and "worst", as places 0..q-1.

  Best: the highest score, and of equal ones those whose right neighbours are least similar, which
  is harder than near duplicates. Worst: the lowest score, and of equal ones those most similar to
  their nearest neighbour: mistakes made with confidence; a query without a mistake is
  none of them. Both take one query a class while there are classes left. Queries with nothing to
  find (NaN) are left out.

  There are `count` of each, or fewer; `scores` [q] are of `average_precision`, `labels` [q],
  `similarities` and `hits` [q, k].
  """
  scored = np.flatnonzero(np.isfinite(scores))
  rng = np.random.default_rng(seed)
  closeness = np.where(hits, similarities, 0.0).sum(1) / np.maximum(hits.sum(1), 1)
  best = scored[np.lexsort((closeness[scored], -scores[scored]))]
  worst = scored[np.lexsort((-similarities[scored, 0], scores[scored]))]
  worst = worst[scores[worst] < 1]
  return {
    "random": rng.permutation(scored)[:count],
    "best": _one_a_class(best, labels, count),
    "worst": _one_a_class(worst, labels, count),
  }


def _one_a_class(ordered: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
  """The first of each class in the order given, then the rest: `count` of them, in that order."""
  first = np.zeros(len(ordered), bool)
  first[np.unique(labels[ordered], return_index=True)[1]] = True
  return np.concatenate([ordered[first], ordered[~first]])[:count]
