"""Picking columns of each row under a mask: the primitive under every miner."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.types import Array, Pairs, Picked

__all__ = ["first_max", "first_min", "keep", "largest_where", "smallest"]


def keep(pairs: Pairs, *, positives: Array | None = None, negatives: Array | None = None) -> Pairs:
  """The pairs with the positives, or negatives, at these columns [r] or [r, k] alone.

  m stands for no column. The columns must be within the mask.
  """
  if positives is not None:
    at = _picked(positives, pairs.positive)
    pairs = pairs._replace(positive=at.mask, positive_at=at)
  if negatives is not None:
    at = _picked(negatives, pairs.negative)
    pairs = pairs._replace(negative=at.mask, negative_at=at)
  return pairs


def _picked(columns: Array, mask: Array) -> Picked:
  columns = columns[:, None] if columns.ndim == 1 else columns
  every = jnp.arange(mask.shape[1], dtype=columns.dtype)
  return Picked(jnp.any(every[None, :, None] == columns[:, None, :], axis=2), columns)


def first_min(values: Array, mask: Array) -> Array:
  """[r] column of the smallest masked value, the lowest on ties; m where the mask is empty.

  Plain minima instead of one argmin, whose paired reduction is several times slower on a CPU: of
  each stretch of columns, of those, and within the stretch that has the smallest.
  """
  rows, m = values.shape
  # An infinite value is a value: only what is masked out is beyond all.
  values = jnp.where(mask, jnp.minimum(values, jnp.finfo(values.dtype).max), jnp.inf)
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
  """[r] column of the largest masked value, the lowest on ties; m where the mask is empty."""
  return first_min(-values, mask)


def _first(values: Array) -> Array:
  """[r] column of the smallest value; how many columns there are where all are infinite."""
  m = values.shape[1]
  lowest = jnp.min(values, axis=1, keepdims=True)
  tied = (values <= lowest) & (values < jnp.inf)
  return jnp.min(jnp.where(tied, jnp.arange(m, dtype=jnp.int32), m), axis=1, initial=m)


def _stretch(m: int) -> int | None:
  """A divisor of m near 1.4 times its root; None if m is small or has no such divisor."""
  target = (2.0 * m) ** 0.5
  near = [d for d in range(int(target / 4), int(target * 4) + 1) if d and m % d == 0]
  return min(near, key=lambda d: abs(d - target)) if m >= 64 and near else None


def largest_where(values: Array, mask: Array, columns: Array | None) -> Array:
  """[r] the largest masked value; -inf where the mask is empty.

  Args:
    values: [r, m].
    mask: [r, m] bool.
    columns: [r, k] the mask's columns, if they are known (`Pairs.columns`): it is not read then.
  """
  if columns is not None:
    m = values.shape[1]
    mask = columns < m
    values = jnp.take_along_axis(values, jnp.minimum(columns, m - 1), axis=1)
  return jnp.max(jnp.where(mask, values, -jnp.inf), axis=1, initial=-jnp.inf)


def smallest(values: Array, mask: Array, k: int) -> Array:
  """[r, k] columns of the k smallest masked values; m where there are fewer.

  Ties go to the lowest columns.

  Raises:
    ValueError: for a k below 1.
  """
  if k < 1:
    raise ValueError(f"k must be at least 1; got {k}")
  m = values.shape[1]
  _, columns = jax.lax.top_k(jnp.where(mask, -values, -jnp.inf), min(k, m))
  return jnp.where(jnp.take_along_axis(mask, columns, axis=1), columns, m)
