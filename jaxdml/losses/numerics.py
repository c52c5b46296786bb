"""Masked reductions that stay finite, with finite gradients, on empty rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.types import Array

__all__ = ["log1p_sum_exp", "log_sum_exp"]


def log1p_sum_exp(x: Array, mask: Array) -> Array:
  """log(1 + sum_j exp(x_ij)) over the masked j, [r]; 0 for an empty row.

  >>> import jax.numpy as jnp
  >>> print(log1p_sum_exp(jnp.zeros((2, 3)), jnp.array([[True] * 3, [False] * 3])))
  [1.3862944 0.       ]
  """
  masked = jnp.where(mask, x, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.maximum(jnp.max(masked, axis=1, initial=-jnp.inf), 0.0))
  # exp(x) is only ever taken of masked entries shifted below 0; the others never reach it.
  shifted = jnp.where(mask, x - top[:, None], 0.0)
  total = jnp.sum(jnp.where(mask, jnp.exp(shifted), 0.0), axis=1)
  # Not log(exp(-top) + total): it would round a small total away.
  return jnp.log1p(jnp.expm1(-top) + total) + top


def log_sum_exp(x: Array, mask: Array) -> Array:
  """log sum_j exp(x_ij) over the masked j, [r]; 0 for an empty row (mask the result)."""
  some = jnp.any(mask, axis=1)
  masked = jnp.where(mask, x, -jnp.inf)
  top = jnp.where(some, jnp.max(masked, axis=1, initial=-jnp.inf), 0.0)
  top = jax.lax.stop_gradient(top)
  shifted = jnp.where(mask, x - top[:, None], 0.0)
  total = jnp.sum(jnp.where(mask, jnp.exp(shifted), 0.0), axis=1)
  return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, 0.0)
