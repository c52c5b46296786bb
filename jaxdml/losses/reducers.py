"""Reducers: from one row an anchor to one number.

Every denominator is guarded: without pair or triplet the result is exactly 0, with zero gradients.

Under `axis_name` (pmap, shard_map, vmap) numerator and denominator are summed over the devices, so
unequal counts are exact. The returned value is the global loss; its gradient is the local anchors'
share, so that a psum (not pmean) of the parameter gradients gives the gradient of the global loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml._sharding import is_checked, varying
from jaxdml.types import Array, ReduceFn, Rows

__all__ = [
  "REDUCERS", "Linear", "create", "global_mean", "global_sum", "local_share", "mean",
  "mean_elements", "mean_nonzero", "none", "sum",
]  # fmt: skip


class Linear:
  """A reducer that is sum_r factor[r] total[r] / sum_r count[r] for each term of the loss.

  What it divides by carries no gradient, so the gradient of a block of rows is known up to one
  number a term before the other blocks are seen: large batches go through memory once. `shares` is
  (rows, weights [r, 1]) -> (factor [r, t], count [r, t], or None to divide by nothing).
  """

  def __init__(self, name: str, shares: Callable[[Rows, Array], tuple[Array, Array | None]]):
    self.name, self.shares = name, shares

  def __repr__(self) -> str:
    return f"reducers.{self.name}"

  def sums(self, rows: Rows, weights: Array) -> tuple[Array, Array | None]:
    """(numerator [t], denominator [t] or None) of these rows."""
    factor, count = self.shares(rows, weights[:, None])
    numerator = jnp.sum(factor * rows.total, axis=0)
    return numerator, None if count is None else jnp.sum(count, axis=0)

  def finish(self, numerator: Array, denominator: Array | None, axis_name: str | None) -> Array:
    """The value from the sums over all rows of this device."""
    if denominator is None:
      return global_sum(jnp.sum(numerator), axis_name)
    return _divide(numerator, denominator, axis_name)

  def __call__(self, rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
    """Reduces rows, weighted by `weights` [n], over the devices of `axis_name` too."""
    return self.finish(*self.sums(rows, weights), axis_name)


def _divide(numerator: Array, denominator: Array, axis_name: str | None) -> Array:
  """sum_t numerator / denominator [t], globally; 0 where there is nothing to divide by.

  Nothing to divide by hides no NaN: diverged embeddings may well leave no active element.
  """
  denominator = jax.lax.stop_gradient(denominator)
  if axis_name is not None:
    denominator = jax.lax.psum(varying(denominator, axis_name), axis_name)
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
  if is_checked(axis_name):
    return jax.lax.psum(varying(x, axis_name), axis_name)
  # In this order the value is the psum itself, the same bits on every device.
  return jax.lax.stop_gradient(jax.lax.psum(x, axis_name)) + (x - jax.lax.stop_gradient(x))


def local_share(value: Array | float, axis_name: str | None) -> Array:
  """A term computed alike on every device: its value, with 1 / devices of its gradient.

  The psum of the parameter gradients then counts it once.
  """
  value = jnp.asarray(value)
  if axis_name is None:
    return value
  if is_checked(axis_name):
    return jax.lax.pmean(varying(value, axis_name), axis_name)
  share = value / jax.lax.psum(1, axis_name)
  # In this order the value is exact: share - share is 0, where share + (value - share) rounds.
  return jax.lax.stop_gradient(value) + (share - jax.lax.stop_gradient(share))


def _mean(rows: Rows, w: Array) -> tuple[Array, Array]:
  valid = (rows.elements > 0) * w
  return valid / jnp.maximum(rows.elements, 1.0), valid


mean = Linear("mean", _mean)
"""Mean over anchors that have elements of each anchor's mean element; weighted by `weights`."""

mean_elements = Linear("mean_elements", lambda rows, w: (w, w * rows.elements))
"""Sum of all elements over their number."""

mean_nonzero = Linear("mean_nonzero", lambda rows, w: (w, w * rows.active))
"""Sum of all elements over the number of active ones."""

sum = Linear("sum", lambda rows, w: (w, None))
"""Sum of all elements."""


def none(rows: Rows, weights: Array, /, *, axis_name: str | None = None) -> Array:
  """No reduction: the sum of each (local) anchor's elements, [n]; its sum is what `sum` gives."""
  del axis_name
  return weights * jnp.sum(rows.total, axis=1)


REDUCERS: dict[str, ReduceFn] = {
  **{reducer.name: reducer for reducer in (mean, mean_elements, mean_nonzero, sum)},
  "none": none,
}
"""Name -> reducer, for `create`."""


def create(name: str) -> ReduceFn:
  """Returns the reducer of that name.

  Raises:
    ValueError: for an unknown name, listing the valid ones.
  """
  if name not in REDUCERS:
    raise ValueError(f"unknown reducer {name!r}; valid names: {', '.join(sorted(REDUCERS))}")
  return REDUCERS[name]
