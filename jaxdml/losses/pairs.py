"""Anchors against references: shapes checked, distances and masks made, pairs mined."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.distances import private_distances
from jaxdml.losses.numerics import row_counts_of_two
from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, PyTree, Refs, Rows

__all__ = [
  "Elements",
  "Inputs",
  "RowFn",
  "TwoPass",
  "element_rows",
  "make_pairs",
  "masked_pairs",
  "mine",
]


class Inputs(NamedTuple):
  """The whole call's arrays, for losses that need more than distances; index by `pairs.anchor`.

  Attributes:
    embeddings: [n, d] anchors.
    labels: [n].
    refs: what they are compared with.
    distance_fn: between any two of them.
    weights: [n], the anchors' weights.
    stats: what the first pass of a `TwoPass` loss found; None for others.
  """

  embeddings: Array
  labels: Array
  refs: Refs
  distance_fn: DistanceFn
  weights: Array
  stats: PyTree = None


RowFn = Callable[[Pairs, Inputs], "Rows | Elements"]


class TwoPass(NamedTuple):
  """A loss whose rows need statistics over all the rows, such as a column's sum.

  Attributes:
    stats_fn: (pairs, inputs) of a block of rows -> arrays of any shape, differentiable.
    merge_fn: those arrays stacked over blocks, or over devices, [k, ...] -> merged [...].
    row_fn: as for other losses, with `inputs.stats`.
  """

  stats_fn: Callable[[Pairs, Inputs], PyTree]
  merge_fn: Callable[[PyTree], PyTree]
  row_fn: RowFn


class Elements(NamedTuple):
  """Rows that are plain sums over pairs, in terms that share no pair.

  The engine then scales the pairs before it sums them, once for all terms.

  Attributes:
    values: [r, m], of the pairs in a mask; active means above zero.
    terms: one mask [r, m] for each term.
  """

  values: Array
  terms: tuple[Array, ...]

  def rows(self) -> Rows:
    """[r, t]."""
    columns = [element_rows(self.values, mask) for mask in self.terms]
    rows = jax.tree.map(lambda *terms: jnp.stack(terms, axis=1), *columns)
    if len(self.terms) != 2:
      return rows
    first, second = (mask & (self.values > 0) for mask in self.terms)
    active = row_counts_of_two(first, second, rows.active.dtype)
    return rows._replace(active=jnp.stack(active, axis=1))

  def total(self, factor: Array) -> Array:
    """sum_rt factor[r, t] total[r, t]."""
    each = jnp.zeros_like(self.values)
    for t, mask in enumerate(self.terms):
      each = jnp.where(mask, factor[:, t, None] * self.values, each)
    return jnp.sum(jnp.sum(each, axis=1))


def element_rows(values: Array, mask: Array) -> Rows:
  """Rows of masked elements: values [r, m] where mask; active means above zero."""
  values = jnp.where(mask, values, 0.0)
  return Rows(
    total=jnp.sum(values, axis=1),
    elements=jnp.sum(mask, axis=1, dtype=values.dtype),
    active=jnp.sum(values > 0, axis=1, dtype=values.dtype),
  )


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
  else:
    distances = private_distances(distance_fn, embeddings, refs.embeddings)
  return masked_pairs(distances, labels, refs, ids, where, keys, anchor)


def masked_pairs(distances, labels, refs: Refs, ids, where, keys, anchor) -> Pairs:
  """Pairs with the masks that labels, ids and slots give."""
  shape = (labels.shape[0], refs.labels.shape[-1])
  if getattr(distances, "shape", None) != shape:
    came = getattr(distances, "shape", type(distances).__name__)
    raise ValueError(
      f"distance_fn must return {list(shape)} for x [{shape[0]}, d] and y [{shape[1]}, d]; "
      f"got {came}"
    )
  expand = lambda a: a[None, :] if a.ndim == 1 else a
  same = labels[:, None] == expand(refs.labels)
  usable = jnp.ones_like(same) if where is None else jnp.broadcast_to(where[:, None], same.shape)
  if refs.where is not None:
    usable = usable & expand(refs.where)
  if refs.ids is not None:
    usable = usable & (ids[:, None] != expand(refs.ids))
  if anchor is None:
    anchor = jnp.arange(distances.shape[0], dtype=jnp.int32)
  return Pairs(distances, same & usable, ~same & usable, anchor, keys)


def mine(pairs: Pairs, mining_fn: MiningFn | None) -> Pairs:
  """Mined pairs: the miner sees distances without gradient, the result carries the real ones."""
  if mining_fn is None:
    return pairs
  mined = mining_fn(pairs._replace(distances=jax.lax.stop_gradient(pairs.distances)))
  if not isinstance(mined, Pairs):
    raise TypeError(f"mining_fn must return jaxdml.types.Pairs; got {type(mined).__name__}")
  rows, (least, columns) = mined.positive.shape[0], pairs.positive.shape
  masks = {"positive": mined.positive.shape, "negative": mined.negative.shape}
  if rows < least or set(masks.values()) != {(rows, columns)} or mined.anchor.shape != (rows,):
    raise ValueError(
      f"mining_fn must return the {least} rows that it is given, or more, and say in `anchor` "
      f"whose each is: masks [r, {columns}], anchor [r]; got {masks}, anchor {mined.anchor.shape}"
    )
  if mined.positive.shape[0] == pairs.positive.shape[0]:
    return mined._replace(distances=pairs.distances)
  return mined._replace(distances=pairs.distances[mined.anchor - pairs.anchor[0]])
