"""Float64 NumPy references: plain loops from the formulas, sharing no code with jaxdml.

Losses are in reference_pairs.py and reference_ranking.py, miners in reference_miners.py, distances
in reference_distances.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.losses import reference_pairs as over_pairs
from tests.losses import reference_ranking as ranking
from tests.losses.reference_distances import DISTANCES
from tests.losses.reference_miners import (
  chain,
  expand_positives,
  hardest_negative,
  hardest_negatives,
  hardest_positive,
  mined_rows,
  multi_similarity_filter,
  nearest_positive,
  nearest_positives,
  semihard_negative,
)

__all__ = [
  "DISTANCES",
  "LOSSES",
  "Row",
  "chain",
  "expand_positives",
  "hardest_negative",
  "hardest_negatives",
  "hardest_positive",
  "loss",
  "mined_rows",
  "multi_similarity_filter",
  "nearest_positive",
  "nearest_positives",
  "rows",
  "semihard_negative",
]


class Row(NamedTuple):
  """One anchor against references; miners narrow `positives` and `negatives`."""

  anchor: int
  distances: list[float]
  positives: list[int]
  negatives: list[int]
  vector: np.ndarray
  others: np.ndarray
  between: Callable
  fixed: list[float]


def rows(x, y, distance, *, ids=None, where=None, refs=None, fixed=None):
  """Rows of every anchor.

  Args:
    distance: a name or a function of two vectors.
    refs: (embeddings, labels, where, ids), the last two may be None.
    fixed: embeddings for the weights that a loss holds constant; `x` by default.
  """
  n, between = len(x), DISTANCES.get(distance, distance)
  where = [True] * n if where is None else where
  ids = list(range(n)) if ids is None else ids
  shared = (x, y, where, ids) if refs is None else refs
  result = []
  for a in range(n):
    other, label, filled, other_ids = shared
    if np.ndim(other) == 3:
      other, label, filled, other_ids = (None if v is None else v[a] for v in shared)
    positives, negatives, d, held = [], [], [], []
    for j in range(len(other)):
      usable = where[a] and (filled is None or filled[j])
      d.append(between(x[a], other[j]) if usable else math.nan)
      if fixed is not None:
        held.append(between(fixed[a], fixed[j]) if usable else math.nan)
      if usable and (other_ids is None or other_ids[j] != ids[a]):
        (positives if label[j] == y[a] else negatives).append(j)
    result.append(Row(a, d, positives, negatives, x[a], other, between, held or d))
  return result


# The loss's terms of a row, its default distance, its default reducer.
LOSSES = {
  "angular": (over_pairs.angular, "cosine", "mean_elements"),
  "circle": (over_pairs.circle, "cosine", "mean"),
  "contrastive": (over_pairs.contrastive, "normalized_euclidean", "mean_nonzero"),
  "fast_ap": (ranking.fast_ap, "normalized_squared_euclidean", "mean"),
  "generalized_lifted_structure": (
    over_pairs.generalized_lifted_structure, "normalized_euclidean", "mean",
  ),
  "histogram": (ranking.histogram, "cosine", "mean_elements"),
  "lifted_structure": (ranking.lifted_structure, "normalized_euclidean", "mean_elements"),
  "margin": (over_pairs.margin, "normalized_euclidean", "mean_nonzero"),
  "multi_similarity": (over_pairs.multi_similarity, "cosine", "mean"),
  "nca": (over_pairs.nca, "squared_euclidean", "mean"),
  "npair": (over_pairs.npair, "dot", "mean"),
  "ntxent": (over_pairs.ntxent, "cosine", "mean_elements"),
  "ranked_list": (ranking.ranked_list, "normalized_euclidean", "mean"),
  "signal_to_noise_contrastive": (
    over_pairs.signal_to_noise_contrastive, "normalized_signal_to_noise", "mean_nonzero",
  ),
  "smooth_ap": (ranking.smooth_ap, "cosine", "mean"),
  "soft_margin_triplet": (over_pairs.soft_margin_triplet, "euclidean", "mean_elements"),
  "supcon": (over_pairs.supcon, "cosine", "mean"),
  "triplet": (over_pairs.triplet, "normalized_squared_euclidean", "mean_nonzero"),
  "tuplet_margin": (over_pairs.tuplet_margin, "cosine", "mean_elements"),
}  # fmt: skip
# What the loss must know about all rows before it looks at one.
STATISTICS = {
  "histogram": ranking.histogram_statistics,
  "lifted_structure": ranking.lifted_structure_statistics,
}


def anchors(
  name, x, y, *, mine=None, distance=None, repeats=None, ids=None, where=None, refs=None,
  fixed=None, **hyperparameters,
):  # fmt: skip
  """Each anchor's terms (sum, elements, active); `repeats` counts in the statistics only."""
  fn, default_distance, _ = LOSSES[name]
  all_rows = rows(x, y, distance or default_distance, ids=ids, where=where, refs=refs, fixed=fixed)
  all_rows = mine(all_rows) if mine else all_rows
  if name in STATISTICS:
    private = {"private": True} if refs is not None and np.ndim(refs[0]) == 3 else {}
    counted = [r for r in all_rows for _ in range(1 if repeats is None else repeats[r.anchor])]
    statistics = STATISTICS[name](counted, **hyperparameters, **private)
    hyperparameters = hyperparameters | {"statistics": statistics}
  empty = Row(0, [], [], [], x[0], x, None, [])
  result = [[(0.0, 0, 0)] * len(fn(empty, y[0], **hyperparameters)) for _ in x]
  for row in all_rows:
    terms = fn(row, y[row.anchor], **hyperparameters)
    result[row.anchor] = [
      tuple(u + v for u, v in zip(old, new, strict=True))
      for old, new in zip(result[row.anchor], terms, strict=True)
    ]
  return result


def reduced(terms_of_anchors, reduce, repeats=None):
  """Reduces the terms of anchors; anchor i enters `repeats[i]` times."""
  repeats = [1] * len(terms_of_anchors) if repeats is None else repeats
  if reduce == "none":
    totals = [sum(total for total, _, _ in terms) for terms in terms_of_anchors]
    return [r * total for r, total in zip(repeats, totals, strict=True)]
  replicated = [terms for terms, r in zip(terms_of_anchors, repeats, strict=True) for _ in range(r)]
  if reduce == "sum":
    return sum(total for terms in replicated for total, _, _ in terms)
  value = 0.0
  for t in range(len(replicated[0]) if replicated else 0):
    column = [terms[t] for terms in replicated]
    if reduce == "mean":
      means = [total / elements for total, elements, _ in column if elements]
      value += sum(means) / len(means) if means else 0.0
    else:
      count = sum(term[1 if reduce == "mean_elements" else 2] for term in column)
      value += sum(total for total, _, _ in column) / count if count else 0.0
  return value


def loss(name, x, y, *, reduce=None, repeats=None, **options):
  """The loss; integer weights mean that anchor i is there `repeats[i]` times."""
  terms = anchors(name, x, y, repeats=repeats, **options)
  return reduced(terms, reduce or LOSSES[name][2], repeats)
