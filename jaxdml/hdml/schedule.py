"""Window means: the J_avg and J_gen that HDML's schedule reads (arXiv 1903.05503, sec. 3.4)."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxdml.types import Array


class Window(NamedTuple):
  """The mean over the last whole window of steps, and the running window."""

  mean: Array  # the last whole window's (the initial value before the first ends)
  total: Array  # sum over the running window
  count: Array  # int32, steps in the running window


def init_window(initial: float = 1e6) -> Window:
  """An empty window; a large `initial` stands for "not trained yet"."""
  return Window(jnp.float32(initial), jnp.float32(0.0), jnp.int32(0))


def update_window(window: Window, value: Array, length: int) -> Window:
  """Adds one step's value; every `length` steps the mean is renewed.

  >>> w = update_window(init_window(), 1.0, length=2)
  >>> float(w.mean), float(update_window(w, 3.0, length=2).mean)
  (1000000.0, 2.0)
  """
  total, count = window.total + value, window.count + 1
  full = count >= length
  return Window(
    mean=jnp.where(full, total / count, window.mean),
    total=jnp.where(full, 0.0, total),
    count=jnp.where(full, 0, count),
  )


class HdmlState(NamedTuple):
  """State that HDML carries from step to step."""

  metric: Window  # of the metric loss, J_avg
  generator: Window  # of J_gen


def init_state(initial: float = 1e6) -> HdmlState:
  """The state before training: negatives are not pulled, synthetic tuples weigh nothing."""
  return HdmlState(init_window(initial), init_window(initial))
