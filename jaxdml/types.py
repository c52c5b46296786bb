"""Data structures and callables that every room shares: `Refs`, `Pairs`, `Rows`, `*Fn`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self, TypedDict

import jax
import jax.numpy as jnp

Array = jax.Array
Batch = Mapping[str, Array]
"""`image` [n, h, w, c] uint8, `label` [n] int32, `index` [n] int32 (record in the data set)."""
PyTree = Any


class Refs(NamedTuple):
  """References [m, d] shared by all anchors, or [n, m, d] private to each of n anchors."""

  embeddings: Array
  labels: Array  # [m], or [n, m] when private
  where: Array | None = None  # bool, shaped like `labels`: the slot is filled
  # int, shaped like `labels`: the anchor with an equal id is the same example, never compared.
  ids: Array | None = None


class Pairs(NamedTuple):
  """Rows of anchors against m references, which a mining function narrows."""

  distances: Array  # [r, m], smaller is closer
  positive: Array  # [r, m] bool, the row's positives
  negative: Array  # [r, m] bool, the row's negatives
  anchor: Array  # [r] int32, the anchor (index into the batch) that each row belongs to
  keys: Array | None = None  # [r] PRNG keys, one a row, or None when the caller gave no key
  # [r, k] int32, columns among which all the row's positives are, m where a row has fewer; None
  # where they may be anywhere. Only `mining.Miner` fills it in, and the same of the negatives.
  positive_columns: Array | None = None
  negative_columns: Array | None = None


class Rows(NamedTuple):
  """Sums over the elements (pairs, triplets...) of each row, which a loss makes of `Pairs`.

  Every field is [r], or [r, t] for a loss of t terms that are averaged apart and then added.
  """

  total: Array  # sum of the row's elements
  elements: Array  # how many elements the row has
  active: Array  # how many of them are not at their minimum (hinge above zero)

  @classmethod
  def of_anchors(cls, value: Array, used: Array) -> Self:
    """Rows of one element, an anchor's value [r], where `used` [r] says that it has one."""
    one = used.astype(value.dtype)
    return cls(jnp.where(used, value, 0.0), one, one)

  @classmethod
  def of_positives(cls, total: Array, pairs: Pairs) -> Self:
    """Rows of one element a positive, all active, of which `total` [r] is the sum."""
    count = jnp.sum(pairs.positive, axis=1, dtype=total.dtype)
    return cls(total, count, count)


class DistanceFn(Protocol):
  """Distances [n, m] between x [n, d] and y [m, d]; smaller is closer."""

  def __call__(self, x: Array, y: Array, /) -> Array:
    """Returns the [n, m] distances."""


class MiningFn(Protocol):
  """Narrows the pairs that a loss sees; `distances` carry no gradient here."""

  def __call__(self, pairs: Pairs, /) -> Pairs:
    """Returns the mined pairs."""


class ReduceFn(Protocol):
  """Reduces Rows, one row an anchor, with weights [n] to a scalar (or to [n] for `none`)."""

  def __call__(self, rows: Rows, weights: Array, /) -> Array:
    """Returns the reduced loss."""


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
  """A function that makes a distance or a miner of options, as the tables of names list it."""

  make: Callable[..., Any]  # (**options) -> DistanceFn or MiningFn
  options: tuple[str, ...]  # their names
  needed: tuple[str, ...] = ()  # those of them that have no default


class Parameter(NamedTuple):
  """The array that a loss learns, params[name], and the way to make it."""

  name: str
  axes: tuple[str, ...]  # "num_classes" first, "dim" last; one between them: vectors of a class
  init: Callable[..., dict[str, Array]]  # (key, num_classes, dim, **options) -> params
  options: tuple[str, ...] = ()  # their names


class Loss(NamedTuple):
  """Facts of a loss, as `RECORDS` beside it and `jaxdml.losses.LOSSES` list it."""

  name: str  # as in `create` and in configs
  fn: Callable[..., Array]  # the loss, a plain function
  options: tuple[str, ...]  # names of its own hyperparameters
  distance_fn: DistanceFn  # its default distance, as in its signature
  reduce_fn: ReduceFn  # its default reducer, as in its signature
  # Its rows need nothing but their own anchor, so it is a sum over blocks of anchors; not so for
  # losses that need sums over all rows first.
  additive: bool = True
  # What it learns; None for a loss of embeddings and labels alone, which takes `refs`.
  parameter: Parameter | None = None
