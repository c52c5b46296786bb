"""Distances between two vectors, in float64 from their formulas."""

import functools
import math

import numpy as np


def unit(a):
  norm = math.sqrt(inner(a, a))
  return np.array([v / norm if norm > 0 else 0.0 for v in a])


def inner(a, b):
  return math.fsum(u * v for u, v in zip(a, b, strict=True))


def squared(a, b):
  return math.fsum((u - v) ** 2 for u, v in zip(a, b, strict=True))


def _variance(a):
  mean = math.fsum(a) / len(a)
  return math.fsum((v - mean) ** 2 for v in a) / len(a)


def signal_to_noise(a, b):
  signal = _variance(a)
  return _variance([u - v for u, v in zip(a, b, strict=True)]) / signal if signal > 0 else 0.0


def hyperbolic(a, b, curvature=1.0, clip_radius=2.3):
  """2/sqrt(c) artanh(sqrt(c) |(-p) + q|) with Moebius addition, p and q the clipped features."""
  root = math.sqrt(curvature)

  def on_the_ball(v):
    length = math.sqrt(inner(v, v))
    cut = min(length, math.inf if clip_radius is None else clip_radius, 6.0 / root)
    return math.tanh(root * cut) / root * unit(v)

  p, q = -on_the_ball(a), on_the_ball(b)
  pq, pp, qq = curvature * inner(p, q), curvature * inner(p, p), curvature * inner(q, q)
  moved = ((1 + 2 * pq + qq) * p + (1 - pp) * q) / (1 + 2 * pq + pp * qq)
  return 2.0 / root * math.atanh(root * math.sqrt(inner(moved, moved)))


def _normalized(fn):
  return lambda a, b: fn(unit(a), unit(b))


def _euclidean(a, b):
  return math.sqrt(squared(a, b))


# With the defaults of `distances.create`.
DISTANCES = {
  "cosine": _normalized(lambda a, b: 1.0 - inner(a, b)),
  "dot": lambda a, b: -inner(a, b),
  "euclidean": _euclidean,
  "hyperbolic": hyperbolic,
  "normalized_euclidean": _normalized(_euclidean),
  "normalized_signal_to_noise": _normalized(signal_to_noise),
  "normalized_squared_euclidean": _normalized(squared),
  "signal_to_noise": signal_to_noise,
  "squared_euclidean": squared,
}


def create(name, **options):
  return functools.partial(DISTANCES[name], **options)
