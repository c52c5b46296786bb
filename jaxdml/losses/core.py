"""The one engine: anchors as rows against references, masks, mining, weights, blocks, reduction.

A loss is a function of its own hyperparameters that returns `row_fn(pairs, inputs) -> Rows`;
`tuple_loss` turns it into `loss(embeddings, labels, *, <own>, refs=..., ...)`. What the shared
arguments mean is documented once, in docs/conventions.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, ReduceFn, Refs, Rows

__all__ = ["Inputs", "element_rows", "make_pairs", "mine", "tuple_loss"]


class Inputs(NamedTuple):
  """The whole call's arrays, for losses that need more than distances; index by `pairs.anchor`."""

  embeddings: Array
  labels: Array
  refs: Refs


RowFn = Callable[[Pairs, Inputs], Rows]


def element_rows(values: Array, mask: Array) -> Rows:
  """Rows of masked elements: values [r, m] where mask; active means above zero."""
  values = jnp.where(mask, values, 0.0)
  return Rows(
    total=jnp.sum(values, axis=1),
    elements=jnp.sum(mask, axis=1, dtype=values.dtype),
    active=jnp.sum(mask & (values > 0), axis=1, dtype=values.dtype),
  )


def _shapes(embeddings, labels, refs, ids, where, weights) -> None:
  if embeddings.ndim != 2:
    raise ValueError(f"embeddings must be [n, d]; got shape {embeddings.shape}; use vmap for more")
  if not jnp.issubdtype(embeddings.dtype, jnp.floating):
    raise TypeError(f"embeddings must be floating point; got {embeddings.dtype}")
  n = embeddings.shape[0]
  for name, x in (("labels", labels), ("ids", ids), ("where", where), ("weights", weights)):
    if x is not None and x.shape != (n,):
      raise ValueError(f"{name} must be [{n}], one for each embedding; got shape {x.shape}")
  if refs is None:
    return
  e = refs.embeddings
  if e.ndim not in (2, 3) or e.shape[-1] != embeddings.shape[1] or (e.ndim == 3 and len(e) != n):
    raise ValueError(
      f"refs.embeddings must be [m, {embeddings.shape[1]}] or, private to each anchor, "
      f"[{n}, m, {embeddings.shape[1]}]; got shape {e.shape}"
    )
  for name, x in (("labels", refs.labels), ("where", refs.where), ("ids", refs.ids)):
    if x is not None and x.shape != e.shape[:-1]:
      raise ValueError(f"refs.{name} must be shaped {e.shape[:-1]}; got {x.shape}")
  if refs.ids is not None and ids is None:
    raise ValueError("refs.ids is given without ids: say which example each anchor is, or drop it")


def _zero_where_empty(embeddings: Array, where: Array | None) -> Array:
  return embeddings if where is None else jnp.where(where[..., None], embeddings, 0)


def make_pairs(
  embeddings: Array,
  labels: Array,
  refs: Refs,
  *,
  distance_fn: DistanceFn,
  ids: Array | None = None,
  where: Array | None = None,
  keys: Array | None = None,
  anchor: Array | None = None,
) -> Pairs:
  """The unmined rows of anchors [n, d] against references: distances and masks [n, m].

  Args:
    embeddings: [n, d] anchors.
    labels: [n].
    refs: shared [m, d] or private [n, m, d] references.
    distance_fn: applied to anchors and references.
    ids: [n], needed when `refs.ids` is there: equal ids are never a pair.
    where: [n] bool, the anchor exists.
    keys: [n] PRNG keys for random miners.
    anchor: [n] the anchors' indices; 0..n-1 by default.
  """
  if refs.embeddings.ndim == 2:
    distances = distance_fn(embeddings, refs.embeddings)
    expand = lambda a: a[None, :]
  else:
    distances = jax.vmap(lambda a, b: distance_fn(a[None], b)[0])(embeddings, refs.embeddings)
    expand = lambda a: a
  same = labels[:, None] == expand(refs.labels)
  usable = jnp.ones_like(same) if where is None else jnp.broadcast_to(where[:, None], same.shape)
  if refs.where is not None:
    usable = usable & expand(refs.where)
  if refs.ids is not None:
    usable = usable & (ids[:, None] != expand(refs.ids))
  if anchor is None:
    anchor = jnp.arange(embeddings.shape[0], dtype=jnp.int32)
  return Pairs(distances, same & usable, ~same & usable, anchor, keys)


def mine(pairs: Pairs, mining_fn: MiningFn | None) -> Pairs:
  """Mined pairs: the miner sees distances without gradient, the result carries the real ones."""
  if mining_fn is None:
    return pairs
  mined = mining_fn(pairs._replace(distances=jax.lax.stop_gradient(pairs.distances)))
  if mined.positive.shape[0] == pairs.positive.shape[0]:
    return mined._replace(distances=pairs.distances)
  return mined._replace(distances=pairs.distances[mined.anchor - pairs.anchor[0]])


