"""Miners on rows of the reference: row -> rows. Ties go to the lowest column."""

import numpy as np


def _nearest(row, columns, k):
  return sorted(sorted(columns, key=lambda j: (row.distances[j], j))[:k])


def _farthest(row, columns):
  return sorted(columns, key=lambda j: (-row.distances[j], j))[:1]


def nearest_positives(row, k=1):
  return [row._replace(positives=_nearest(row, row.positives, k))]


def nearest_positive(row):
  return nearest_positives(row, 1)


def hardest_positive(row):
  return [row._replace(positives=_farthest(row, row.positives))]


def hardest_negatives(row, k=1):
  return [row._replace(negatives=_nearest(row, row.negatives, k))]


def hardest_negative(row):
  return hardest_negatives(row, 1)


def semihard_negative(row):
  if not row.positives:
    return [row._replace(negatives=[])]
  d_ap = max(row.distances[p] for p in row.positives)
  beyond = [n for n in row.negatives if row.distances[n] > d_ap]
  kept = _nearest(row, beyond, 1) if beyond else _farthest(row, row.negatives)
  return [row._replace(negatives=kept)]


def multi_similarity_filter(row, epsilon=0.1):
  if not row.positives or not row.negatives:
    return [row._replace(positives=[], negatives=[])]
  farthest = max(row.distances[p] for p in row.positives)
  nearest = min(row.distances[n] for n in row.negatives)
  positives = [p for p in row.positives if row.distances[p] > nearest - epsilon]
  negatives = [n for n in row.negatives if row.distances[n] < farthest + epsilon]
  return [row._replace(positives=positives, negatives=negatives)]


def expand_positives(row, max_positives=None):
  return [row._replace(positives=[p]) for p in row.positives[:max_positives]]


def chain(*miners):
  def mine(all_rows):
    for miner in miners:
      all_rows = [new for row in all_rows for new in miner(row)]
    return all_rows

  return mine


def mined_rows(base, anchor, positive, negative):
  """The rows that a (random) miner kept, from its masks."""
  kept = []
  for a, p, n in zip(anchor, positive, negative, strict=True):
    positives, negatives = list(np.flatnonzero(p)), list(np.flatnonzero(n))
    kept.append(base[a]._replace(positives=positives, negatives=negatives))
  return kept
