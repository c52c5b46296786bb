"""Losses over pairs, triplets, softmaxes: a row -> its terms (sum, elements, active)."""

import math

import numpy as np

from tests.losses.reference_distances import inner


def log_sum_exp(values):
  """log of a sum of exponentials; -inf of none."""
  return float(np.logaddexp.reduce([-math.inf, *values]))


def _pair_terms(row, positive_margin, negative_margin, power):
  pull = [max(row.distances[p] - positive_margin, 0.0) ** power for p in row.positives]
  push = [max(negative_margin - row.distances[n], 0.0) ** power for n in row.negatives]
  return [(sum(v), len(v), sum(u > 0 for u in v)) for v in (pull, push)]


def contrastive(row, label, positive_margin=0.0, negative_margin=1.0, power=2):
  del label
  return _pair_terms(row, positive_margin, negative_margin, power)


def signal_to_noise_contrastive(row, label, positive_margin=0.0, negative_margin=1.0):
  del label
  return _pair_terms(row, positive_margin, negative_margin, 1)


def margin(row, label, margin=0.2, beta=1.2, nu=0.0):
  boundary = beta if np.ndim(beta) == 0 else beta[label]
  values = [max(row.distances[p] - boundary + margin, 0.0) for p in row.positives]
  values += [max(boundary - row.distances[n] + margin, 0.0) for n in row.negatives]
  regularizer = nu * boundary if values else 0.0
  return [(sum(values) + regularizer, len(values), sum(v > 0 for v in values))]


def multi_similarity(row, label, alpha=2.0, beta=50.0, base=0.5):
  del label
  similarity = [1.0 - d for d in row.distances]
  pull = [-alpha * (similarity[p] - base) for p in row.positives]
  push = [beta * (similarity[n] - base) for n in row.negatives]
  total = log_sum_exp([0.0, *pull]) / alpha + log_sum_exp([0.0, *push]) / beta
  used = int(bool(row.positives or row.negatives))
  return [(total if used else 0.0, used, used)]


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


def _of_positives(row, cost):
  """One element a positive."""
  return [(sum(cost(p) for p in row.positives), len(row.positives), len(row.positives))]


def npair(row, label, l2_reg=0.0):
  del label
  return _of_positives(
    row,
    lambda p: (
      log_sum_exp([0.0, *(row.distances[p] - row.distances[n] for n in row.negatives)])
      + l2_reg / 4 * (inner(row.vector, row.vector) + inner(row.others[p], row.others[p]))
    ),
  )


def ntxent(row, label, temperature=0.07):
  del label
  logit = lambda j: -row.distances[j] / temperature
  return _of_positives(
    row, lambda p: log_sum_exp([logit(j) for j in (p, *row.negatives)]) - logit(p)
  )


def tuplet_margin(row, label, margin=0.1, scale=64.0):
  del label
  cosine = [1.0 - d for d in row.distances]

  def eased(c):
    return math.cos(math.acos(c) - margin) if abs(c) <= 1 else c * math.cos(margin)

  return _of_positives(
    row,
    lambda p: log_sum_exp([0.0, *(scale * (cosine[n] - eased(cosine[p])) for n in row.negatives)]),
  )


def angular(row, label, alpha=2 * math.pi / 9):
  del label
  t = math.tan(alpha) ** 2

  def cost(p):
    pull = 2 * (1 + t) * (1.0 - row.distances[p])
    push = [
      4 * t * (1.0 - row.distances[n] + 1.0 - row.between(row.others[p], row.others[n]))
      for n in row.negatives
    ]
    return log_sum_exp([0.0, *(v - pull for v in push)])

  return _of_positives(row, cost)


def _of_an_anchor(used, value):
  return [(value() if used else 0.0, int(used), int(used))]


def supcon(row, label, temperature=0.1):
  del label
  logit = lambda j: -row.distances[j] / temperature

  def value():
    everything = log_sum_exp([logit(j) for j in row.positives + row.negatives])
    return sum(everything - logit(p) for p in row.positives) / len(row.positives)

  return _of_an_anchor(bool(row.positives), value)


def nca(row, label, temperature=1.0):
  del label
  of = lambda columns: log_sum_exp([-row.distances[j] / temperature for j in columns])
  return _of_an_anchor(
    bool(row.positives), lambda: of(row.positives + row.negatives) - of(row.positives)
  )


def generalized_lifted_structure(row, label, margin=1.0):
  del label
  if not row.positives or not row.negatives:
    return [(0.0, 0, 0)]
  pull = log_sum_exp([row.distances[p] for p in row.positives])
  push = log_sum_exp([margin - row.distances[n] for n in row.negatives])
  value = max(pull + push, 0.0)
  return [(value, 1, int(value > 0))]


def circle(row, label, margin=0.4, gamma=80.0):
  """The weights are constants: they read `fixed`, which a finite difference holds still."""
  del label
  if not row.positives or not row.negatives:
    return [(0.0, 0, 0)]
  s, fixed = ([1.0 - v for v in d] for d in (row.distances, row.fixed))
  pull = [-gamma * max(1 + margin - fixed[p], 0.0) * (s[p] - 1 + margin) for p in row.positives]
  push = [gamma * max(fixed[n] + margin, 0.0) * (s[n] - margin) for n in row.negatives]
  return [(log_sum_exp([0.0, log_sum_exp(pull) + log_sum_exp(push)]), 1, 1)]
