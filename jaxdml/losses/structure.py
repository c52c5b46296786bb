"""Losses on the structure of a row: lifted structure, generalised lifted, circle, ranked list."""

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import exponents_fit, log_sum_exp, log_sum_exp_pair, softplus
from jaxdml.losses._rows import TwoPass, row_count, row_sum
from jaxdml.types import Array, DistanceFn, Loss, ReduceFn, Rows, SharedRefs

__all__ = [
  "circle_loss", "generalized_lifted_structure_loss", "lifted_structure_loss",
  "ranked_list_loss",
]  # fmt: skip

_NOTHING = -1e30  # the log of an empty sum, finite so that gradients are


@any_axes
def lifted_structure_loss(
  embeddings: Array, labels: Array, *, margin: float = 1.0,
  distance_fn: DistanceFn = distances.normalized_euclidean,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Lifted structured loss: each positive pair against the negatives of both its ends.

  [log(sum_{n of a} exp(m - d(a, n)) + sum_{n of p} exp(m - d(n, p))) + d(a, p)]_+^2 / 2, averaged
  over (anchor, positive) pairs (Song et al., arXiv 1511.06452). The positive's negatives are the
  anchors that have it among theirs: in a batch compared with itself, its own. They are summed over
  all anchors first (over devices too, given `axis_name`). References private to an anchor have no
  other anchors, so their second sum is empty. A pair without negatives costs nothing.

  Args:
    margin: m, in units of the distance.
    **shared: and errors: docs/conventions.md.
  """

  def stats_fn(pairs, inputs):
    if inputs.refs.embeddings.ndim == 3:
      return jnp.full((), _NOTHING, pairs.distances.dtype)
    weight = inputs.weights.astype(pairs.distances.dtype)[pairs.anchor][:, None]
    mask = pairs.negative & (weight > 0)
    x = margin - pairs.distances
    top = jax.lax.stop_gradient(jnp.max(jnp.where(mask, x, -jnp.inf), axis=0))
    some = top > -jnp.inf
    top = jnp.where(some, top, 0.0)
    total = jnp.sum(jnp.where(mask, weight, 0.0) * jnp.exp(jnp.where(mask, x - top, -jnp.inf)), 0)
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, _NOTHING)

  def row_fn(pairs, inputs):
    d = pairs.distances
    some = jnp.any(pairs.negative, axis=1)
    of_anchor = jnp.where(some, log_sum_exp(margin - d, pairs.negative), _NOTHING)
    of_positive = jnp.broadcast_to(inputs.stats, d.shape[1:])
    both = jnp.logaddexp(of_anchor[:, None], of_positive[None, :])
    value = row_sum(0.5 * jnp.square(jax.nn.relu(both + d)), pairs.positive)
    active = row_count(pairs.positive & (both + d > 0), d.dtype)
    return Rows(total=value, elements=row_count(pairs.positive, d.dtype), active=active)

  two_pass = TwoPass(stats_fn, lambda parts: jax.nn.logsumexp(parts, axis=0), row_fn)
  return from_rows(two_pass, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def generalized_lifted_structure_loss(
  embeddings: Array, labels: Array, *, margin: float = 1.0,
  distance_fn: DistanceFn = distances.normalized_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Generalised lifted structured loss: a soft farthest positive against a soft nearest negative.

  [log sum_p exp(d(a, p)) + log sum_n exp(m - d(a, n))]_+, averaged over anchors that have both
  (Hermans et al., arXiv 1703.07737, eq. 10). pytorch-metric-learning averages over all anchors, the
  log of an empty sum taken as 0.

  Args:
    margin: m, in units of the distance.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    bounded = exponents_fit(inputs.distance_fn, lambda d: [d, margin - d], margin)
    exponent = jnp.where(pairs.positive, pairs.distances, margin - pairs.distances)
    pull, push = log_sum_exp_pair(
      exponent, pairs.positive, pairs.negative, add_one=False, bounded=(bounded, bounded)
    )
    used = jnp.any(pairs.positive, axis=1) & jnp.any(pairs.negative, axis=1)
    value = jnp.where(used, jax.nn.relu(pull + push), 0.0)
    return Rows(value, used.astype(value.dtype), (value > 0).astype(value.dtype))

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def circle_loss(
  embeddings: Array, labels: Array, *, margin: float = 0.4, gamma: float = 80.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Circle loss: every similarity is weighed by how far it is from its optimum.

  log(1 + sum_n exp(g a_n (s_an - m)) sum_p exp(-g a_p (s_ap - 1 + m))) with a_n = [s_an + m]_+ and
  a_p = [1 + m - s_ap]_+ as constants, s = 1 - distance; averaged over anchors that have a positive
  and a negative (Sun et al., arXiv 2002.10857).

  Args:
    margin: m, the relaxation; 0.4 for retrieval, 0.25 for faces and re-identification.
    gamma: g, the scale; 80 for retrieval, 256 for faces, 128 for re-identification.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    # (s + m)(s - m) is largest where s is and smallest at 0; the positives' grows far beyond.
    ends = lambda d: [gamma * max(1.0 - d + margin, 0.0) * (1.0 - d - margin), -gamma * margin**2]
    bounded = exponents_fit(inputs.distance_fn, ends, margin, gamma)
    s = 1.0 - pairs.distances
    fixed = jax.lax.stop_gradient(s)
    pull = jax.nn.relu(1.0 + margin - fixed) * (1.0 - margin - s)
    push = jax.nn.relu(fixed + margin) * (s - margin)
    exponent = gamma * jnp.where(pairs.positive, pull, push)
    near, far = log_sum_exp_pair(
      exponent, pairs.positive, pairs.negative, add_one=False, bounded=(False, bounded)
    )
    used = jnp.any(pairs.positive, axis=1) & jnp.any(pairs.negative, axis=1)
    return Rows.of_anchors(softplus(jnp.where(used, near + far, 0.0)), used)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


def _weighted_mean(hinge: Array, mask: Array, temperature: Array | float) -> Array:
  """sum_j w_j hinge_j / sum_j w_j over hinge > 0 with w = exp(T hinge) as constants, [r]."""
  mask = mask & (hinge > 0)
  fixed = jax.lax.stop_gradient(temperature * hinge)
  top = jnp.max(jnp.where(mask, fixed, -jnp.inf), axis=1, keepdims=True)
  weight = jnp.exp(jnp.where(mask, fixed - jnp.where(top > -jnp.inf, top, 0.0), -jnp.inf))
  total = jnp.sum(weight, axis=1)
  return row_sum(weight * hinge, mask) / jnp.where(total > 0, total, 1.0)


@any_axes
def ranked_list_loss(
  embeddings: Array, labels: Array, *, alpha: float = 1.2, margin: float = 0.4,
  negative_temperature: float = 10.0, positive_temperature: float = 0.0, balance: float = 0.5,
  distance_fn: DistanceFn = distances.normalized_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Ranked list loss: positives inside a ball of radius alpha - m, negatives outside alpha.

  (1 - b) mean_p [d(a, p) - (alpha - m)]_+ + b mean_n [alpha - d(a, n)]_+, means over the violating
  pairs weighted by w = exp(T violation), which is a constant (Wang et al., arXiv 1903.03238);
  averaged over anchors with a pair. Hinge instead of a pull to 0 keeps classes' structure.
  pytorch-metric-learning differentiates the weights too, adds 1e-5 a reference to their sum, and
  skips negatives at distance 0.

  Args:
    alpha: radius beyond which negatives are left alone, in units of the distance.
    margin: m, width of the band between positives and negatives.
    negative_temperature: T of the negatives; 10 in the paper's RLL-Simpler.
    positive_temperature: T of the positives; 0 weighs them alike.
    balance: b, share of the negatives' term.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    d = pairs.distances
    pull = _weighted_mean(d - (alpha - margin), pairs.positive, positive_temperature)
    push = _weighted_mean(alpha - d, pairs.negative, negative_temperature)
    value = (1.0 - balance) * pull + balance * push
    used = jnp.any(pairs.positive | pairs.negative, axis=1).astype(d.dtype)
    return Rows(value, used, (value > 0).astype(d.dtype))

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("lifted_structure", lifted_structure_loss, ("margin",), distances.normalized_euclidean,
    reducers.mean_elements, additive=False),
  Loss("generalized_lifted_structure", generalized_lifted_structure_loss, ("margin",),
    distances.normalized_euclidean, reducers.mean),
  Loss("circle", circle_loss, ("margin", "gamma"), distances.cosine, reducers.mean),
  Loss("ranked_list", ranked_list_loss, ("alpha", "margin", "negative_temperature",
    "positive_temperature", "balance"), distances.normalized_euclidean, reducers.mean),
)  # fmt: skip
