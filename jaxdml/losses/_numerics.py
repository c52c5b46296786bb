"""Masked reductions that stay finite, with finite gradients, on empty rows.

exp is only taken of masked entries shifted below 0; the rest is exp(-inf) = 0, as is its gradient.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxdml.distances import Distance, safe_sqrt
from jaxdml.losses._rows import row_sum
from jaxdml.types import Array, DistanceFn


def _top(x: Array, mask: Array) -> Array:
  return jax.lax.stop_gradient(jnp.max(jnp.where(mask, x, -jnp.inf), axis=1, initial=-jnp.inf))


def _below(x: Array, top: Array) -> Array:
  """x - top <= 0, exactly 0 at the top: a fused multiply-add would leave x's rounding there."""
  below = x - top
  return below - jax.lax.stop_gradient(jnp.where(x < top, 0.0, below))


def _sum_exp(x: Array, mask: Array, top: Array) -> Array:
  return jnp.sum(jnp.exp(jnp.where(mask, _below(x, top[:, None]), -jnp.inf)), axis=1)


def log1p_sum_exp(x: Array, mask: Array) -> Array:
  """log(1 + sum_j exp(x_ij)) over the masked j, [r]; 0 for an empty row.

  >>> import jax.numpy as jnp
  >>> print(log1p_sum_exp(jnp.zeros((2, 3)), jnp.array([[True] * 3, [False] * 3])))
  [1.3862944 0.       ]
  """
  top = jnp.maximum(_top(x, mask), 0.0)
  return _log1p(_sum_exp(x, mask, top), top)


def _log1p(total: Array, top: Array) -> Array:
  # Not log(exp(-top) + total): it would round a small total away.
  return jnp.log1p(jnp.expm1(-top) + total) + top


def exponents_fit(
  distance_fn: DistanceFn,
  exponents: Callable[[float], Sequence[float]],
  *parameters: Array | float,
) -> bool:
  """Tells whether exp of a row's exponents, and millions of them, keep their digits in float32.

  False if the distances have no bounds, or one of the parameters of `exponents` is traced and so
  not known yet. `exponents` of a distance are monotonic: those of the two bounds are the extremes.
  """
  bounds = distance_fn.bounds if isinstance(distance_fn, Distance) else None
  if bounds is None or not all(isinstance(p, (int, float)) for p in parameters):
    return False
  ends = [end for bound in bounds for end in exponents(bound)]
  return min(ends) >= -80.0 and max(ends) <= 70.0


def log_sum_exp(x: Array, mask: Array, *, bounded: bool = False, empty: float = 0.0) -> Array:
  """log sum_j exp(x_ij) over the masked j, [r]; `empty` in a row without entries.

  `bounded`: x is known to be in a range that `exponents_fit`, so the largest is not searched for.
  """
  if bounded:
    total = jnp.sum(jnp.exp(jnp.where(mask, x, -jnp.inf)), axis=1)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)), empty)
  top = _top(x, mask)
  some = top > -jnp.inf
  top = jnp.where(some, top, 0.0)
  total = _sum_exp(x, mask, top)
  return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, empty)


def log_sum_exp_pair(
  x: Array, positive: Array, negative: Array, *, add_one: bool, bounded=(False, False)
) -> tuple[Array, Array]:
  """(log_sum_exp over the positives, over the negatives), or log1p_sum_exp of both.

  One exponential an entry serves both; the masks must not overlap. `bounded` as in log_sum_exp, of
  the positives' entries and of the negatives'.
  """
  tops, empty, shifted = [0.0, 0.0], [None, None], [x, x]
  for i, mask in enumerate((positive, negative)):
    if not bounded[i]:
      top = _top(x, mask)
      empty[i] = top == -jnp.inf
      tops[i] = jnp.where(empty[i], 0.0, jnp.maximum(top, 0.0 if add_one else -jnp.inf))
      shifted[i] = _below(x, tops[i][:, None])
  kept = jnp.where(positive | negative, jnp.where(positive, *shifted), -jnp.inf)
  powers = jnp.exp(kept)
  totals = [row_sum(powers, positive), row_sum(powers, ~positive)]
  if add_one:
    log1p = lambda total, top, exact: jnp.log1p(total) if exact else _log1p(total, top)
    return tuple(log1p(*args) for args in zip(totals, tops, bounded, strict=True))
  empty = [total == 0 if none is None else none for total, none in zip(totals, empty, strict=True)]
  log = lambda total, top, e: jnp.where(e, 0.0, jnp.log(jnp.where(e, 1.0, total)) + top)
  return tuple(log(*args) for args in zip(totals, tops, empty, strict=True))


def _log1p_unit(x: Array) -> Array:
  """log(1 + x) of x in [0, 1], to the last digits also of a tiny x.

  2 artanh(r) with r = x / (2 + x) <= 1/3, whose series in r^2 <= 1/9 is short: a few products where
  XLA's log1p takes, on a CPU, several times as long.
  """
  terms = 8 if jnp.finfo(x.dtype).bits <= 32 else 17  # what is left out is below the last digit
  r = x / (2.0 + x)
  square, series = r * r, jnp.full_like(x, 1.0 / (2 * terms - 1))
  for k in range(2 * terms - 3, 0, -2):
    series = series * square + 1.0 / k
  return 2.0 * r * series


@jax.custom_jvp
def softplus(x: Array) -> Array:
  """log(1 + exp(x)), in a third of jax.nn.softplus's time on a CPU; NaN stays NaN.

  >>> print(jax.grad(softplus)(0.0))
  0.5
  """
  return jnp.maximum(x, 0.0) + _log1p_unit(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
  return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


def sine(cosine: Array) -> Array:
  """sqrt(1 - cosine^2), the sine of an angle in [0, pi]; gradient 0 at and beyond both ends."""
  return safe_sqrt(1.0 - cosine * cosine)
