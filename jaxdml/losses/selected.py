"""The partners that mining left each anchor, alone: their loss costs no second matrix product.

Behind a miner that leaves a row a few partners nearly all of the gradient of the distances [n, m]
is 0. So mining looks for the columns first, a block of anchors at a time, without gradient; then
the partners are copied to their anchors, [n, k, d], and the loss sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.losses import blocks
from jaxdml.types import Pairs, PyTree, Refs

__all__ = ["few", "pick"]

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
  return Refs(refs.embeddings[index], refs.labels[index], found)
