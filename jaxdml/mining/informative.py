"""Miners that weigh positives against negatives: the multi-similarity filter."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdml.types import Pairs

__all__ = ["multi_similarity_filter"]


def multi_similarity_filter(pairs: Pairs, /, *, epsilon: float = 0.1) -> Pairs:
  """Keeps the pairs that are informative beside the row's hardest pair of the other kind.

  Negatives nearer than the farthest positive + epsilon, positives farther than the nearest negative
  - epsilon (Wang et al., arXiv 1904.06627, eq. 4 and 5, whose similarity is minus the distance).
  A row without positives keeps no negatives, and one without negatives no positives.

  Args:
    pairs: rows.
    epsilon: slack, in units of the distance.

  Returns:
    pairs with narrower masks.

  >>> positive = jnp.array([[True, True, False, False]])
  >>> pairs = Pairs(jnp.array([[0.1, 0.5, 0.55, 0.7]]), positive, ~positive, jnp.array([0]))
  >>> print(multi_similarity_filter(pairs))  # doctest: +ELLIPSIS
  Pairs(...positive=Array([[False,  True, False, False]]...negative=Array([[False, False,  True, ...
  """
  d = pairs.distances
  bound = lambda mask, empty: jnp.where(mask, d, empty)
  farthest = jnp.max(bound(pairs.positive, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)
  nearest = jnp.min(bound(pairs.negative, jnp.inf), axis=1, keepdims=True, initial=jnp.inf)
  return pairs._replace(
    positive=pairs.positive & (d > nearest - epsilon),
    negative=pairs.negative & (d < farthest + epsilon),
  )
