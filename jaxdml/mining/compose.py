"""Building miners from miners."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.mining.select import keep
from jaxdml.types import Array, MiningFn, Pairs

__all__ = ["chain", "expand_positives", "switch"]


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


def switch(index: Array | int, *mining_fns: MiningFn) -> MiningFn:
  """The miner at `index`, which may be traced: another choice compiles nothing.

  lax.switch wants the same structure of every branch, while miners differ in which columns they
  name (`Pairs.positive_at`). Behind this one nobody knows them: a constant choice is faster.

  >>> from jaxdml import mining
  >>> harder_later = lambda step: switch(
  ...   step // 1000, mining.random_negative, mining.semihard_negative, mining.hardest_negative
  ... )
  """
  unnamed = lambda fn: lambda pairs: fn(pairs)._replace(positive_at=None, negative_at=None)

  def mine(pairs: Pairs, /) -> Pairs:
    return jax.lax.switch(index, [unnamed(fn) for fn in mining_fns], pairs)

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

  Raises:
    ValueError: `max_positives` below 1.
  """
  if max_positives is not None and max_positives < 1:
    raise ValueError(f"max_positives must be at least 1, or None for all; got {max_positives}")
  m = pairs.distances.shape[1]
  k = m if max_positives is None else min(max_positives, m)
  rank = jnp.cumsum(pairs.positive, axis=1) - 1
  # index[r, j]: the column of the row's j-th positive, or m when it has fewer.
  columns = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32), pairs.positive.shape)
  slot = jnp.where(pairs.positive & (rank < k), rank, k)
  index = jnp.full((pairs.positive.shape[0], k + 1), m, jnp.int32)
  index = jax.vmap(lambda i, s, c: i.at[s].set(c))(index, slot, columns)[:, :k]
  repeat = lambda x: jnp.repeat(x, k, axis=0, total_repeat_length=x.shape[0] * k)
  index = index.reshape(-1)
  keys = pairs.keys
  if keys is not None:
    fold = lambda key: jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(k))
    # Typed keys are [r], raw uint32 ones [r, 2].
    keys = jax.vmap(fold)(keys).reshape(-1, *keys.shape[1:])
  each = Pairs(
    distances=repeat(pairs.distances),
    positive=repeat(pairs.positive),
    negative=repeat(pairs.negative) & (index < m)[:, None],
    anchor=repeat(pairs.anchor),
    keys=keys,
  )
  return keep(each, positives=index)
