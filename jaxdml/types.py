"""The data structures and callables that every layer speaks: `Refs`, `Pairs`, `Rows`, `*Fn`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Batch = Mapping[str, Array]
"""`image` [n, h, w, c] uint8, `label` [n] int32, `index` [n] int32 (record in the data set)."""
PyTree = Any


class Refs(NamedTuple):
  """What the anchors are compared with.

  Attributes:
    embeddings: [m, d] shared by all anchors, or [n, m, d] private to each of n anchors.
    labels: [m], or [n, m] when private.
    where: optional bool, shaped like `labels`: the slot is filled.
    ids: optional int, shaped like `labels`: equal id means the same example as the anchor with that
      id, which is never compared with itself.
  """

  embeddings: Array
  labels: Array
  where: Array | None = None
  ids: Array | None = None


class Picked(NamedTuple):
  """Which few columns a miner left in each row.

  Attributes:
    mask: [r, m] bool, the very array that the miner put into `Pairs`: columns are not to be trusted
      where another has taken its place.
    columns: [r, k] int32, the mask's True columns in any order; m where a row has fewer.
  """

  mask: Array
  columns: Array


class Pairs(NamedTuple):
  """Rows of anchors against m references; what a mining function narrows.

  Attributes:
    distances: [r, m], smaller is closer.
    positive: [r, m] bool, the row's positives.
    negative: [r, m] bool, the row's negatives.
    anchor: [r] int32, the anchor (index into the batch) that each row belongs to.
    keys: [r] PRNG keys, one a row, or None when the caller gave no key.
    positive_at: where a miner left few positives, their columns; losses then compute those alone.
    negative_at: the same of the negatives.
  """

  distances: Array
  positive: Array
  negative: Array
  anchor: Array
  keys: Array | None = None
  positive_at: Picked | None = None
  negative_at: Picked | None = None

  def columns(self) -> tuple[Array | None, Array | None]:
    """Columns [r, k] of the positives and of the negatives; None where nobody knows them."""
    known = lambda at, mask: None if at is None or at.mask is not mask else at.columns
    return known(self.positive_at, self.positive), known(self.negative_at, self.negative)


class Rows(NamedTuple):
  """What a loss makes of Pairs: sums over the elements (pairs, triplets...) of each row.

  Every field is [r], or [r, t] for a loss of t terms that are averaged apart and then added.

  Attributes:
    total: sum of the row's elements.
    elements: how many elements the row has.
    active: how many of them are not at their minimum (hinge above zero).
  """

  total: Array
  elements: Array
  active: Array


class DistanceFn(Protocol):
  """Distances [n, m] between x [n, d] and y [m, d]; smaller is closer."""

  def __call__(self, x: Array, y: Array, /) -> Array:
    """Returns the [n, m] distances."""
    ...


class MiningFn(Protocol):
  """Narrows the pairs that a loss sees; `distances` carry no gradient here."""

  def __call__(self, pairs: Pairs, /) -> Pairs:
    """Returns the mined pairs."""
    ...


class ReduceFn(Protocol):
  """Reduces Rows, one row an anchor, to a scalar (or to [n] for `none`)."""

  def __call__(self, rows: Rows, weights: Array, /) -> Array:
    """Returns the reduced loss; `weights` is [n]."""
    ...
