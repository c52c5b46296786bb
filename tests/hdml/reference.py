"""HDML in float64 NumPy, from the formulas of arXiv 1903.05503, sharing no code with jaxdml.

Layers are matrix products; everything that pairs, pulls, mines or sums is a plain loop. Nothing is
differentiated here: the tests take finite differences of `j_metric`, `j_gen` and `head` apart, each
in the parameters that learn from it, so that what is constant to whom follows by itself.
"""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-3  # BatchNorm's, as TensorFlow 1 has it


def hardness(average, alpha):
  return math.exp(-alpha / average) if average > 0 else 0.0


def distance(a, b):
  return math.sqrt(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)))


def pull(anchor, negative, d_pos, lam):
  d_neg = distance(anchor, negative)
  if d_neg <= d_pos:
    return negative
  return anchor + (lam * d_neg + (1 - lam) * d_pos) * (negative - anchor) / d_neg


class WindowMean:
  """Mean over each whole window; `initial` before the first one ends."""

  def __init__(self, initial, length):
    self.mean, self.length, self.values = initial, length, []

  def update(self, value):
    self.values.append(value)
    if len(self.values) == self.length:
      self.mean, self.values = np.mean(self.values), []


# Networks.


def encode(p, x):
  return np.tanh(x @ p["w"] + p["b"])


def batch_norm(p, x):
  return p["scale"] * (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON) + p["bias"]


def embed(p, y):
  return batch_norm(p, y) @ p["w"] + p["b"]


def hidden(p, z):
  return np.maximum(z @ p["w1"] + p["b1"], 0.0)


def generate(p, z):
  return batch_norm(p, hidden(p, z)) @ p["w2"] + p["b2"]


def cross_entropy(p, y, label):
  logits = y @ p["w"] + p["b"]
  return math.log(sum(math.exp(v - logits[label]) for v in logits))


# Layouts: a list of (anchor, candidates), indices into the batch; and each candidate's role.


def npair(n):
  return [(a, list(range(1, n, 2))) for a in range(0, n, 2)]


def triplet(n):
  return [(a, [a + 1, a + 2]) for a in range(0, n, 3)]


def all_pairs(n):
  return [(a, list(range(n))) for a in range(n)]


LAYOUTS = {"npair": npair, "triplet": triplet, "all_pairs": all_pairs}


def roles(anchor, candidates, labels):
  """+ and - by label; an example is nothing to itself."""
  sign = lambda j: "+" if labels[j] == labels[anchor] else "-"
  return ["" if j == anchor else sign(j) for j in candidates]


# Losses, of anchor vectors with their own partners and roles.


def inner(a, b):
  return sum(u * v for u, v in zip(a, b, strict=True))


def squared(a, b):
  return distance(a, b) ** 2


def npair_loss(anchors, partners, signs, reg=0.0):
  """Mean CE over dot products + reg / 4 (mean ||a||^2 + mean ||p||^2); anchors with positives."""
  ce, norm_a, norm_p = [], [], []
  for a, others, sign in zip(anchors, partners, signs, strict=True):
    positives = [o for o, s in zip(others, sign, strict=True) if s == "+"]
    negatives = [o for o, s in zip(others, sign, strict=True) if s == "-"]
    if positives:
      against = lambda p, a=a, ns=negatives: sum(math.exp(inner(a, n) - inner(a, p)) for n in ns)
      ce.append(np.mean([math.log(1 + against(p)) for p in positives]))
      norm_a.append(inner(a, a))
      norm_p.append(np.mean([inner(p, p) for p in positives]))
  if not ce:
    return 0.0
  return np.mean(ce) + 0.25 * reg * (np.mean(norm_a) + np.mean(norm_p))


def triplet_loss(anchors, partners, signs, margin=1.0):
  """Sum over all triplets of the squared-distance hinge."""
  total = 0.0
  for a, others, sign in zip(anchors, partners, signs, strict=True):
    for p, s in zip(others, sign, strict=True):
      for n, t in zip(others, sign, strict=True):
        if (s, t) == ("+", "-"):
          total += max(0.0, squared(a, p) - squared(a, n) + margin)
  return total


LOSSES = {"npair": npair_loss, "triplet": triplet_loss}
DISTANCES = {"npair": lambda a, b: -inner(a, b), "triplet": squared}


# Mining and slots, on one anchor's distances and roles.


def nearest(d, sign, role):
  of_role = [j for j, s in enumerate(sign) if s == role]
  return min(of_role, key=lambda j: (d[j], j), default=None)


def keep_one(sign, role, kept):
  return [s if s != role or j == kept else "" for j, s in enumerate(sign)]


