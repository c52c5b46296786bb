"""What samplers draw from: random numbers of a step, distinct numbers, the records of a class."""

from __future__ import annotations

import numpy as np

__all__ = ["Classes", "distinct", "rng_at"]

_STREAM = 0x5A3F1C  # Keeps the sampler's random numbers apart from those of the augmentation.


def rng_at(seed: int, step: int) -> np.random.Generator:
  """The random numbers of a step, whatever was drawn before it."""
  if step < 0:
    raise ValueError(f"step must be at least 0, got {step}")
  key = np.array([seed & (2**64 - 1), _STREAM], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, 0]))


def distinct(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
  """Draws `count` different numbers below `total` in random order, in O(count) for small counts."""
  if total <= 4 * count:
    return rng.permutation(total)[:count]
  # Rejection: at most a quarter of the numbers is ever taken, so few draws are repeated.
  chosen: dict[int, None] = {}
  while len(chosen) < count:
    for value in rng.integers(total, size=count - len(chosen)).tolist():
      chosen.setdefault(value)
  return np.fromiter(chosen, np.int64, count)


class Classes:
  """The records of each class that has at least two, in one array with offsets (CSR)."""

  def __init__(self, labels: np.ndarray, label: str, needed: int):
    values, dense = np.unique(labels, return_inverse=True)
    counts = np.bincount(dense, minlength=len(values))
    kept = np.flatnonzero(counts >= 2)
    self.order = np.argsort(dense, kind="stable").astype(np.int64)
    starts = np.cumsum(counts) - counts
    self.values, self.starts, self.counts = values[kept], starts[kept], counts[kept]
    self.dropped = int(np.sum(counts == 1))
    if len(kept) < needed:
      raise ValueError(
        f"label column {label!r} has {len(kept)} classes with at least 2 images "
        f"({self.dropped} more have one image and cannot give a positive pair), and a batch needs "
        f"{needed} classes: lower data.batch_size, raise data.images_per_class, or train on a "
        "coarser label"
      )

  def __len__(self) -> int:
    return len(self.counts)

  def draw(self, rng: np.random.Generator, which: int, count: int) -> np.ndarray:
    """Draws `count` records of a class; all differ unless the class is smaller."""
    size = int(self.counts[which])
    if size >= count:
      places = distinct(rng, size, count)
    else:
      # Cyclically over one permutation: each image comes floor or ceil of count/size times.
      places = np.resize(rng.permutation(size), count)
    return self.order[self.starts[which] + places]
