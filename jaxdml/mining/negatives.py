"""Miners of negatives. Ties go to the lowest column."""

import jax
import jax.numpy as jnp

from jaxdml.mining._miner import Miner, draws, first_max, first_min, k_min, keep, miner
from jaxdml.types import Pairs

__all__ = [
  "all_negatives", "distance_weighted_negative", "hardest_negative", "hardest_negatives",
  "random_negative", "semihard_negative",
]  # fmt: skip


@miner()
def all_negatives(pairs: Pairs, /) -> Pairs:
  """Keeps every pair: the identity, for configs that name a miner."""
  return pairs


@miner(negatives=1)
def hardest_negative(pairs: Pairs, /) -> Pairs:
  """Keeps the nearest negative of each row (batch hard: Hermans et al., arXiv 1703.07737)."""
  return keep(pairs, negatives=first_min(pairs.distances, pairs.negative))


def hardest_negatives(*, k: int) -> Miner:
  """Makes a miner of the k nearest negatives.

  Args:
    k: negatives of a row; rows with fewer keep all.

  Raises:
    ValueError: for a k below 1.
  """
  if k < 1:
    raise ValueError(f"k must be at least 1; got {k}")
  mine = lambda pairs: keep(pairs, negatives=k_min(pairs.distances, pairs.negative, k))
  return Miner(mine, name=f"hardest_negatives(k={k})", negatives=k)


@miner(negatives=1)
def random_negative(pairs: Pairs, /) -> Pairs:
  """Keeps one negative of each row, uniformly at random. Needs the loss's `key`."""
  score = draws(pairs, "random_negative", jax.random.uniform)
  return keep(pairs, negatives=first_max(score, pairs.negative))


@miner(negatives=1)
def semihard_negative(pairs: Pairs, /) -> Pairs:
  """Keeps the nearest negative farther than the positive (FaceNet, arXiv 1503.03832).

  n = argmin_{n: d(a, n) > d(a, p)} d(a, n), with p the row's farthest positive; combine it with
  `nearest_positive`, or with `expand_positives()` for the paper's one row a pair. Where no negative
  is farther than p, the farthest is taken, the one closest to being semihard;
  pytorch-metric-learning drops the row. A row without a positive keeps no negative.
  """
  d = pairs.distances
  farthest = jnp.max(jnp.where(pairs.positive, d, -jnp.inf), axis=1, initial=-jnp.inf)[:, None]
  negative = pairs.negative & (farthest > -jnp.inf)
  semihard = negative & (d > farthest)
  # One search serves both: the nearest semihard negative, or the farthest of a row without one.
  some = jnp.any(semihard, axis=1, keepdims=True)
  values, mask = jnp.where(some, d, -d), jnp.where(some, semihard, negative)
  return keep(pairs, negatives=first_min(values, mask))


def distance_weighted_negative(
  *, dim: int, cutoff: float = 0.5, max_distance: float = 1.4
) -> Miner:
  """Makes a miner that draws one negative by the inverse density of its distance (Wu et al. 2017).

  On the unit sphere in R^dim, distances have density
  q(d) ~ d^(dim-2) (1 - d^2/4)^((dim-3)/2); P(n) ~ 1/q(max(d(a, n), cutoff)) (arXiv 1706.07567),
  in log space, so it does not overflow in high dimension. Negatives farther than `max_distance`
  are drawn only where a row has none nearer, then uniformly. It expects normalised euclidean
  distances and needs the loss's `key`.

  Args:
    dim: the embedding's dimension.
    cutoff: distances below it count as this distance.
    max_distance: beyond it the weight would explode; in (cutoff, 2).

  Raises:
    ValueError: for bounds that are not 0 < cutoff < max_distance < 2.
  """
  if not 0.0 < cutoff < max_distance < 2.0:
    raise ValueError(
      f"need 0 < cutoff < max_distance < 2; got cutoff={cutoff}, max_distance={max_distance}"
    )

  def mine(pairs: Pairs, /) -> Pairs:
    noise = draws(pairs, "distance_weighted_negative", jax.random.gumbel)
    d = jnp.clip(pairs.distances, cutoff, max_distance)
    log_q = (dim - 2.0) * jnp.log(d) + 0.5 * (dim - 3.0) * jnp.log1p(-0.25 * d * d)
    near = pairs.negative & (pairs.distances < max_distance)
    has_near = jnp.any(near, axis=1, keepdims=True)
    candidates = jnp.where(has_near, near, pairs.negative)
    logits = jnp.where(has_near, -log_q, 0.0)
    return keep(pairs, negatives=first_max(logits + noise, candidates))

  return Miner(mine, name=f"distance_weighted_negative(dim={dim})", negatives=1)