def nearest_positive(d, sign):
  return keep_one(sign, "+", nearest(d, sign, "+"))


def hardest_negative(d, sign):
  return keep_one(sign, "-", nearest(d, sign, "-"))


MINERS = {"nearest_positive": nearest_positive, "hardest_negative": hardest_negative}


def slots_kept(d, sign, slots):
  """Positives first, then the nearest negatives, then what is neither; lowest index on ties."""
  group = {"+": 0, "-": 1, "": 2}
  order = lambda j: (group[sign[j]], d[j] if sign[j] == "-" else 0.0, j)
  return sorted(range(len(d)), key=order)[:slots]


def objective(
  params, x, labels, average_metric, average_generator, *, layout, loss, miners=(), slots=None,
  loss_options=None, alpha, beta, reconstruction_weight, soft_weight, sum_reconstruction,
  joint_soft, regularizer=0.0,
):  # fmt: skip
  """HDML's objectives of a batch, under the names that jaxdml logs them by."""
  options = loss_options or {}
  metric_loss = lambda a, p, s: LOSSES[loss](a, p, s, **options)
  y = encode(params["encoder"], x)
  z = embed(params["embedding"], y)

  # Real tuples.
  anchors, tuples, signs, kept, kept_signs = [], [], [], [], []
  for a, candidates in LAYOUTS[layout](len(x)):
    d = [DISTANCES[loss](z[a], z[j]) for j in candidates]
    sign = roles(a, candidates, labels)
    for miner in miners:
      sign = MINERS[miner](d, sign)
    pick = slots_kept(d, sign, slots) if slots else range(len(candidates))
    anchors.append(a)
    tuples.append(candidates)
    signs.append(sign)
    kept.append([candidates[j] for j in pick])
    kept_signs.append([sign[j] for j in pick])
  j_m = regularizer + metric_loss(z[anchors], [z[t] for t in tuples], signs)

  # Each anchor's own partners, its negatives pulled.
  lam = hardness(average_metric, alpha)
  partners, partner_labels, partner_signs = [], [], []
  for a, candidates, sign in zip(anchors, kept, kept_signs, strict=True):
    d_pos = min(
      (distance(z[a], z[j]) for j, s in zip(candidates, sign, strict=True) if s == "+"),
      default=math.inf,
    )
    for j, s in zip(candidates, sign, strict=True):
      partners.append(pull(z[a], z[j], d_pos, lam) if s == "-" else z[j])
      partner_labels.append(labels[j])
      partner_signs.append(s)

  # Synthetic tuples: one generator batch [z ; anchors ; partners].
  batch = np.concatenate([z, z[anchors], np.array(partners)])
  generated = generate(params["generator"], batch)
  y_recon, y_syn = generated[: len(x)], generated[len(x) :]
  z_syn = embed(params["embedding"], y_syn)
  n, k = len(anchors), len(kept[0])
  own = [z_syn[n + i * k : n + (i + 1) * k] for i in range(n)]
  j_syn = metric_loss(z_syn[:n], own, kept_signs)
  trust = math.exp(-beta / average_generator)
  j_metric = trust * j_m + (1 - trust) * j_syn

  # The generator's objective and the head's.
  errors = [squared(u, v) for u, v in zip(y_recon, y, strict=True)]
  j_recon = sum(errors) if sum_reconstruction else np.mean(errors)
  head = params["head"]
  of_anchors = [cross_entropy(head, v, labels[a]) for v, a in zip(y_syn, anchors, strict=False)]
  of_partners = [
    cross_entropy(head, v, label)
    for v, label, s in zip(y_syn[n:], partner_labels, partner_signs, strict=True)
    if s
  ]
  if joint_soft:
    j_soft = np.mean(of_anchors + of_partners)
  else:
    j_soft = np.mean(of_anchors) + (np.mean(of_partners) if of_partners else 0.0)
  j_gen = reconstruction_weight * j_recon + soft_weight * j_soft
  j_head = np.mean([cross_entropy(head, v, label) for v, label in zip(y, labels, strict=True)])
  spread = np.mean([squared(v, y.mean(0)) for v in y])
  return {
    "total": j_metric + j_gen + j_head,
    "loss/metric": j_metric,
    "loss/real": j_m,
    "loss/synthetic": j_syn,
    "loss/reconstruction": j_recon,
    "loss/soft": j_soft,
    "loss/generator": j_gen,
    "loss/head": j_head,
    "hdml/lambda": lam,
    "hdml/trust_in_real": trust,
    "hdml/reconstruction_error": np.mean(errors) / spread,
    "generator_mean": hidden(params["generator"], batch).mean(0),
  }
