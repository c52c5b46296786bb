"""Pairs and rows: anchors against references under masks, mined, and summed row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.distances import private_distances
from jaxdml.mining._miner import Miner
from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, PyTree, Refs, Rows

__all__ = [
  "Inputs",
  "RowFn",
  "TwoPass",
  "element_rows",
  "make_pairs",
  "masked_pairs",
  "mine",
  "row_count",
  "row_sum",
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


RowFn = Callable[[Pairs, Inputs], Rows]


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


def row_sum(values: Array, mask: Array) -> Array:
  """Sum of the masked values of each row, [r]."""
  return jnp.sum(jnp.where(mask, values, 0.0), axis=1)


def row_count(mask: Array, dtype) -> Array:
  """Number of entries of each row that the mask keeps, [r]."""
  return jnp.sum(mask, axis=1, dtype=dtype)


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
  if anchor is None:
    anchor = jnp.arange(embeddings.shape[0], dtype=jnp.int32)
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
  # Fields of shared references are [m], of private ones [n, m]: both compare with [n, 1].
  positive = labels[:, None] == refs.labels
  negative = ~positive
  if where is not None:
    positive, negative = positive & where[:, None], negative & where[:, None]
  if refs.where is not None:
    positive, negative = positive & refs.where, negative & refs.where
  if refs.ids is not None:
    others = ids[:, None] != refs.ids
    positive, negative = positive & others, negative & others
  return Pairs(distances, positive, negative, anchor, keys)


def mine(pairs: Pairs, mining_fn: MiningFn | None) -> Pairs:
  """Mined pairs: the miner sees distances without gradient, the result carries the real ones.

  Raises:
    TypeError: the miner returns no `Pairs`.
    ValueError: it loses rows or columns.
  """
  if mining_fn is None:
    return pairs
  mined = mining_fn(pairs._replace(distances=jax.lax.stop_gradient(pairs.distances)))
  if not isinstance(mined, Pairs):
    raise TypeError(f"mining_fn must return jaxdml.types.Pairs; got {type(mined).__name__}")
  rows, (least, columns) = mined.positive.shape[0], pairs.positive.shape
  shapes = (mined.positive.shape, mined.negative.shape, mined.anchor.shape)
  if rows < least or shapes != ((rows, columns), (rows, columns), (rows,)):
    masks = {"positive": shapes[0], "negative": shapes[1]}
    raise ValueError(
      f"mining_fn must return the {least} rows that it is given, or more, and say in `anchor` "
      f"whose each is: masks [r, {columns}], anchor [r]; got {masks}, anchor {shapes[2]}"
    )
  distances = pairs.distances
  if rows != least:
    distances = distances[mined.anchor - pairs.anchor[0]]
  if isinstance(mining_fn, Miner):
    return mined._replace(distances=distances)
  # A function that says nothing may have changed the masks behind a miner that named columns.
  return mined._replace(distances=distances, positive_columns=None, negative_columns=None)
