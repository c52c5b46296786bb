"""One call of a loss: its anchors, what they are compared with, the rows of any block of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdml._products import matmul_transposed
from jaxdml.distances import has_products, private_distances
from jaxdml.losses import selected
from jaxdml.losses.pairs import Elements, Inputs, RowFn, masked_pairs, mine
from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, PyTree, Refs, Rows

__all__ = ["PRODUCTS", "Block", "Call", "Shared", "prepare"]

PRODUCTS = "products"  # of embeddings and references: what nobody wants to compute twice


def _zero_where_empty(embeddings: Array, where: Array | None) -> Array:
  return embeddings if where is None else jnp.where(where[..., None], embeddings, 0)


class Block(NamedTuple):
  """What is sliced by anchor."""

  index: Array
  prepared: PyTree
  labels: Array
  where: Array
  ids: Array
  keys: Array | None
  weights: Array
  private: Refs | None


class Shared(NamedTuple):
  """What every block reads."""

  prepared: PyTree
  inputs: Inputs


class Call(NamedTuple):
  """One call of a loss: its anchors in one block, what they share, and how pairs are made."""

  block: Block
  shared: Shared
  mining_fn: MiningFn | None
  between: Callable[[PyTree, PyTree], Array]

  def pairs(self, block: Block, shared: Shared) -> Pairs:
    """The mined pairs of a block of anchors."""
    refs = shared.inputs.refs if block.private is None else block.private
    distances = self.between(block.prepared, shared.prepared if block.private is None else refs)
    pairs = masked_pairs(
      distances, block.labels, refs, block.ids, block.where, block.keys, block.index
    )
    return mine(pairs, self.mining_fn)

  def elements(self, row_fn: RowFn, block: Block, shared: Shared) -> Rows | Elements:
    """[b, t] rows of a block, one an anchor, or the pairs that they are sums of."""
    pairs = self.pairs(block, shared)
    rows, count = row_fn(pairs, shared.inputs), block.labels.shape[0]
    if not isinstance(rows, Rows | Elements):
      raise TypeError(f"row_fn must return jaxdml.types.Rows; got {type(rows).__name__}")
    if isinstance(rows, Elements):
      if len(rows.values) == count:
        return rows
      rows = rows.rows()
    rows = jax.tree.map(lambda a: a[:, None] if a.ndim == 1 else a, rows)
    if rows.total.shape[0] != count:
      by_anchor = functools.partial(
        jax.ops.segment_sum, segment_ids=pairs.anchor - block.index[0], num_segments=count
      )
      rows = jax.tree.map(by_anchor, rows)
    return rows

  def rows(self, row_fn: RowFn, block: Block, shared: Shared) -> Rows:
    """[b, t] rows of a block, one an anchor."""
    rows = self.elements(row_fn, block, shared)
    return rows.rows() if isinstance(rows, Elements) else rows

  def rows_per_anchor(self) -> tuple[int, bool]:
    """How many rows the miner makes of an anchor, and whether it leaves them few partners."""
    one, found = jax.tree.map(lambda a: a[:1], self.block), []

    def look():
      pairs = self.pairs(one, self.shared)
      found.append((pairs.positive.shape[0], selected.few(pairs)))

    jax.eval_shape(look)
    return found[0]


def _between(distance_fn: DistanceFn, embeddings: Array, refs: Refs):
  """(anchors prepared, references prepared, distances of a block of both)."""
  if refs.embeddings.ndim == 3:
    of = lambda x, own: private_distances(distance_fn, x, own.embeddings)
    return embeddings, None, of
  if not has_products(distance_fn):
    return embeddings, refs.embeddings, distance_fn
  x_features, x_terms = distance_fn.prepare(embeddings)
  y_features, y_terms = distance_fn.prepare(refs.embeddings)

  def between(x, y):
    products = checkpoint_name(matmul_transposed(x[0], y[0], y[2]), PRODUCTS)
    return distance_fn.combine(products, [t[:, None] for t in x[1]], [t[None, :] for t in y[1]])

  # [d, m]: the references' gradient then sums up in the layout that its matrix product writes. The
  # barrier keeps XLA from folding the transpose into that product, which is slow on a CPU.
  rows = jax.lax.stop_gradient(y_features)
  y_features = jax.lax.optimization_barrier(y_features.T)
  return (x_features, x_terms), (y_features, y_terms, rows), between


def prepare(embeddings, labels, refs, ids, where, weights, distance_fn, mining_fn, key) -> Call:
  """A call of a loss with what its arguments leave open filled in; see docs/conventions.md."""
  n = embeddings.shape[0]
  if where is None:
    where = jnp.ones(n, bool)
  if weights is None:
    weights = jnp.ones(n, jnp.promote_types(embeddings.dtype, jnp.float32))
  index = jnp.arange(n, dtype=jnp.int32)
  row_ids = index if ids is None else ids
  weights = jnp.where(where, weights, 0)  # of a masked anchor it may be NaN
  embeddings = _zero_where_empty(embeddings, where)
  if refs is None:
    refs = Refs(embeddings, labels, where, row_ids)
  else:
    refs = refs._replace(embeddings=_zero_where_empty(refs.embeddings, refs.where))
  keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(row_ids)
  x, y, between = _between(distance_fn, embeddings, refs)
  private = refs if refs.embeddings.ndim == 3 else None
  block = Block(index, x, labels, where, row_ids, keys, weights, private)
  inputs = Inputs(embeddings, labels, refs, distance_fn, weights)
  return Call(block, Shared(y, inputs), mining_fn, between)
