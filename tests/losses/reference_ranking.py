"""Ranking losses and those that need statistics over all rows, as terms of a row."""

import math

import numpy as np

from tests.losses.reference_pairs import log_sum_exp


def ranked_list(
  row, label, alpha=1.2, margin=0.4, negative_temperature=10.0, positive_temperature=0.0,
  balance=0.5,
):  # fmt: skip
  """The weights are constants: they read `fixed`, which a finite difference holds still."""
  del label

  def mean(violation, columns, temperature):
    columns = [j for j in columns if violation(row.distances[j]) > 0]
    weights = [math.exp(temperature * violation(row.fixed[j])) for j in columns]
    values = [w * violation(row.distances[j]) for w, j in zip(weights, columns, strict=True)]
    return sum(values) / sum(weights) if columns else 0.0

  pull = mean(lambda d: d - (alpha - margin), row.positives, positive_temperature)
  push = mean(lambda d: alpha - d, row.negatives, negative_temperature)
  value = (1 - balance) * pull + balance * push
  return [(value, int(bool(row.positives or row.negatives)), int(value > 0))]


def _shares(position, nodes):
  """What a value at `position` in [0, nodes - 1] gives each node: linear between its two."""
  below = min(math.floor(position), nodes - 2)
  shares = [0.0] * nodes
  shares[below], shares[below + 1] = 1 - (position - below), position - below
  return shares


def _histogram(positions, nodes):
  return [math.fsum(column) for column in zip(*(_shares(v, nodes) for v in positions), strict=True)]


def fast_ap(row, label, bins=10, max_distance=4.0):
  del label
  if not row.positives:
    return [(0.0, 0, 0)]
  position = lambda j: min(max(row.distances[j], 0.0), max_distance) / max_distance * bins
  nearer = _histogram([position(j) for j in row.positives], bins + 1)
  everything = _histogram([position(j) for j in row.positives + row.negatives], bins + 1)
  precision = sum(
    nearer[k] * sum(nearer[: k + 1]) / sum(everything[: k + 1])
    for k in range(bins + 1)
    if nearer[k] > 0
  )
  return [(1 - precision / len(row.positives), 1, 1)]


def smooth_ap(row, label, temperature=0.01):
  del label
  if not row.positives:
    return [(0.0, 0, 0)]

  def rank(p, columns):
    gaps = [(row.distances[p] - row.distances[j]) / temperature for j in columns if j != p]
    return 1 + sum(math.exp(-np.logaddexp(0.0, -gap)) for gap in gaps)

  precisions = [
    rank(p, row.positives) / rank(p, row.positives + row.negatives) for p in row.positives
  ]
  return [(1 - sum(precisions) / len(precisions), 1, 1)]


def _similarity_position(row, j, bins):
  """Where 1 - distance lies on bins + 1 nodes from -1 to 1."""
  return (min(max(1 - row.distances[j], -1.0), 1.0) + 1) / 2 * bins


def histogram_statistics(rows, bins=100, **_):
  """The normalised histogram of the similarities of all negative pairs; None without any."""
  positions = [_similarity_position(row, n, bins) for row in rows for n in row.negatives]
  if not positions:
    return None
  return [share / len(positions) for share in _histogram(positions, bins + 1)]


def histogram(row, label, statistics=None, bins=100):
  del label
  count = len(row.positives)
  if not count or statistics is None:
    return [(0.0, count, count)]
  mine = _histogram([_similarity_position(row, p, bins) for p in row.positives], bins + 1)
  return [(sum(h * sum(statistics[k:]) for k, h in enumerate(mine)), count, count)]


def lifted_structure_statistics(rows, margin=1.0, private=False):
  """log sum exp(margin - distance) of each column over the rows that have it as a negative."""
  if private or not rows:
    return {}
  columns = {n for row in rows for n in row.negatives}
  return {
    c: log_sum_exp([margin - row.distances[c] for row in rows if c in row.negatives])
    for c in columns
  }


def lifted_structure(row, label, statistics=None, margin=1.0):
  del label
  of_anchor = log_sum_exp([margin - row.distances[n] for n in row.negatives])
  values = []
  for p in row.positives:
    both = log_sum_exp([of_anchor, (statistics or {}).get(p, -math.inf)])
    values.append(max(both + row.distances[p], 0.0) ** 2 / 2)
  return [(sum(values), len(values), sum(v > 0 for v in values))]
