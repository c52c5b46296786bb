"""Which positives a row keeps. `nearest_positive` is easy positive sampling (EPS).

Ties go to the lowest column. A row without a positive keeps none and contributes nothing.
"""

from __future__ import annotations

import jax

from jaxdml.mining.keys import row_keys
from jaxdml.mining.select import first_max, first_min, keep, smallest
from jaxdml.types import Pairs

__all__ = [
  "all_positives",
  "hardest_positive",
  "nearest_positive",
  "nearest_positives",
  "random_positive",
]


def all_positives(pairs: Pairs, /) -> Pairs:
  """Keeps every pair: the identity, for configs that name a miner."""
  return pairs


def nearest_positive(pairs: Pairs, /) -> Pairs:
  """Easy positive sampling: keeps argmin_{p: y_p = y_a} d(a, p) (Levi et al., arXiv 2006.05162).

  >>> import jax.numpy as jnp
  >>> positive = jnp.array([[True, True, False]])
  >>> pairs = Pairs(jnp.array([[2.0, 1.0, 0.5]]), positive, ~positive, jnp.array([0]))
  >>> print(nearest_positive(pairs).positive)
  [[False  True False]]
  """
  return keep(pairs, positives=first_min(pairs.distances, pairs.positive))


def nearest_positives(pairs: Pairs, /, *, k: int) -> Pairs:
  """Keeps the k nearest positives of each row: between EPS (k = 1) and all positives.

  Args:
    pairs: rows.
    k: how many; rows with fewer keep all. Bind it with functools.partial.

  Returns:
    pairs with at most k positives a row.

  >>> import jax.numpy as jnp
  >>> positive = jnp.array([[True, True, True, False]])
  >>> pairs = Pairs(jnp.array([[3.0, 1.0, 2.0, 0.5]]), positive, ~positive, jnp.array([0]))
  >>> print(nearest_positives(pairs, k=2).positive)
  [[False  True  True False]]
  """
  return keep(pairs, positives=smallest(pairs.distances, pairs.positive, k))


def hardest_positive(pairs: Pairs, /) -> Pairs:
  """Keeps the farthest positive of each row (batch hard: Hermans et al., arXiv 1703.07737)."""
  return keep(pairs, positives=first_max(pairs.distances, pairs.positive))


def random_positive(pairs: Pairs, /) -> Pairs:
  """Keeps one positive of each row, uniformly at random. Needs the loss's `key`."""
  keys = row_keys(pairs, "random_positive")
  score = jax.vmap(lambda k: jax.random.uniform(k, pairs.distances.shape[1:]))(keys)
  return keep(pairs, positives=first_max(score, pairs.positive))
