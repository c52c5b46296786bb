"""Matrix products in full precision, in the layouts that XLA runs fast."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml.types import Array

__all__ = ["matmul", "matmul_transposed"]


def matmul(x: Array, y: Array) -> Array:
  """x y^T [n, m] of x [n, d] and y [m, d], accumulated in float32 or more."""
  return _dot(x, y, 1, 1)


def _dot(x: Array, y: Array, x_axis: int, y_axis: int) -> Array:
  out = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=out,
  )


@jax.custom_vjp
def matmul_transposed(x: Array, y: Array, rows: Array | None = None) -> Array:
  """x y [n, m] of x [n, d] and y [d, m]: `matmul` for y kept transposed. Reverse mode only.

  The gradient of y comes as [d, m] from plain products. XLA would fold the transpose of x into
  that product instead, which on a CPU runs at a third of the speed.

  Args:
    x: [n, d].
    y: [d, m].
    rows: [m, d] y transposed, if the caller has it: the gradient of x is then a plain product too.
      It gets no gradient itself.
  """
  return _dot(x, y, 1, 0)


def _matmul_transposed_fwd(x, y, rows):
  return _dot(x, y, 1, 0), (x, y if rows is None else None, rows)


def _matmul_transposed_bwd(residuals, bar):
  x, y, rows = residuals
  y_bar = _dot(jax.lax.optimization_barrier(x.T), bar, 1, 0)
  if rows is None:
    return _dot(bar, y, 1, 1).astype(x.dtype), y_bar.astype(y.dtype), None
  x_bar = _dot(bar, rows, 1, 0)
  return x_bar.astype(x.dtype), y_bar.astype(rows.dtype), jnp.zeros_like(rows)


matmul_transposed.defvjp(_matmul_transposed_fwd, _matmul_transposed_bwd)
