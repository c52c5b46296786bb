"""The cheap rival of HDML in sampled triplets: the nearest of a few random negatives."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxdml import mining
from jaxdml.training import recipes
from jaxdml.types import Pairs


def nearest_of_five(base: Callable[[], ConfigDict]) -> Callable[[], ConfigDict]:
  """Triplets whose negative is the nearest of five at random: the cheap way to harder ones."""

  def make() -> ConfigDict:
    config = recipes.apply(base(), "triplet")
    config.loss.layout = "all_pairs"
    mining.MINERS["nearest_of_random"] = nearest_of_random  # Where it trains, not at import.
    config.mining.negative = "nearest_of_random"
    return config

  return make


def nearest_of_random(pairs: Pairs, /) -> Pairs:
  """The nearest of five negatives drawn at random; a row with fewer draws what it has."""
  noise = jax.vmap(lambda key: jax.random.uniform(key, pairs.distances.shape[1:]))(pairs.keys)
  noise = jnp.where(pairs.negative, noise, -1.0)
  fifth = jax.lax.top_k(noise, min(5, noise.shape[1]))[0][:, -1:]
  return mining.hardest_negative(
    pairs._replace(negative=pairs.negative & (noise >= jnp.maximum(fifth, 0.0)))
  )
