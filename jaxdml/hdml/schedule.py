"""HDML's schedule: how far negatives are pulled, and what synthetics weigh (arXiv 1903.05503).

Both follow window means of losses, J_avg and J_gen (sec. 3.4). The published dials alpha and beta
are in units of these losses; "auto" is free of units.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxdml.types import Array

_AUTO_ALPHA = 0.1  # in units of the first window's loss


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
  generator: Window  # of J_gen; with beta "auto" of `distrust`
  first: Array  # the first whole window's mean of the metric loss; 0 before it ends


def init_state(initial: float = 1e6) -> HdmlState:
  """The state before training: negatives are not pulled, synthetic tuples weigh nothing."""
  return HdmlState(init_window(initial), init_window(initial), jnp.float32(0.0))


def update_state(state: HdmlState, metric: Array, generator: Array, length: int) -> HdmlState:
  """Adds one step's values to both windows of `length` steps."""
  windows = [update_window(w, x, length) for w, x in zip(state, (metric, generator), strict=False)]
  unset = (state.first <= 0) & (windows[0].count == 0)
  return HdmlState(*windows, jnp.where(unset, windows[0].mean, state.first))


def hardness(average_loss: Array, alpha: float | str, first: Array | float = 0.0) -> Array:
  """lambda = exp(-alpha / J_avg): 1 (no pull) while the loss is high, towards 0 as it falls.

  J_avg >= 0 is the metric loss of the last window; at J_avg = alpha a pull of 1 - 1/e is reached,
  at 0 lambda is 0. "auto" is a tenth of `first`, the first window's loss, so that lambda depends on
  how far the loss has fallen and not on its scale: .9 at first, .82 at a half, .37 at a tenth.

  >>> print(f'{hardness(5.0, 0.5):.4f} {hardness(5.0, "auto", first=10.0):.4f}')
  0.9048 0.8187
  """
  average_loss = jnp.asarray(average_loss, jnp.result_type(average_loss, jnp.float32))
  alpha = _AUTO_ALPHA * first if alpha == "auto" else alpha
  some = average_loss > 0
  return jnp.where(some, jnp.exp(-alpha / jnp.where(some, average_loss, 1.0)), 0.0)


def distrust(error: Array, cross_entropy: Array, num_classes: int) -> Array:
  """The generator's failure, in [0, 1]: 1 - max(0, 1 - error) max(0, 1 - CE / log C).

  Args:
    error: mean squared error of the reconstruction over the variance of the features; 1 is what
      their mean would reach.
    cross_entropy: the head's mean on synthetic features; log C is chance.
    num_classes: C.

  >>> print(distrust(0.25, 0.0, 100), distrust(1.5, 0.0, 100), distrust(0.0, 9.0, 100))
  0.25 1.0 1.0
  """
  share = lambda x: jnp.clip(1.0 - x, 0.0, 1.0)
  return 1.0 - share(error) * share(cross_entropy / math.log(max(num_classes, 2)))


def trust(average_loss: Array, beta: float | str) -> Array:
  """w = exp(-beta / J_gen), the weight of real tuples: 1 at first, towards 0 as J_gen falls.

  With "auto" the average is of `distrust`, and w is that.
  """
  if beta == "auto":
    return jnp.minimum(average_loss, 1.0)  # Before the first window ends it is large.
  return jnp.exp(-beta / jnp.maximum(average_loss, 1e-30))
