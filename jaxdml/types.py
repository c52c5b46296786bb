"""Data structures and callables that every room shares: `Refs`, `Pairs`, `Rows`, `*Fn`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict

import jax

Array = jax.Array
Batch = Mapping[str, Array]
"""`image` [n, h, w, c] uint8, `label` [n] int32, `index` [n] int32 (record in the data set)."""
PyTree = Any


class Refs(NamedTuple):
  """References: what the anchors are compared with.

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


class Pairs(NamedTuple):
  """Rows of anchors against m references, which a mining function narrows.

  Attributes:
    distances: [r, m], smaller is closer.
    positive: [r, m] bool, the row's positives.
    negative: [r, m] bool, the row's negatives.
    anchor: [r] int32, the anchor (index into the batch) that each row belongs to.
    keys: [r] PRNG keys, one a row, or None when the caller gave no key.
    positive_columns: [r, k] int32, columns among which all the row's positives are, m where a row
      has fewer; None where they may be anywhere. Only `mining.Miner` fills it in.
    negative_columns: the same of the negatives.
  """

  distances: Array
  positive: Array
  negative: Array
  anchor: Array
  keys: Array | None = None
  positive_columns: Array | None = None
  negative_columns: Array | None = None


class Rows(NamedTuple):
  """Sums over the elements (pairs, triplets...) of each row, which a loss makes of `Pairs`.

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


class MiningFn(Protocol):
  """Narrows the pairs that a loss sees; `distances` carry no gradient here."""

  def __call__(self, pairs: Pairs, /) -> Pairs:
    """Returns the mined pairs."""


class ReduceFn(Protocol):
  """Reduces Rows, one row an anchor, to a scalar (or to [n] for `none`)."""

  def __call__(self, rows: Rows, weights: Array, /) -> Array:
    """Returns the reduced loss; `weights` is [n]."""


class Shared(TypedDict, total=False):
  """Arguments that every loss takes beside its own; explained in docs/conventions.md."""

  where: Array | None  # [n] bool, the example exists
  weights: Array | None  # [n], weight of each anchor's terms
  mining_fn: MiningFn | None  # narrows the pairs; None keeps all
  key: Array | None  # one PRNG key, for random miners
  block_size: int | None  # anchors at a time; None chooses by the shapes
  axis_name: str | None  # mapped axis to reduce over


class SharedRefs(Shared, total=False):
  """`Shared`, and what losses without parameters take as well."""

  refs: Refs | None  # what the anchors are compared with; None is the batch itself
  ids: Array | None  # [n] int, which example an anchor is; equal ids are never a pair


class Maker(NamedTuple):
  """A function that makes a distance or a miner of options, as the tables of names list it.

  Attributes:
    make: (**options) -> DistanceFn or MiningFn.
    options: their names.
    needed: those of them that have no default.
  """

  make: Callable[..., Any]
  options: tuple[str, ...]
  needed: tuple[str, ...] = ()
