"""Miners, with what they state of themselves, and the choices of columns that they are made of."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.types import Array, MiningFn, Pairs


class Miner:
  """A miner that states what it leaves, so that losses can plan before they trace it.

  A plain function of `Pairs` is a miner too: it states nothing, and losses expect all partners.
  `steps` are functions of Pairs, applied one after the other. `positives` and `negatives`: at most
  so many are left a row, with their columns named; None: as many as come. `rows` are made of each;
  None: as many as there are references.
  """

  def __init__(self, *steps: MiningFn, name: str, positives=None, negatives=None, rows=1, doc=None):
    self.steps, self.name, self.rows = steps, name, rows
    self.positives, self.negatives = positives, negatives
    self.__doc__ = doc  # so that help(mining.nearest_positive) shows the rule

  def __repr__(self) -> str:
    return f"mining.{self.name}"

  def __call__(self, pairs: Pairs, /) -> Pairs:
    """Returns the mined pairs."""
    for step in self.steps:
      pairs = step(pairs)
    return pairs


def miner(**states: int | None) -> Callable[[MiningFn], Miner]:
  """Decorator: makes a `Miner` of a function that keeps its rows, and states what it leaves."""
  return lambda fn: Miner(fn, name=fn.__name__, doc=fn.__doc__, **states)


def chain(*mining_fns: MiningFn) -> Miner:
  """Makes a miner that applies others from left to right, each seeing what the one before kept.

  >>> from jaxdml import mining
  >>> chain(mining.nearest_positive, mining.semihard_negative)
  mining.nearest_positive+semihard_negative
  """
  steps, names, positives, negatives, rows = [], [], None, None, 1
  for fn in mining_fns:
    if isinstance(fn, Miner):
      steps += fn.steps
      names.append(fn.name)
      # A miner of negatives leaves the positives that came in, and states nothing of them.
      positives = positives if fn.positives is None else fn.positives
      negatives = negatives if fn.negatives is None else fn.negatives
      rows = None if rows is None or fn.rows is None else rows * fn.rows
    else:
      # A plain function may have changed any mask: named columns are no longer to be trusted.
      steps.append(unnamed(fn))
      names.append(getattr(fn, "__name__", "a function"))
      positives = negatives = None
  return Miner(*steps, name="+".join(names), positives=positives, negatives=negatives, rows=rows)


def unnamed(fn: MiningFn) -> MiningFn:
  """The miner with nothing said of columns."""
  return lambda pairs: fn(pairs)._replace(positive_columns=None, negative_columns=None)


def keep(pairs: Pairs, *, positives: Array | None = None, negatives: Array | None = None) -> Pairs:
  """The pairs with the positives, or negatives, at these columns [r] or [r, k] alone.

  m stands for no column. The columns must be within the mask.
  """
  if positives is not None:
    columns, mask = _at(positives, pairs.positive)
    pairs = pairs._replace(positive=mask, positive_columns=columns)
  if negatives is not None:
    columns, mask = _at(negatives, pairs.negative)
    pairs = pairs._replace(negative=mask, negative_columns=columns)
  return pairs


def _at(columns: Array, mask: Array) -> tuple[Array, Array]:
  """Columns as [r, k], and the mask that is True there alone."""
  columns = columns[:, None] if columns.ndim == 1 else columns
  every = jnp.arange(mask.shape[1], dtype=columns.dtype)
  return columns, jnp.any(every[None, :, None] == columns[:, None, :], axis=2)


def first_min(values: Array, mask: Array) -> Array:
  """Column [r] of the smallest masked value, the lowest on ties; m where the mask is empty."""
  # An infinite value is a value: only what is masked out is beyond all.
  values = jnp.where(mask, jnp.minimum(values, jnp.finfo(values.dtype).max), jnp.inf)
  # An accelerator reduces pairs of value and column in one pass, so that it keeps no matrix of
  # values; on a CPU that is several times slower than plain minima.
  return jax.lax.platform_dependent(values, cpu=_first_by_stretches, default=_first_by_pairs)


def _first_by_pairs(values: Array) -> Array:
  """`_first` in one reduction."""
  lowest, columns = jnp.min(values, axis=1), jnp.argmin(values, axis=1).astype(jnp.int32)
  return jnp.where(lowest < jnp.inf, columns, values.shape[1])


def _first_by_stretches(values: Array) -> Array:
  """`_first` of each stretch of columns, of those, and within the one that has the smallest."""
  rows, m = values.shape
  size = _stretch(m)
  if size is None:
    return _first(values)
  stretches = values.reshape(rows, m // size, size)
  which = _first(jnp.min(stretches, axis=2))
  some = which < m // size
  at = jnp.where(some, which, 0)
  within = jnp.take_along_axis(stretches, at[:, None, None], axis=1)[:, 0]
  return jnp.where(some, at * size + _first(within), m)


def first_max(values: Array, mask: Array) -> Array:
  """Column [r] of the largest masked value, the lowest on ties; m where the mask is empty."""
  return first_min(-values, mask)


def _first(values: Array) -> Array:
  """[r] column of the smallest value; how many columns there are where all are infinite."""
  m = values.shape[1]
  lowest = jnp.min(values, axis=1, keepdims=True)
  tied = (values <= lowest) & (values < jnp.inf)
  return jnp.min(jnp.where(tied, jnp.arange(m, dtype=jnp.int32), m), axis=1, initial=m)


def _stretch(m: int) -> int | None:
  """A divisor of m near 1.4 times its root; None if m is small or has no such divisor."""
  target, best = (2.0 * m) ** 0.5, None
  for d in range(max(int(target / 4), 1), int(target * 4) + 1) if m >= 64 else ():
    if m % d == 0 and (best is None or abs(d - target) < abs(best - target)):
      best = d
  return best


def k_min(values: Array, mask: Array, k: int) -> Array:
  """Columns [r, k] of the k smallest masked values, the lowest on ties; m where there are fewer."""
  m = values.shape[1]
  _, columns = jax.lax.top_k(jnp.where(mask, -values, -jnp.inf), min(k, m))
  return jnp.where(jnp.take_along_axis(mask, columns, axis=1), columns, m)


def draws(pairs: Pairs, name: str, distribution: Callable[..., Array]) -> Array:
  """[r, m] draws for the miner called `name`, independent of those of another miner in a chain.

  Raises:
    ValueError: if the loss was called without `key`.
  """
  if pairs.keys is None:
    raise ValueError(f"mining with {name} is random: pass key=jax.random.key(...) to the loss")
  salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
  of_row = lambda k: distribution(jax.random.fold_in(k, salt), pairs.distances.shape[1:])
  return jax.vmap(of_row)(pairs.keys)
