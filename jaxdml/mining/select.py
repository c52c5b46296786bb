"""Picking one column of each row under a mask: the primitive under every miner."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdml.types import Array

__all__ = ["first_max", "first_min", "one_hot"]


def one_hot(index: Array, mask: Array) -> Array:
  """Bool [r, m]: True at `index` [r] of each row, where `mask` [r, m] allows it."""
  columns = jnp.arange(mask.shape[1], dtype=index.dtype)
  return (columns[None, :] == index[:, None]) & mask


def first_min(values: Array, mask: Array) -> Array:
  """Bool [r, m]: the smallest masked value of each row, the lowest column on ties.

  A row whose mask is empty selects nothing. Two plain reductions instead of one argmin, whose
  paired reduction is several times slower on CPU.
  """
  masked = jnp.where(mask, values, jnp.inf)
  lowest = jnp.min(masked, axis=1, keepdims=True)
  columns = jnp.arange(values.shape[1], dtype=jnp.int32)[None, :]
  tied = mask & (masked <= lowest)
  index = jnp.min(jnp.where(tied, columns, values.shape[1]), axis=1)
  return one_hot(index, mask)


def first_max(values: Array, mask: Array) -> Array:
  """Bool [r, m]: the largest masked value of each row, the lowest column on ties."""
  return first_min(-values, mask)
