"""Sums over the positives of each row, however many there are, in the memory of one."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.losses.closures import hoist, partition
from jaxdml.types import Array, PyTree

__all__ = ["sum_over_positives"]


def _after(positive: Array, column: Array) -> Array:
  """[r] the first positive of each row beyond `column` [r]; m where there is none."""
  columns = jnp.arange(positive.shape[1], dtype=jnp.int32)[None, :]
  beyond = positive & (columns > column[:, None])
  return jnp.min(jnp.where(beyond, columns, positive.shape[1]), axis=1, initial=positive.shape[1])


def _loop(step: Callable, start: PyTree, positive: Array, count: Array) -> PyTree:
  """Adds up step(column, valid) of the first to the count-th positive of each row."""
  end = positive.shape[1]

  def body(_, carry):
    column, result = carry
    column = _after(positive, column)
    added = step(jnp.minimum(column, end - 1), column < end)
    return column, jax.tree.map(jnp.add, result, added)

  first = jnp.full(positive.shape[0], -1, jnp.int32)
  return jax.lax.fori_loop(0, count, body, (first, start))[1]


def sum_over_positives(fn: Callable[..., PyTree], positive: Array, *operands: PyTree) -> PyTree:
  """sum_k fn(column of each row's k-th positive [r], where there is one [r], *operands).

  Memory is that of one call of fn however many positives there are, and time that of as many calls
  as the richest row has positives. How many depends on the data, which reverse mode cannot trace:
  the gradient makes the calls again. Reverse mode only.

  Args:
    fn: returns a pytree of arrays; must give 0 for rows without a k-th positive. May close over
      traced arrays.
    positive: [r, m] bool.
    *operands: pytrees of arrays; the floats get gradients.
  """
  rows = positive.shape[0]
  example = (jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))
  call, captured = hoist(fn, *example, *operands)
  floats, others, merge = partition((captured, operands))

  def of_positive(column, valid, floats, others):
    captured, operands = merge(floats, others)
    return call(captured, column, valid, *operands)

  like = jax.eval_shape(of_positive, *example, floats, others)
  # Made where they are used: a traced constant would be a captured one.
  zeros = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)

  @jax.custom_vjp
  def total(positive, floats, others):
    return forward(positive, floats, others)[0]

  def forward(positive, floats, others):
    count = jnp.max(jnp.sum(positive, axis=1, dtype=jnp.int32), initial=0)
    step = lambda column, valid: of_positive(column, valid, floats, others)
    return _loop(step, zeros(), positive, count), (positive, floats, others, count)

  def backward(residuals, cotangents):
    positive, floats, others, count = residuals

    def step(column, valid):
      pull = jax.vjp(lambda floats: of_positive(column, valid, floats, others), floats)[1]
      return pull(cotangents)[0]

    return None, _loop(step, jax.tree.map(jnp.zeros_like, floats), positive, count), None

  total.defvjp(forward, backward)
  return total(positive, floats, others)
