"""Pairwise distances in matmul form: x [n, d], y [m, d] -> [n, m], smaller is closer.

Products accumulate in float32 whatever the input dtype (float64 stays float64), at the highest
matmul precision, so that TPU and TF32 hardware give the same neighbours as a CPU.

>>> import jax.numpy as jnp
>>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
>>> print(euclidean(x, x))
[[0. 5.]
 [5. 0.]]
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdml.types import Array, DistanceFn

__all__ = [
  "cosine",
  "create",
  "dot",
  "euclidean",
  "l2_normalize",
  "normalized",
  "normalized_euclidean",
  "normalized_squared_euclidean",
  "safe_sqrt",
  "squared_euclidean",
]


def _at_least_float32(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check(x: Array, y: Array) -> None:
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise ValueError(f"distances need x [n, d] and y [m, d]; got x {x.shape} and y {y.shape}")


def _matmul(x: Array, y: Array) -> Array:
  out = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
  return jax.lax.dot_general(
    x,
    y,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=out,
  )


def safe_sqrt(x: Array) -> Array:
  """sqrt(x) for x >= 0 with gradient 0, not infinity, at x = 0; NaN stays NaN."""
  zero = x <= 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def l2_normalize(x: Array) -> Array:
  """x / ||x|| over the last axis; a zero vector stays zero with a zero gradient, NaN NaN."""
  x = _at_least_float32(x)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # Below the smallest normal number 1/sqrt overflows: such a vector has no direction to speak of.
  zero = square <= jnp.finfo(x.dtype).tiny
  return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, square)))


def squared_euclidean(x: Array, y: Array, /) -> Array:
  """||x_i - y_j||^2, as ||x_i||^2 + ||y_j||^2 - 2 x_i . y_j, clipped at 0.

  The expansion loses digits for points much closer to each other than to the origin: expect an
  absolute error of about 1e-7 (||x||^2 + ||y||^2) in float32.
  """
  _check(x, y)
  xx = jnp.sum(jnp.square(_at_least_float32(x)), axis=1)
  yy = jnp.sum(jnp.square(_at_least_float32(y)), axis=1)
  return jnp.maximum(xx[:, None] + yy[None, :] - 2.0 * _matmul(x, y), 0.0)


def euclidean(x: Array, y: Array, /) -> Array:
  """||x_i - y_j||; gradient 0 where the points coincide."""
  return safe_sqrt(squared_euclidean(x, y))


def dot(x: Array, y: Array, /) -> Array:
  """-x_i . y_j, the inner product turned into a distance."""
  _check(x, y)
  return -_matmul(x, y)


def cosine(x: Array, y: Array, /) -> Array:
  """1 - cos(x_i, y_j), in [0, 2]; the similarity is 1 minus this distance."""
  _check(x, y)
  return 1.0 - _matmul(l2_normalize(x), l2_normalize(y))


def normalized(distance_fn: DistanceFn) -> DistanceFn:
  """`distance_fn` on L2-normalised inputs.

  >>> import jax.numpy as jnp
  >>> fn = normalized(squared_euclidean)
  >>> print(fn(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0]])))
  [[0. 2.]]
  """

  @functools.wraps(distance_fn)
  def on_the_sphere(x: Array, y: Array, /) -> Array:
    return distance_fn(l2_normalize(x), l2_normalize(y))

  on_the_sphere.__name__ = f"normalized_{getattr(distance_fn, '__name__', 'distance')}"
  return on_the_sphere


normalized_euclidean = normalized(euclidean)
normalized_squared_euclidean = normalized(squared_euclidean)

_BY_NAME: dict[str, DistanceFn] = {
  "cosine": cosine,
  "dot": dot,
  "euclidean": euclidean,
  "normalized_euclidean": normalized_euclidean,
  "normalized_squared_euclidean": normalized_squared_euclidean,
  "squared_euclidean": squared_euclidean,
}


def create(name: str) -> DistanceFn:
  """The distance of that name.

  Raises:
    ValueError: for an unknown name, listing the valid ones.
  """
  if name not in _BY_NAME:
    raise ValueError(f"unknown distance {name!r}; valid names: {', '.join(sorted(_BY_NAME))}")
  return _BY_NAME[name]
