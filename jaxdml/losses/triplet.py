"""Losses over triplets (anchor, positive, negative): hinge and soft margin."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdml import distances
from jaxdml.losses import reducers
from jaxdml.losses.core import RowFn, tuple_loss
from jaxdml.types import Array, Pairs, Rows

__all__ = ["soft_margin_triplet_loss", "triplet_loss"]


def _hinge(x: Array) -> tuple[Array, Array]:
  return jax.nn.relu(x), (x > 0).astype(x.dtype)


def _softplus(x: Array) -> tuple[Array, Array]:
  return jax.nn.softplus(x), jax.nn.sigmoid(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_triplets(penalty, d: Array, positive: Array, negative: Array, margin: Array):
  """(sum, active count) [r] of penalty(d_ap - d_an + margin) over each row's triplets.

  Loops over the k-th positive of every row, so memory is O(r m) however many triplets there are,
  and time is O(r m) times the largest number of positives actually present. The loop length
  depends on the data, which reverse mode cannot trace: the gradient is summed on the way.
  """
  return _sum_triplets_fwd(penalty, d, positive, negative, margin)[0]


def _sum_triplets_fwd(penalty, d, positive, negative, margin):
  rank = jnp.cumsum(positive, axis=1)
  count = jnp.where(jnp.any(negative, axis=1), rank[:, -1], 0)

  def body(k, carry):
    total, active, d_grad, margin_grad = carry
    chosen = positive & (rank == k + 1)
    mask = negative & (k < count)[:, None]
    d_ap = jnp.sum(jnp.where(chosen, d, 0.0), axis=1)
    value, slope = penalty(d_ap[:, None] - d + margin)
    value, slope = jnp.where(mask, value, 0.0), jnp.where(mask, slope, 0.0)
    row_slope = jnp.sum(slope, axis=1)
    return (
      total + jnp.sum(value, axis=1),
      active + jnp.sum(value > 0, axis=1, dtype=d.dtype),
      d_grad + jnp.where(chosen, row_slope[:, None], 0.0) - slope,
      margin_grad + row_slope,
    )

  zero = jnp.zeros(d.shape[0], d.dtype)
  start = (zero, zero, jnp.zeros_like(d), zero)
  total, active, d_grad, margin_grad = jax.lax.fori_loop(0, jnp.max(count), body, start)
  return (total, active), (d_grad, margin_grad)


def _sum_triplets_bwd(penalty, residuals, cotangents):
  del penalty
  d_grad, margin_grad = residuals
  total_bar = cotangents[0]
  return total_bar[:, None] * d_grad, None, None, jnp.sum(total_bar * margin_grad)


_sum_triplets.defvjp(_sum_triplets_fwd, _sum_triplets_bwd)


def _triplet_rows(penalty, pairs: Pairs, margin) -> Rows:
  d = pairs.distances
  total, active = _sum_triplets(
    penalty, d, pairs.positive, pairs.negative, jnp.asarray(margin, d.dtype)
  )
  count = lambda mask: jnp.sum(mask, axis=1, dtype=d.dtype)
  return Rows(total, elements=count(pairs.positive) * count(pairs.negative), active=active)


@tuple_loss(distance_fn=distances.normalized_squared_euclidean, reduce_fn=reducers.mean_nonzero)
def triplet_loss(margin: float = 0.2) -> RowFn:
  """Triplet loss over every (positive, negative) of a row: [d(a, p) - d(a, n) + margin]_+.

  FaceNet's loss, squared distances on the unit sphere (arXiv 1503.03832), averaged over the active
  triplets. Without mining all triplets count, in O(n m) memory; the original's mining is
  `chain(expand_positives, semihard_negative)`. Reverse-mode differentiable only.

  Args:
    margin: how much farther than the positive the negative must be, in units of the distance.

  Returns:
    The reduced loss; shared arguments and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
  >>> print(f"{triplet_loss(x, jnp.array([0, 0, 1])):.4f}")  # ((2 - .4 + .2) + (2 - .8 + .2)) / 2
  1.6000
  """
  return lambda pairs, inputs: _triplet_rows(_hinge, pairs, margin)


@tuple_loss(distance_fn=distances.euclidean, reduce_fn=reducers.mean_elements)
def soft_margin_triplet_loss(margin: float = 0.0) -> RowFn:
  """Soft-margin triplet loss: log(1 + exp(d(a, p) - d(a, n) + margin)) (arXiv 1703.07737, sec. 3).

  Every triplet counts and keeps pulling; the paper uses it on plain euclidean distances of
  unnormalised embeddings with batch-hard mining. Reverse-mode differentiable only.

  Args:
    margin: shifts the knee of the softplus.

  Returns:
    The reduced loss; shared arguments and errors: docs/conventions.md.
  """
  return lambda pairs, inputs: _triplet_rows(_softplus, pairs, margin)
