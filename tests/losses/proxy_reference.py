"""Float64 NumPy references of the losses with parameters: plain loops, no code of jaxdml."""

from __future__ import annotations

import math

import numpy as np

from tests.losses.reference import DISTANCES


def log_sum_exp(values):
  return float(np.logaddexp.reduce(values))


def _unit(a):
  return a / math.sqrt(sum(v * v for v in a))


def _kept(distances, label, hardest):
  """{class: its centers that count}; the hardest negative is one center of another class."""
  kept = {z: list(range(len(row))) for z, row in enumerate(distances)}
  if hardest:
    others = [(d, z, k) for z, row in enumerate(distances) for k, d in enumerate(row) if z != label]
    _, z, k = min(others)
    kept = {label: kept[label], z: [k]}
  return kept


def _cross_entropy(target, others):
  return log_sum_exp([target, *others]) - target


def proxy_nca(x, s, label, temperature=1.0):
  d = {z: (1 - v[0]) / temperature for z, v in s.items()}
  others = [-d[z] for z in s if z != label]
  return log_sum_exp(others) + d[label] if others else None


def proxy_nca_pp(x, s, label, temperature=1.0 / 9.0):
  d = {z: (1 - v[0]) / temperature for z, v in s.items()}
  return _cross_entropy(-d[label], [-d[z] for z in s if z != label])


def soft_triple(x, s, label, la=20.0, gamma=0.1, margin=0.01, tau=0.2):
  del tau  # see `spread`
  relaxed = {}
  for z, values in s.items():
    q = np.exp(np.array(values) / gamma - max(values) / gamma)
    relaxed[z] = float(np.sum(q * values) / np.sum(q))
  return _cross_entropy(la * (relaxed[label] - margin), [la * relaxed[z] for z in s if z != label])


def normalized_softmax(x, s, label, temperature=0.05):
  return _cross_entropy(s[label][0] / temperature, [s[z][0] / temperature for z in s if z != label])


def cosface(x, s, label, margin=0.35, scale=64.0):
  return _cross_entropy(scale * (s[label][0] - margin), [scale * s[z][0] for z in s if z != label])


def sub_center_arcface(x, s, label, margin=0.5, scale=64.0):
  cosine = {z: max(values) for z, values in s.items()}
  angle = math.acos(min(max(cosine[label], -1.0), 1.0))
  if angle + margin <= math.pi:
    target = math.cos(angle + margin)
  else:
    target = math.cos(angle) - margin * math.sin(margin)
  return _cross_entropy(scale * target, [scale * cosine[z] for z in s if z != label])


def sphereface(x, s, label, margin=4, scale=1.0):
  radius = scale * math.sqrt(sum(v * v for v in x))
  angle = math.acos(min(max(s[label][0], -1.0), 1.0))
  k = min(math.floor(angle * margin / math.pi), margin - 1)
  psi = (-1) ** k * math.cos(margin * angle) - 2 * k
  return _cross_entropy(radius * psi, [radius * s[z][0] for z in s if z != label])


def spread(centers):
  """SoftTriple's penalty, tau = 1."""
  classes, k, _ = centers.shape
  total = 0.0
  for c in centers:
    for s in range(k):
      total += sum(math.sqrt(2 - 2 * float(_unit(c[s]) @ _unit(c[t]))) for t in range(s + 1, k))
  return total / (classes * k * (k - 1))


EXAMPLE_LOSSES = {
  "proxy_nca": proxy_nca,
  "proxy_nca_pp": proxy_nca_pp,
  "soft_triple": soft_triple,
  "normalized_softmax": normalized_softmax,
  "cosface": cosface,
  "arcface": sub_center_arcface,
  "sub_center_arcface": sub_center_arcface,
  "sphereface": sphereface,
}


def _proxy_anchor_terms(x, y, proxies, distance, where, repeats, hardest, margin=0.1, alpha=32.0):
  """For each proxy (positive term or None, negative term); an example counts `repeats` times."""
  between = DISTANCES.get(distance, distance)
  present = [i for i in range(len(x)) if where[i] and repeats[i] > 0]
  terms = []
  for c, proxy in enumerate(proxies):
    d = {i: between(proxy, x[i]) for i in present}
    mine, others = ([i for i in present if (y[i] == c) == same] for same in (True, False))
    if hardest:
      others = sorted(others, key=lambda i: (d[i], i))[:1]
    pull = sum(repeats[i] * math.exp(-alpha * (1 - d[i] - margin)) for i in mine)
    push = sum(repeats[i] * math.exp(alpha * (1 - d[i] + margin)) for i in others)
    terms.append((math.log1p(pull) if mine else None, math.log1p(push)))
  return terms


def proxy_anchor(x, y, proxies, distance, where, repeats, hardest, reduce, **options):
  terms = _proxy_anchor_terms(x, y, proxies, distance, where, repeats, hardest, **options)
  pull, push = [p for p, _ in terms if p is not None], [n for _, n in terms]
  if reduce == "none":
    return [(p or 0.0) + n for p, n in terms]
  if reduce == "sum":
    return sum(pull) + sum(push)
  counts = [len(pull), len(push)]
  if reduce == "mean_nonzero":
    counts = [sum(v > 0 for v in pull), sum(v > 0 for v in push)]
  return sum(sum(v) / c for v, c in zip((pull, push), counts, strict=True) if c)


def loss(name, x, y, vectors, *, distance, where=None, repeats=None, hardest=False, reduce="mean",
         **options):  # fmt: skip
  """The loss of `vectors` [C, d] or [C, K, d]; example i enters `repeats[i]` times."""
  between = DISTANCES.get(distance, distance)
  where = [True] * len(x) if where is None else where
  repeats = [1] * len(x) if repeats is None else [int(r) for r in repeats]
  if name == "proxy_anchor":
    return proxy_anchor(x, y, vectors, distance, where, repeats, hardest, reduce, **options)
  centers = vectors if vectors.ndim == 3 else vectors[:, None]
  values = []
  for i in range(len(x)):
    value = None
    if where[i]:
      d = [[between(x[i], center) for center in c] for c in centers]
      kept = _kept(d, y[i], hardest)
      s = {z: [1 - d[z][k] for k in ks] for z, ks in kept.items()}
      value = EXAMPLE_LOSSES[name](x[i], s, y[i], **options)
    values.append(value)
  if reduce == "none":
    return [0.0 if v is None else r * v for v, r in zip(values, repeats, strict=True)]
  replicated = [v for v, r in zip(values, repeats, strict=True) for _ in range(r) if v is not None]
  total = sum(replicated)
  if reduce != "sum":
    total = total / len(replicated) if replicated else 0.0
  return total + (options.get("tau", 0.2) * spread(centers) if name == "soft_triple" else 0.0)
