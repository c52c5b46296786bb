"""Picking one column of each row under a mask: the primitive under every miner."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.types import Array

__all__ = ["first_max", "first_min", "first_min_index", "one_hot", "smallest"]


def one_hot(index: Array, mask: Array) -> Array:
  """Bool [r, m]: True at `index` [r] of each row, where `mask` [r, m] allows it."""
  return _at(index, mask.shape[1]) & mask


def first_min_index(values: Array, mask: Array) -> Array:
  """[r] column of the smallest masked value, the lowest on ties; m where the mask is empty.

  Two plain reductions instead of one argmin, whose paired reduction is several times slower on CPU.
  """
  masked = jnp.where(mask, values, jnp.inf)
  lowest = jnp.min(masked, axis=1, keepdims=True)
  columns = jnp.arange(values.shape[1], dtype=jnp.int32)[None, :]
  tied = mask & (masked <= lowest)
  return jnp.min(jnp.where(tied, columns, values.shape[1]), axis=1)


def first_min(values: Array, mask: Array) -> Array:
  """Bool [r, m]: the smallest masked value of each row, the lowest column on ties.

  A row whose mask is empty selects nothing.
  """
  return _at(first_min_index(values, mask), values.shape[1])


def _at(index: Array, m: int) -> Array:
  """Bool [r, m]: True at `index` [r]; nowhere for an index of m."""
  return jnp.arange(m, dtype=index.dtype)[None, :] == index[:, None]


def first_max(values: Array, mask: Array) -> Array:
  """Bool [r, m]: the largest masked value of each row, the lowest column on ties."""
  return first_min(-values, mask)


def smallest(values: Array, mask: Array, k: int) -> Array:
  """Bool [r, m]: the k smallest masked values of each row, all of them where there are fewer.

  Ties go to the lowest columns.

  Raises:
    ValueError: for a k below 1.
  """
  if k < 1:
    raise ValueError(f"k must be at least 1; got {k}")
  if k >= values.shape[1]:
    return mask
  _, index = jax.lax.top_k(jnp.where(mask, -values, -jnp.inf), k)
  columns = jnp.arange(values.shape[1], dtype=index.dtype)
  return mask & jnp.any(columns[None, :, None] == index[:, None, :], axis=2)
