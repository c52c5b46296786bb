"""Losses over pairs: contrastive, signal-to-noise contrastive, margin, multi-similarity."""

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import exponents_fit, log_sum_exp_pair
from jaxdml.losses._rows import element_rows
from jaxdml.types import Array, DistanceFn, Loss, Pairs, ReduceFn, Rows, SharedRefs

__all__ = [
  "contrastive_loss", "margin_loss", "multi_similarity_loss",
  "signal_to_noise_contrastive_loss",
]  # fmt: skip


def _contrastive_rows(pairs: Pairs, positive_margin, negative_margin, power: int) -> Rows:
  """Positives beyond their margin and negatives within theirs, as two terms."""
  beyond = jnp.where(
    pairs.positive, pairs.distances - positive_margin, negative_margin - pairs.distances
  )
  cost = jax.nn.relu(beyond) ** power
  terms = element_rows(cost, pairs.positive), element_rows(cost, pairs.negative)
  return Rows(*(jnp.stack(pair, axis=1) for pair in zip(*terms, strict=True)))


@any_axes
def contrastive_loss(
  embeddings: Array, labels: Array, *, positive_margin: float = 0.0, negative_margin: float = 1.0,
  power: int = 2,
  distance_fn: DistanceFn = distances.normalized_euclidean,
  reduce_fn: ReduceFn = reducers.mean_nonzero, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Contrastive loss: pulls positives together and pushes negatives beyond a margin.

  mean_p [d(a, p) - m_p]_+^k  +  mean_n [m_n - d(a, n)]_+^k, each mean over its active pairs
  (Hadsell, Chopra and LeCun 2006, eq. 4, with the factors 1/2 left out).

  Args:
    positive_margin: m_p, below which a positive costs nothing.
    negative_margin: m_n, beyond which a negative costs nothing.
    power: k; 1 is the linear form, pytorch-metric-learning's.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]])
  >>> print(round(float(contrastive_loss(x, jnp.array([0, 0, 1]))), 4))  # (1 - sqrt(.4))^2
  0.1351
  """
  row_fn = lambda pairs, inputs: _contrastive_rows(pairs, positive_margin, negative_margin, power)
  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def signal_to_noise_contrastive_loss(
  embeddings: Array, labels: Array, *, positive_margin: float = 0.0, negative_margin: float = 1.0,
  distance_fn: DistanceFn = distances.normalized_signal_to_noise,
  reduce_fn: ReduceFn = reducers.mean_nonzero, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Contrastive loss on signal-to-noise distances: var(a - p) / var(a) instead of a metric.

  mean_p [d(a, p) - m_p]_+ + mean_n [m_n - d(a, n)]_+, each mean over its active pairs (Yuan et al.,
  arXiv 1904.02616; without its regulariser that pulls the mean component to 0).

  Args:
    positive_margin: m_p, below which a positive costs nothing.
    negative_margin: m_n, beyond which a negative costs nothing.
    **shared: and errors: docs/conventions.md.
  """
  row_fn = lambda pairs, inputs: _contrastive_rows(pairs, positive_margin, negative_margin, 1)
  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def margin_loss(
  embeddings: Array, labels: Array, *, margin: float = 0.2, beta: Array | float = 1.2,
  nu: float = 0.0,
  distance_fn: DistanceFn = distances.normalized_euclidean,
  reduce_fn: ReduceFn = reducers.mean_nonzero, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Margin loss: positives within beta - margin, negatives beyond beta + margin.

  sum_p [d(a, p) - beta_a + margin]_+ + sum_n [beta_a - d(a, n) + margin]_+ over the number of
  active pairs, plus nu * beta_a for each row with a pair: each anchor, or, behind
  `expand_positives`, each of its positives (Wu et al., arXiv 1706.07567). pytorch-metric-learning
  counts a pair once for each of its triplets, leaves out anchors without one, and adds the nu beta
  of a single boundary undivided.

  Args:
    margin: half the width of the band that must stay empty.
    beta: the boundary, learnable: a scalar, or [num_classes] indexed by the anchor's label, which
      must then be below num_classes.
    nu: weight of the beta regulariser; positive values pull the boundary in.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    boundary = jnp.asarray(beta, pairs.distances.dtype)
    if boundary.ndim > 1:
      raise ValueError(f"beta must be a scalar or [num_classes]; got shape {boundary.shape}")
    if boundary.ndim == 1:
      # Out of range would silently clip or wrap to another class: NaN instead, which is seen.
      boundary = boundary.at[inputs.labels[pairs.anchor]].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
      )
    boundary = jnp.broadcast_to(boundary, pairs.anchor.shape)
    beyond = pairs.distances - boundary[:, None]
    signed = jnp.where(pairs.positive, beyond, -beyond)
    rows = element_rows(jax.nn.relu(signed + margin), pairs.positive | pairs.negative)
    if isinstance(nu, (int, float)) and not nu:
      return rows
    used = rows.elements > 0
    return rows._replace(total=rows.total + jnp.where(used, nu * boundary, 0.0))

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def multi_similarity_loss(
  embeddings: Array, labels: Array, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Multi-similarity loss: soft sums over the positives and the negatives of an anchor.

  1/alpha log(1 + sum_p exp(-alpha (s_ap - base))) + 1/beta log(1 + sum_n exp(beta (s_an - base)))
  with s = 1 - distance (Wang et al., arXiv 1904.06627). The paper's pair mining is a miner; anchors
  that it leaves without a pair are not averaged over (pytorch-metric-learning counts them as 0).

  Args:
    alpha: sharpness over positives.
    beta: sharpness over negatives.
    base: the similarity that separates them (lambda in the paper).
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    ends = lambda d: [-alpha * (1.0 - d - base), beta * (1.0 - d - base)]
    bounded = exponents_fit(inputs.distance_fn, ends, alpha, beta, base)
    excess = (1.0 - pairs.distances) - base
    exponent = jnp.where(pairs.positive, -alpha * excess, beta * excess)
    positive, negative = log_sum_exp_pair(
      exponent, pairs.positive, pairs.negative, add_one=True, bounded=(bounded, bounded)
    )
    used = jnp.any(pairs.positive | pairs.negative, axis=1)
    return Rows.of_anchors(positive / alpha + negative / beta, used)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("contrastive", contrastive_loss, ("positive_margin", "negative_margin", "power"),
    distances.normalized_euclidean, reducers.mean_nonzero),
  Loss("signal_to_noise_contrastive", signal_to_noise_contrastive_loss, ("positive_margin",
    "negative_margin"), distances.normalized_signal_to_noise, reducers.mean_nonzero),
  Loss("margin", margin_loss, ("margin", "beta", "nu"), distances.normalized_euclidean,
    reducers.mean_nonzero),
  Loss("multi_similarity", multi_similarity_loss, ("alpha", "beta", "base"), distances.cosine,
    reducers.mean),
)  # fmt: skip
