"""The partners that mining left each anchor, alone: their loss costs no second matrix product.

Behind a miner that leaves a row a few partners nearly all of the gradient of the distances [n, m]
is 0. So mining looks for the columns first, a block of anchors at a time, without gradient; then
the partners are copied to their anchors, [n, k, d], and the loss sees nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.losses import blocks
from jaxdml.types import Array, Pairs, PyTree, Refs

__all__ = ["few", "pick", "sum_sorted"]

_MOST = 8  # partners in all: as many copies of the embeddings


def few(pairs: Pairs) -> bool:
  """Whether mining left rows few partners, at columns that it names: worth being copied."""
  positives, negatives = pairs.columns()
  if positives is None or negatives is None:
    return False
  return positives.shape[1] + negatives.shape[1] <= min(_MOST, pairs.distances.shape[1] // 4)


def pick(pairs_fn: Callable[[PyTree], Pairs], block: PyTree, refs: Refs, size: int) -> Refs:
  """The references that mining keeps, private to each anchor; gradients flow to the originals.

  Args:
    pairs_fn: block of anchors -> its mined pairs, one row an anchor. No gradient goes through it.
    block: all n anchors; a pytree with `where` [n].
    refs: what they are compared with, shared.
    size: anchors at a time.

  Returns:
    Refs [n, k, d]; slots that nothing fills are not `where`.
  """
  n, m = block.where.shape[0], refs.labels.shape[0]

  of_block = lambda block: jnp.concatenate(pairs_fn(block).columns(), axis=1)
  if size >= n:
    index = of_block(block)
  else:
    cut, _ = blocks.split(block, n, size)
    index = jax.lax.map(of_block, cut)
    index = index.reshape(-1, index.shape[-1])[:n]
  found = index < m
  index = jnp.minimum(index, m - 1)
  return Refs(_take(refs.embeddings, index), refs.labels[index], found)


@jax.custom_vjp
def _take(rows: Array, index: Array) -> Array:
  """rows[index]; its gradient adds up in the same order in every run, on a GPU too."""
  return rows[index]


def _take_fwd(rows, index):
  return rows[index], (index, jnp.zeros_like(rows, shape=(len(rows), 0)))


def _take_bwd(residuals, bar):
  index, like = residuals
  bar, index = bar.reshape(-1, bar.shape[-1]), index.reshape(-1)
  wide = bar.astype(jnp.promote_types(bar.dtype, jnp.float32))
  # A GPU adds to one place from many threads, in whatever order they come.
  add = sum_sorted if jax.default_backend() == "gpu" else jax.ops.segment_sum
  return add(wide, index, len(like)).astype(like.dtype), None


_take.defvjp(_take_fwd, _take_bwd)


@functools.partial(jax.jit, static_argnums=2)
def sum_sorted(values: Array, index: Array, count: int) -> Array:
  """[count, d] sums of values [n, d] by index [n]: jax.ops.segment_sum in one fixed order."""
  order = jnp.argsort(index, stable=True)
  index, values = index[order], values[order]
  first = jnp.concatenate([jnp.ones(1, bool), index[1:] != index[:-1]])

  def append(left, right):
    (first_l, sum_l), (first_r, sum_r) = left, right
    return first_l | first_r, jnp.where(first_r[:, None], sum_r, sum_l + sum_r)

  _, sums = jax.lax.associative_scan(append, (first, values))
  place = jnp.arange(count, dtype=index.dtype)
  last = jnp.maximum(jnp.searchsorted(index, place, side="right") - 1, 0)
  return jnp.where((index[last] == place)[:, None], sums[last], 0.0)