def _rows_of_block(row_fn, inputs, distance_fn, mining_fn, block) -> Rows:
  """Rows of a block of anchors, summed by anchor; `block` holds slices of per-anchor arrays."""
  index, x, label, where, ids, keys, private = block
  pairs = make_pairs(
    x,
    label,
    inputs.refs if private is None else private,
    distance_fn=distance_fn,
    ids=ids,
    where=where,
    keys=keys,
    anchor=index,
  )
  pairs = mine(pairs, mining_fn)
  rows = row_fn(pairs, inputs)
  rows = jax.tree.map(lambda a: a[:, None] if a.ndim == 1 else a, rows)
  if rows.total.shape[0] != x.shape[0]:
    by_anchor = functools.partial(
      jax.ops.segment_sum, segment_ids=pairs.anchor - index[0], num_segments=x.shape[0]
    )
    rows = jax.tree.map(by_anchor, rows)
  return rows


def _per_anchor_rows(
  row_fn, embeddings, labels, refs, ids, where, distance_fn, mining_fn, key, block_size
) -> Rows:
  n = embeddings.shape[0]
  if where is None:
    where = jnp.ones(n, bool)
  index = jnp.arange(n, dtype=jnp.int32)
  row_ids = index if ids is None else ids
  embeddings = _zero_where_empty(embeddings, where)
  if refs is None:
    refs = Refs(embeddings, labels, where, row_ids)
  else:
    refs = refs._replace(embeddings=_zero_where_empty(refs.embeddings, refs.where))
  keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(row_ids)
  inputs = Inputs(embeddings, labels, refs)
  private = refs if refs.embeddings.ndim == 3 else None
  block = (index, embeddings, labels, where, row_ids, keys, private)
  body = functools.partial(_rows_of_block, row_fn, inputs, distance_fn, mining_fn)
  if block_size is None or block_size >= n:
    rows = body(block)
  else:
    blocks = -(-n // block_size)
    pad = blocks * block_size - n

    def split(a):
      # Padding repeats the last anchor (so that nothing new can overflow) and masks it below.
      a = jnp.concatenate([a, jnp.repeat(a[-1:], pad, axis=0)]) if pad else a
      return a.reshape(blocks, block_size, *a.shape[1:])

    padded = jax.tree.map(split, block)
    real = (jnp.arange(blocks * block_size) < n).reshape(blocks, block_size)
    position = jnp.arange(blocks * block_size, dtype=jnp.int32).reshape(blocks, block_size)
    padded = (position, *padded[1:3], padded[3] & real, *padded[4:])
    rows = jax.lax.map(jax.checkpoint(body, prevent_cse=False), padded)
    rows = jax.tree.map(lambda a: a.reshape(blocks * block_size, -1)[:n], rows)
  # Masks and minima could hide a NaN: whatever was mined, a bad embedding makes the loss NaN.
  finite = jnp.all(jnp.isfinite(embeddings)) & jnp.all(jnp.isfinite(refs.embeddings))
  poison = jnp.where(finite, 0.0, jnp.nan).astype(rows.total.dtype)
  return rows._replace(total=rows.total + poison)


def tuple_loss(*, distance_fn: DistanceFn, reduce_fn: ReduceFn) -> Callable:
  """Decorator: from `hyperparameters -> row_fn` to a loss with the shared arguments.

  Args:
    distance_fn: the loss's default distance.
    reduce_fn: the loss's default reducer.
  """
  default_distance, default_reduce = distance_fn, reduce_fn

  def decorate(make_row_fn: Callable[..., RowFn]) -> Callable[..., Array]:
    @functools.wraps(make_row_fn)
    def loss(
      embeddings: Array,
      labels: Array,
      *,
      refs: Refs | None = None,
      ids: Array | None = None,
      where: Array | None = None,
      weights: Array | None = None,
      distance_fn: DistanceFn = default_distance,
      mining_fn: MiningFn | None = None,
      key: Array | None = None,
      reduce_fn: ReduceFn = default_reduce,
      block_size: int | None = None,
      **hyperparameters,
    ) -> Array:
      embeddings, labels = jnp.asarray(embeddings), jnp.asarray(labels)
      as_array = lambda x: None if x is None else jnp.asarray(x)
      ids, where, weights = as_array(ids), as_array(where), as_array(weights)
      _shapes(embeddings, labels, refs, ids, where, weights)
      if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1 anchor, or None; got {block_size}")
      rows = _per_anchor_rows(
        make_row_fn(**hyperparameters),
        embeddings, labels, refs, ids, where, distance_fn, mining_fn, key, block_size,
      )  # fmt: skip
      if weights is None:
        weights = jnp.ones(embeddings.shape[0], rows.total.dtype)
      return reduce_fn(rows, weights.astype(rows.total.dtype))

    own = list(inspect.signature(make_row_fn).parameters.values())
    shared = list(inspect.signature(loss, follow_wrapped=False).parameters.values())
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    # How the loss shows itself: two arrays, its own hyperparameters, the shared tail.
    loss.__signature__ = inspect.Signature(
      [*shared[:2], *own, *shared[2:-1]], return_annotation=Array
    )
    return loss

  return decorate
