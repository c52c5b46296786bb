"""Layers as matrices, folded: what follows the generator's ReLU is affine (arXiv 1903.05503)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml._arguments import together
from jaxdml.distances import matmul_transposed
from jaxdml.types import Array, PyTree

_product = functools.partial(jnp.matmul, precision="highest")


class Dense(NamedTuple):
  """x kernel + bias."""

  kernel: Array
  bias: Array


class Norm(NamedTuple):
  """BatchNorm of scale [c] and bias [c], by the batch's statistics or by given ones."""

  scale: Array
  bias: Array
  epsilon: float
  # (mean, variance) of the batch -> the new running statistics; None: they stay.
  moved: Callable[[Array, Array], PyTree] | None
  given: tuple[Array, Array] | None = None  # (mean, variance) to normalise by; None: the batch's


class Layers(NamedTuple):
  """Generator, embedding and head as layers."""

  first: Dense  # z -> input of the ReLU
  norm: Norm  # of what the ReLU leaves; by the batch's statistics
  second: Dense  # -> y'
  feature_norm: Norm | None  # of y' before the embedding; None: nothing
  last: Dense  # -> z~
  head: Dense  # y' -> logits
  unit_norm: bool = False  # z~ is divided by its norm


@jax.custom_vjp
def gram(x: Array) -> Array:
  """x' x, whose gradient `gram_total` completes."""
  # XLA would fold the transpose into the product, which is slower on a CPU.
  return _product(jax.lax.optimization_barrier(x.T), x)


gram.defvjp(lambda x: (gram(x), x), lambda x, bar: (_product(x, bar),))


@jax.custom_vjp
def gram_total(total: Array) -> Array:
  """A sum of `gram`s as it is; their gradients are x (bar + bar'), here added up once for all."""
  return total


gram_total.defvjp(lambda total: (total, None), lambda _, bar: (bar + bar.T,))


@jax.custom_vjp
def _quadratic(cov: Array, x: Array) -> Array:
  """x_j' cov x_j [m] of the columns of x [h, m]; cov is symmetric, which saves a product."""
  return jnp.sum(x * _product(cov, x), axis=0)


def _quadratic_fwd(cov, x):
  of_x = _product(cov, x)
  return jnp.sum(x * of_x, axis=0), (of_x, x)


def _quadratic_bwd(residuals, bar):
  of_x, x = residuals
  return _product(x * bar, x.T), 2.0 * bar * of_x


_quadratic.defvjp(_quadratic_fwd, _quadratic_bwd)


def fold_norm(layers: Layers, mean: Array, var: Array) -> Dense:
  """y' as a function of the centred h, whose mean and variance are given."""
  norm, second = layers.norm, layers.second
  kernel = (jax.lax.rsqrt(var + norm.epsilon) * norm.scale)[:, None] * second.kernel
  return Dense(kernel, _product(norm.bias, second.kernel) + second.bias - _product(mean, kernel))


def fold_last(layers: Layers, features: Dense, mean: Array, cov: Array | None):
  """(z~ as a function of the centred h, (mean, variance) of y~ or None).

  `features` is y~ as a function of the centred h; mean and covariance are those of h in what the
  embedding sees, `cov` None where nobody needs it.
  """
  norm, last = layers.feature_norm, layers.last
  if norm is None:
    return compose(features, last), None
  moments = None
  if cov is not None:
    var = _quadratic(*together((cov, features.kernel)))
    shift = _product(mean, features.kernel)
    moments = (shift + features.bias, jnp.maximum(var, 0.0))
  if norm.given is None:
    var, centered = moments[1], -shift
  else:
    var, centered = norm.given[1], features.bias - norm.given[0]
  scale = jax.lax.rsqrt(var + norm.epsilon) * norm.scale
  scaled = Dense(features.kernel * scale, centered * scale + norm.bias)
  return compose(scaled, last), moments


def compose(inner: Dense, outer: Dense) -> Dense:
  """x -> outer(inner(x)) as one dense layer."""
  kernel = matmul_transposed(inner.kernel, outer.kernel)
  return Dense(kernel, _product(inner.bias, outer.kernel) + outer.bias)


def apply(dense: Dense, x: Array) -> Array:
  """The layer of x [r, c]."""
  return matmul_transposed(x, dense.kernel) + dense.bias
