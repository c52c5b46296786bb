"""Data that several tests of the metrics share."""

import numpy as np


def blobs(n=400, k=12, d=5, spread=0.4, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, k, n)
  points = rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))
  return points.astype(np.float32), labels
