"""From one row an anchor to one number.

Every denominator is guarded: without pair or triplet the result is exactly 0, with zero gradients.

Under `axis_name` (pmap, shard_map, vmap) numerator and denominator are summed over the devices, so
unequal counts are exact. The returned value is the global loss; its gradient is the local anchors'
share, so that a psum (not pmean) of the parameter gradients gives the gradient of the global loss.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.types import Array, Rows

__all__ = [
  "create",
  "global_mean",
  "global_sum",
  "mean",
  "mean_elements",
  "mean_nonzero",
  "none",
  "sum",
]


def _divide(numerator: Array, denominator: Array, axis_name: str | None) -> Array:
  """sum_t numerator / denominator [t], globally; 0 where there is nothing to divide by.

  Nothing to divide by hides no NaN: diverged embeddings may well leave no active element.
  """
  denominator = jax.lax.stop_gradient(denominator)
  if axis_name is not None:
    denominator = jax.lax.psum(denominator, axis_name)
  numerator = global_sum(numerator, axis_name)
  some = denominator > 0
  nothing = jnp.where(jnp.isnan(numerator), jnp.nan, 0.0)
  return jnp.sum(jnp.where(some, numerator / jnp.where(some, denominator, 1.0), nothing))


def global_mean(values: Array, mask: Array | None = None, *, axis_name: str | None = None) -> Array:
  """Mean of all values where `mask`, over devices too; 0 where there is none."""
  mask = jnp.ones_like(values) if mask is None else mask.astype(values.dtype)
  return _divide(jnp.sum(jnp.where(mask > 0, values, 0.0))[None], jnp.sum(mask)[None], axis_name)


def global_sum(x: Array, axis_name: str | None = None) -> Array:
  """The sum over devices, with the gradient of the local part only."""
  if axis_name is None:
    return x
  # In this order the value is the psum itself, the same bits on every device.
  return jax.lax.stop_gradient(jax.lax.psum(x, axis_name)) + (x - jax.lax.stop_gradient(x))


def mean(rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
  """Mean over anchors that have elements of each anchor's mean element; weighted by `weights`."""
  valid = (rows.elements > 0) * weights[:, None]
  per_anchor = rows.total / jnp.maximum(rows.elements, 1.0)
  return _divide(jnp.sum(valid * per_anchor, axis=0), jnp.sum(valid, axis=0), axis_name)


def mean_elements(rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
  """Sum of all elements over their number."""
  w = weights[:, None]
  return _divide(jnp.sum(w * rows.total, axis=0), jnp.sum(w * rows.elements, axis=0), axis_name)


def mean_nonzero(rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
  """Sum of all elements over the number of active ones."""
  w = weights[:, None]
  return _divide(jnp.sum(w * rows.total, axis=0), jnp.sum(w * rows.active, axis=0), axis_name)


def sum(rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
  """Sum of all elements."""
  return global_sum(jnp.sum(weights[:, None] * rows.total), axis_name)


def none(rows: Rows, weights: Array, /) -> Array:
  """No reduction: the sum of each anchor's elements, [n]; its sum is what `sum` gives."""
  return weights * jnp.sum(rows.total, axis=1)


_BY_NAME = {fn.__name__: fn for fn in (mean, mean_elements, mean_nonzero, none, sum)}


def create(name: str):
  """The reducer of that name.

  Raises:
    ValueError: for an unknown name, listing the valid ones.
  """
  if name not in _BY_NAME:
    raise ValueError(f"unknown reducer {name!r}; valid names: {', '.join(sorted(_BY_NAME))}")
  return _BY_NAME[name]
