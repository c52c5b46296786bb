"""Building miners from miners."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.mining.select import one_hot
from jaxdml.types import MiningFn, Pairs

__all__ = ["chain", "expand_positives"]


def chain(*mining_fns: MiningFn) -> MiningFn:
  """Applies miners from left to right, each seeing what the one before kept.

  >>> from jaxdml import mining
  >>> eps_semihard = chain(mining.nearest_positive, mining.semihard_negative)
  """

  def mine(pairs: Pairs, /) -> Pairs:
    for fn in mining_fns:
      pairs = fn(pairs)
    return pairs

  return mine


def expand_positives(pairs: Pairs, /, *, max_positives: int | None = None) -> Pairs:
  """Gives every (anchor, positive) pair a row of its own, with all the anchor's negatives.

  So that a negative miner behind it picks a negative for each pair, as FaceNet's semihard does.

  Args:
    pairs: [r, m] rows.
    max_positives: rows made of each row: its first `max_positives` positives in column order (bind
      it with functools.partial; K - 1 suffices for P x K batches). None makes m of each: memory
      O(r m^2), so bound it or use `block_size`.

  Returns:
    Pairs of r * max_positives rows; rows beyond the last positive are empty.
  """
  m = pairs.distances.shape[1]
  k = m if max_positives is None else min(max_positives, m)
  rank = jnp.cumsum(pairs.positive, axis=1) - 1
  # index[r, j]: the column of the row's j-th positive, or m when it has fewer.
  columns = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32), pairs.positive.shape)
  slot = jnp.where(pairs.positive & (rank < k), rank, k)
  index = jnp.full((pairs.positive.shape[0], k + 1), m, jnp.int32)
  index = jax.vmap(lambda i, s, c: i.at[s].set(c))(index, slot, columns)[:, :k]
  repeat = lambda x: jnp.repeat(x, k, axis=0, total_repeat_length=x.shape[0] * k)
  positive = one_hot(index.reshape(-1), repeat(pairs.positive))
  has_positive = jnp.any(positive, axis=1, keepdims=True)
  keys = pairs.keys
  if keys is not None:
    fold = lambda key: jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(k))
    # Typed keys are [r], raw uint32 ones [r, 2].
    keys = jax.vmap(fold)(keys).reshape(-1, *keys.shape[1:])
  return Pairs(
    distances=repeat(pairs.distances),
    positive=positive,
    negative=repeat(pairs.negative) & has_positive,
    anchor=repeat(pairs.anchor),
    keys=keys,
  )
