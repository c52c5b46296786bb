"""Miners made of miners, and those that weigh positives against negatives."""

import jax
import jax.numpy as jnp

from jaxdml._sharding import here
from jaxdml.mining._miner import Miner, chain, keep, unnamed
from jaxdml.types import Array, MiningFn, Pairs

__all__ = ["chain", "expand_positives", "multi_similarity_filter", "switch"]


def switch(index: Array | int, *mining_fns: MiningFn) -> MiningFn:
  """Makes the miner at `index`, which may be traced: another choice compiles nothing.

  Branches must be alike, so no columns are named and nothing is stated: a constant choice is
  faster.

  >>> from jaxdml import mining
  >>> harder_later = lambda step: switch(
  ...   step // 1000, mining.random_negative, mining.semihard_negative, mining.hardest_negative
  ... )
  """
  branches = [unnamed(fn) for fn in mining_fns]
  return lambda pairs: jax.lax.switch(here(index), branches, pairs)


def multi_similarity_filter(*, epsilon: float = 0.1) -> Miner:
  """Makes a miner of pairs that are informative beside the row's hardest pair of the other kind.

  Negatives nearer than the farthest positive + epsilon, positives farther than the nearest negative
  - epsilon (Wang et al., arXiv 1904.06627, eq. 4 and 5, whose similarity is minus the distance).
  A row without positives keeps no negatives, and one without negatives no positives.

  Args:
    epsilon: slack, in units of the distance.

  >>> positive = jnp.array([[True, True, False, False]])
  >>> pairs = Pairs(jnp.array([[0.1, 0.5, 0.55, 0.7]]), positive, ~positive, jnp.array([0]))
  >>> mined = multi_similarity_filter()(pairs)
  >>> print(mined.positive, mined.negative)
  [[False  True False False]] [[False False  True False]]
  """

  def mine(pairs: Pairs, /) -> Pairs:
    d = pairs.distances
    bound = lambda mask, empty: jnp.where(mask, d, empty)
    farthest = jnp.max(bound(pairs.positive, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)
    nearest = jnp.min(bound(pairs.negative, jnp.inf), axis=1, keepdims=True, initial=jnp.inf)
    positive = pairs.positive & (d > nearest - epsilon)
    return pairs._replace(positive=positive, negative=pairs.negative & (d < farthest + epsilon))

  return Miner(mine, name=f"multi_similarity_filter(epsilon={epsilon})")


def expand_positives(*, max_positives: int | None = None) -> Miner:
  """Makes a miner that gives every (anchor, positive) pair a row with all the anchor's negatives.

  So that a negative miner behind it picks a negative for each pair, as FaceNet's semihard does.
  The rows beyond an anchor's last positive are empty.

  Args:
    max_positives: rows made of each: its first positives in column order (K - 1 suffices for P x K
      batches). None makes m of each: memory O(r m^2), so bound it or use `block_size`.

  Raises:
    ValueError: `max_positives` below 1.
  """
  if max_positives is not None and max_positives < 1:
    raise ValueError(f"max_positives must be at least 1, or None for all; got {max_positives}")
  mine = lambda pairs: _expanded(pairs, max_positives)
  name = f"expand_positives(max_positives={max_positives})"
  return Miner(mine, name=name, positives=1, rows=max_positives)


def _expanded(pairs: Pairs, max_positives: int | None) -> Pairs:
  m = pairs.distances.shape[1]
  k = m if max_positives is None else min(max_positives, m)
  rank = jnp.cumsum(pairs.positive, axis=1) - 1
  # index[r, j]: the column of the row's j-th positive, or m when it has fewer.
  columns = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32), pairs.positive.shape)
  slot = jnp.where(pairs.positive & (rank < k), rank, k)
  index = jnp.full((pairs.positive.shape[0], k + 1), m, jnp.int32)
  index = jax.vmap(lambda i, s, c: i.at[s].set(c))(index, slot, columns)[:, :k]
  repeat = lambda x: jnp.repeat(x, k, axis=0, total_repeat_length=x.shape[0] * k)
  index, keys = index.reshape(-1), pairs.keys
  if keys is not None:
    fold = lambda key: jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(k))
    # Typed keys are [r], raw uint32 ones [r, 2].
    keys = jax.vmap(fold)(keys).reshape(-1, *keys.shape[1:])
  each = jax.tree.map(repeat, pairs._replace(keys=None, positive_columns=None))
  each = each._replace(negative=each.negative & (index < m)[:, None], keys=keys)
  return keep(each, positives=index)
