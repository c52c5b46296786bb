"""Losses that are a cross-entropy over similarities: N-pair."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdml import distances
from jaxdml.losses import reducers
from jaxdml.losses.core import tuple_loss
from jaxdml.losses.numerics import log_sum_exp, softplus
from jaxdml.losses.pairs import RowFn
from jaxdml.types import Rows

__all__ = ["npair_loss"]


@tuple_loss(distance_fn=distances.dot, reduce_fn=reducers.mean)
def npair_loss(l2_reg: float = 0.0) -> RowFn:
  """N-pair loss: cross-entropy of each positive against all the row's negatives.

  mean_p log(1 + sum_n exp(s_an - s_ap)) + l2_reg / 4 (||a||^2 + mean_p ||p||^2) with s = -distance,
  inner products of unnormalised embeddings by default (Sohn, NIPS 2016; the L2 term as HDML's code
  has it, arXiv 1903.05503). With one positive a row it is softmax cross-entropy.

  Args:
    l2_reg: weight of the L2 term; 3e-3 on Cars196 and 1.5e-2 on CUB in HDML.

  Returns:
    The reduced loss; shared arguments and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # both anchors: log(1 + exp(0 - 1))
  >>> print(round(float(npair_loss(x, jnp.array([0, 0, 1]))), 4))
  0.3133
  """

  def row_fn(pairs, inputs):
    similarity = -pairs.distances
    some = jnp.any(pairs.negative, axis=1, keepdims=True)
    away = log_sum_exp(similarity, pairs.negative)[:, None]
    value = jnp.where(some, softplus(jnp.where(some, away - similarity, 0.0)), 0.0)
    value = jnp.sum(jnp.where(pairs.positive, value, 0.0), axis=1)
    count = jnp.sum(pairs.positive, axis=1, dtype=value.dtype)
    square = lambda x: jnp.sum(jnp.square(x.astype(value.dtype)), axis=-1)
    ref_square = square(inputs.refs.embeddings)
    ref_square = ref_square[pairs.anchor] if ref_square.ndim == 2 else ref_square[None, :]
    norms = count * square(inputs.embeddings)[pairs.anchor]
    norms = norms + jnp.sum(jnp.where(pairs.positive, ref_square, 0.0), axis=1)
    return Rows(total=value + 0.25 * l2_reg * norms, elements=count, active=count)

  return row_fn
