"""Miners of positives. `nearest_positive` is easy positive sampling (EPS).

Ties go to the lowest column. A row without a positive keeps none and contributes nothing.

>>> import jax.numpy as jnp
>>> positive = jnp.array([[True, True, False]])
>>> pairs = Pairs(jnp.array([[2.0, 1.0, 0.5]]), positive, ~positive, jnp.array([0]))
>>> print(nearest_positive(pairs).positive)
[[False  True False]]
"""

import jax

from jaxdml.mining._miner import Miner, draws, first_max, first_min, k_min, keep, miner
from jaxdml.types import Pairs

__all__ = [
  "all_positives", "hardest_positive", "nearest_positive", "nearest_positives",
  "random_positive",
]  # fmt: skip


@miner()
def all_positives(pairs: Pairs, /) -> Pairs:
  """Keeps every pair: the identity, for configs that name a miner."""
  return pairs


@miner(positives=1)
def nearest_positive(pairs: Pairs, /) -> Pairs:
  """Easy positive sampling: keeps argmin_{p: y_p = y_a} d(a, p) (Levi et al., arXiv 2006.05162)."""
  return keep(pairs, positives=first_min(pairs.distances, pairs.positive))


def nearest_positives(*, k: int) -> Miner:
  """Makes a miner of the k nearest positives: between EPS (k = 1) and all positives.

  Args:
    k: positives of a row; rows with fewer keep all.

  Raises:
    ValueError: for a k below 1.

  >>> import jax.numpy as jnp
  >>> positive = jnp.array([[True, True, True, False]])
  >>> pairs = Pairs(jnp.array([[3.0, 1.0, 2.0, 0.5]]), positive, ~positive, jnp.array([0]))
  >>> print(nearest_positives(k=2)(pairs).positive)
  [[False  True  True False]]
  """
  if k < 1:
    raise ValueError(f"k must be at least 1; got {k}")
  mine = lambda pairs: keep(pairs, positives=k_min(pairs.distances, pairs.positive, k))
  return Miner(mine, name=f"nearest_positives(k={k})", positives=k)


@miner(positives=1)
def hardest_positive(pairs: Pairs, /) -> Pairs:
  """Keeps the farthest positive of each row (batch hard: Hermans et al., arXiv 1703.07737)."""
  return keep(pairs, positives=first_max(pairs.distances, pairs.positive))


@miner(positives=1)
def random_positive(pairs: Pairs, /) -> Pairs:
  """Keeps one positive of each row, uniformly at random. Needs the loss's `key`."""
  score = draws(pairs, "random_positive", jax.random.uniform)
  return keep(pairs, positives=first_max(score, pairs.positive))
