"""Losses over triplets (anchor, positive, negative): hinge and soft margin."""

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import softplus
from jaxdml.losses._rows import row_count, sum_over_positives
from jaxdml.types import Array, DistanceFn, Loss, Pairs, ReduceFn, Rows, SharedRefs

__all__ = ["soft_margin_triplet_loss", "triplet_loss"]


def _triplet_rows(penalty: Callable[[Array], Array], pairs: Pairs, margin) -> Rows:
  """Sums of penalty(d_ap - d_an + margin), one positive at a time: O(r m) memory."""

  def of_a_positive(column, valid, d):
    d_ap = jnp.take_along_axis(d, column[:, None], axis=1)
    mask = pairs.negative & valid[:, None]
    value = jnp.where(mask, penalty(d_ap - d + margin), 0.0)
    return jnp.sum(value, axis=1), jnp.sum(value > 0, axis=1, dtype=d.dtype)

  total, active = sum_over_positives(of_a_positive, pairs.positive, pairs.distances)
  positives = row_count(pairs.positive, total.dtype)
  return Rows(total, positives * row_count(pairs.negative, total.dtype), active)


@any_axes
def triplet_loss(
  embeddings: Array, labels: Array, *, margin: float = 0.2,
  distance_fn: DistanceFn = distances.normalized_squared_euclidean,
  reduce_fn: ReduceFn = reducers.mean_nonzero, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Triplet loss over every (positive, negative) of a row: [d(a, p) - d(a, n) + margin]_+.

  FaceNet's loss, squared distances on the unit sphere (arXiv 1503.03832), averaged over the active
  triplets. Without mining all triplets count, in O(n m) memory; the original's mining is
  `chain(expand_positives, semihard_negative)`. Reverse-mode differentiable only.

  Args:
    margin: how much farther than the positive the negative must be, in units of the distance.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
  >>> print(f"{triplet_loss(x, jnp.array([0, 0, 1])):.4f}")  # ((2 - .4 + .2) + (2 - .8 + .2)) / 2
  1.6000
  """
  row_fn = lambda pairs, inputs: _triplet_rows(jax.nn.relu, pairs, margin)
  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def soft_margin_triplet_loss(
  embeddings: Array, labels: Array, *, margin: float = 0.0,
  distance_fn: DistanceFn = distances.euclidean,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Soft-margin triplet loss: log(1 + exp(d(a, p) - d(a, n) + margin)) (arXiv 1703.07737, sec. 3).

  Every triplet counts and keeps pulling; the paper uses it on plain euclidean distances of
  unnormalised embeddings with batch-hard mining. Reverse-mode differentiable only.

  Args:
    margin: shifts the knee of the softplus.
    **shared: and errors: docs/conventions.md.
  """
  row_fn = lambda pairs, inputs: _triplet_rows(softplus, pairs, margin)
  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("triplet", triplet_loss, ("margin",), distances.normalized_squared_euclidean,
    reducers.mean_nonzero),
  Loss("soft_margin_triplet", soft_margin_triplet_loss, ("margin",), distances.euclidean,
    reducers.mean_elements),
)  # fmt: skip
