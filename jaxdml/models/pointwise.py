"""1x1 convolutions as matrix products on a CPU, where XLA's convolution trains them slowly."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxdml.types import Array

_NUMBERS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pointwise(x: Array, kernel: Array, stride: int) -> Array:
  """A 1x1 convolution without padding by whatever is fast where it runs.

  The product of every `stride`-th pixel with the kernel, [n, h, w, c] x [1, 1, c, d] ->
  [n, ceil(h / stride), ceil(w / stride), d]. On a CPU it is a matrix product, as its gradients are;
  XLA's convolution takes 2 to 13 times as long (benchmarks/pointwise.py). Elsewhere it stays one.
  """
  return lax.platform_dependent(
    x, kernel, cpu=lambda x, k: _product(x, k, stride), default=lambda x, k: _native(x, k, stride)
  )


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, Any]:
  return pointwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: Any, gradient: Array) -> tuple[Array, Array]:
  def of(function: Any) -> Any:
    return lambda x, k, g: jax.vjp(lambda x, k: function(x, k, stride), x, k)[1](g)

  return lax.platform_dependent(*saved, gradient, cpu=of(_product), default=of(_native))


pointwise.defvjp(_forward, _backward)


def _product(x: Array, kernel: Array, stride: int) -> Array:
  x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
  wide = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel[0, 0], preferred_element_type=wide)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _native(x: Array, kernel: Array, stride: int) -> Array:
  return lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=_NUMBERS)


def _convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
  plain = all(s == 1 for key in ("lhs_dilation", "rhs_dilation") for s in options[key])
  unpadded = padding in ("SAME", "VALID") or not any(sum(map(tuple, padding), ()))
  if (
    kernel.shape[:2] == (1, 1) and len(set(strides)) == 1 and plain and unpadded
    and options["feature_group_count"] == 1 and options["precision"] is None
  ):  # fmt: skip
    return pointwise(x, kernel, strides[0])
  return lax.conv_general_dilated(x, kernel, strides, padding, **options)


Conv = functools.partial(nn.Conv, conv_general_dilated=_convolve)
"""`flax.linen.Conv` whose 1x1 convolutions are `pointwise`."""
