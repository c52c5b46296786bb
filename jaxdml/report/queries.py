"""Which queries a gallery shows and how many neighbours of each, by what the classes have."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdml.evaluation import _checks as checks

__all__ = ["choose_queries", "fit"]

_MOST = 8  # Queries, and neighbours of each, where they are not given.


def fit(labels: Any, queries: int | None = None, k: int | None = None) -> tuple[int, int]:
  """Says how many queries, one a class, and how many neighbours of each to show.

  What is not given is at most 8, and what shows the most neighbours that can all be right: a class
  can fill a line of k if it has more than k rows.

  Args:
    labels: [n].
    queries: how many; None: what there is.
    k: neighbours of each; None: what there is.

  Returns:
    (queries, k).

  Raises:
    ValueError: what is given is more than there is, or less than 1; or no class has two rows.

  >>> fit([1] * 12 + [2] * 10 + [3] * 9 + [4] * 3)
  (3, 8)
  >>> fit([1] * 12 + [2] * 10 + [3] * 9 + [4] * 3, queries=4)
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


def choose_queries(labels: Any, count: int, k: int, seed: int) -> np.ndarray:
  """Draws `count` rows of as many classes, at random among those where k neighbours can be right.

  Args:
    labels: [n].
    count: how many.
    k: neighbours that will be shown; the classes drawn from have more than k rows.
    seed: of the draw.

  Returns:
    int64 [count].

  Raises:
    ValueError: there are not so many classes of that size.
  """
  count, k = fit(labels, count, k)
  inverse, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)[1:]
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(np.flatnonzero(counts > k))[:count]
  return np.array([rng.choice(np.flatnonzero(inverse == c)) for c in chosen])
