"""Float64 NumPy references: plain loops from the formulas, sharing no code with jaxdml."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
  """One anchor against references; miners narrow `positives` and `negatives`."""

  anchor: int
  distances: list[float]
  positives: list[int]
  negatives: list[int]
  vector: np.ndarray
  others: np.ndarray


def _unit(a):
  norm = math.sqrt(sum(v * v for v in a))
  return np.array([v / norm if norm > 0 else 0.0 for v in a])


def _squared(a, b):
  return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))


def _inner(a, b):
  return sum(u * v for u, v in zip(a, b, strict=True))


DISTANCES = {
  "euclidean": lambda a, b: math.sqrt(_squared(a, b)),
  "squared_euclidean": _squared,
  "dot": lambda a, b: -_inner(a, b),
  "cosine": lambda a, b: 1.0 - _inner(_unit(a), _unit(b)),
  "normalized_euclidean": lambda a, b: math.sqrt(_squared(_unit(a), _unit(b))),
  "normalized_squared_euclidean": lambda a, b: _squared(_unit(a), _unit(b)),
}


def rows(x, y, distance, *, ids=None, where=None, refs=None):
  """Rows of every anchor; `refs` is (embeddings, labels, where, ids), the last two may be None."""
  n = len(x)
  where = [True] * n if where is None else where
  ids = list(range(n)) if ids is None else ids
  shared = (x, y, where, ids) if refs is None else refs
  result = []
  for a in range(n):
    other, label, filled, other_ids = shared
    if np.ndim(other) == 3:
      other, label, filled, other_ids = (None if v is None else v[a] for v in shared)
    positives, negatives, d = [], [], []
    for j in range(len(other)):
      usable = where[a] and (filled is None or filled[j])
      d.append(DISTANCES[distance](x[a], other[j]) if usable else math.nan)
      if usable and (other_ids is None or other_ids[j] != ids[a]):
        (positives if label[j] == y[a] else negatives).append(j)
    result.append(Row(a, d, positives, negatives, x[a], other))
  return result


def mined_rows(base, anchor, positive, negative):
  """The rows that a (random) miner kept, from its masks."""
  kept = []
  for a, p, n in zip(anchor, positive, negative, strict=True):
    positives, negatives = list(np.flatnonzero(p)), list(np.flatnonzero(n))
    kept.append(base[a]._replace(positives=positives, negatives=negatives))
  return kept


def nearest_positive(row):
  return [row._replace(positives=sorted(row.positives, key=lambda j: (row.distances[j], j))[:1])]


def hardest_positive(row):
  return [row._replace(positives=sorted(row.positives, key=lambda j: (-row.distances[j], j))[:1])]


def hardest_negative(row):
  return [row._replace(negatives=sorted(row.negatives, key=lambda j: (row.distances[j], j))[:1])]


def semihard_negative(row):
  if not row.positives:
    return [row._replace(negatives=[])]
  d_ap = max(row.distances[p] for p in row.positives)
  beyond = [n for n in row.negatives if row.distances[n] > d_ap]
  if beyond:
    return [row._replace(negatives=[min(beyond, key=lambda j: (row.distances[j], j))])]
  return [row._replace(negatives=sorted(row.negatives, key=lambda j: (-row.distances[j], j))[:1])]


def expand_positives(row, max_positives=None):
  return [row._replace(positives=[p]) for p in row.positives[:max_positives]]


def chain(*miners):
  def mine(all_rows):
    for miner in miners:
      all_rows = [new for row in all_rows for new in miner(row)]
    return all_rows

  return mine


# Each loss: a row -> its terms, each (sum over elements, elements, active elements).


def contrastive(row, label, positive_margin=0.0, negative_margin=1.0):
  del label
  pull = [max(row.distances[p] - positive_margin, 0.0) ** 2 for p in row.positives]
  push = [max(negative_margin - row.distances[n], 0.0) ** 2 for n in row.negatives]
  return [(sum(v), len(v), sum(u > 0 for u in v)) for v in (pull, push)]


def margin(row, label, margin=0.2, beta=1.2, nu=0.0):
  boundary = beta if np.ndim(beta) == 0 else beta[label]
  values = [max(row.distances[p] - boundary + margin, 0.0) for p in row.positives]
  values += [max(boundary - row.distances[n] + margin, 0.0) for n in row.negatives]
  regularizer = nu * boundary if values else 0.0
  return [(sum(values) + regularizer, len(values), sum(v > 0 for v in values))]


def _triplets(row, penalty, margin):
  values = [
    penalty(row.distances[p] - row.distances[n] + margin)
    for p in row.positives
    for n in row.negatives
  ]
  return [(sum(values), len(values), sum(v > 0 for v in values))]


def triplet(row, label, margin=0.2):
  del label
  return _triplets(row, lambda v: max(v, 0.0), margin)


def soft_margin_triplet(row, label, margin=0.0):
  del label
  return _triplets(row, lambda v: np.logaddexp(0.0, v), margin)


def npair(row, label, l2_reg=0.0):
  del label
  total = 0.0
  for p in row.positives:
    excess = [row.distances[p] - row.distances[n] for n in row.negatives]
    total += float(np.logaddexp.reduce([0.0, *excess]))
    total += l2_reg / 4 * (_inner(row.vector, row.vector) + _inner(row.others[p], row.others[p]))
  return [(total, len(row.positives), len(row.positives))]


def multi_similarity(row, label, alpha=2.0, beta=50.0, base=0.5):
  del label
  similarity = [1.0 - d for d in row.distances]
  pull = [-alpha * (similarity[p] - base) for p in row.positives]
  push = [beta * (similarity[n] - base) for n in row.negatives]
  total = np.logaddexp.reduce([0.0, *pull]) / alpha + np.logaddexp.reduce([0.0, *push]) / beta
  used = int(bool(row.positives or row.negatives))
  return [(float(total) if used else 0.0, used, used)]


LOSSES = {
  "contrastive": (contrastive, "normalized_euclidean", "mean_nonzero"),
  "margin": (margin, "normalized_euclidean", "mean_nonzero"),
  "multi_similarity": (multi_similarity, "cosine", "mean"),
  "npair": (npair, "dot", "mean"),
  "soft_margin_triplet": (soft_margin_triplet, "euclidean", "mean_elements"),
  "triplet": (triplet, "normalized_squared_euclidean", "mean_nonzero"),
}


def reduced(anchors, reduce):
  """Reduces a list of anchors, each a list of terms, each (sum, elements, active)."""
  if reduce == "none":
    return [sum(total for total, _, _ in terms) for terms in anchors]
  if reduce == "sum":
    return sum(total for terms in anchors for total, _, _ in terms)
  value = 0.0
  for t in range(len(anchors[0]) if anchors else 0):
    terms = [anchor[t] for anchor in anchors]
    if reduce == "mean":
      means = [total / elements for total, elements, _ in terms if elements]
      value += sum(means) / len(means) if means else 0.0
    else:
      count = sum(term[1 if reduce == "mean_elements" else 2] for term in terms)
      value += sum(total for total, _, _ in terms) / count if count else 0.0
  return value


def loss(name, x, y, *, mine=None, distance=None, reduce=None, repeats=None, ids=None, where=None,
         refs=None, **hyperparameters):  # fmt: skip
  """The loss; anchor i's terms enter `repeats[i]` times, which is what integer weights mean."""
  fn, default_distance, default_reduce = LOSSES[name]
  all_rows = rows(x, y, distance or default_distance, ids=ids, where=where, refs=refs)
  all_rows = mine(all_rows) if mine else all_rows
  width = len(fn(Row(0, [], [], [], x[0], x), y[0], **hyperparameters))
  anchors = [[(0.0, 0, 0)] * width for _ in x]
  for row in all_rows:
    terms = fn(row, y[row.anchor], **hyperparameters)
    so_far = anchors[row.anchor]
    anchors[row.anchor] = [
      tuple(u + v for u, v in zip(old, new, strict=True))
      for old, new in zip(so_far, terms, strict=True)
    ]
  repeats = [1] * len(x) if repeats is None else repeats
  if (reduce or default_reduce) == "none":
    return [r * v for r, v in zip(repeats, reduced(anchors, "none"), strict=True)]
  replicated = [anchor for anchor, r in zip(anchors, repeats, strict=True) for _ in range(r)]
  return reduced(replicated, reduce or default_reduce)
