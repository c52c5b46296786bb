"""Losses that are a ranking measure made smooth: FastAP, Smooth-AP, histogram."""

import functools
from typing import Unpack

import jax
import jax.numpy as jnp

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._rows import TwoPass, row_count, row_sum, sum_over_positives
from jaxdml.types import Array, DistanceFn, Loss, ReduceFn, Rows, SharedRefs

__all__ = ["fast_ap_loss", "histogram_loss", "smooth_ap_loss"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _row_histograms(x: Array, masks: tuple[Array, ...], nodes: int) -> tuple[Array, ...]:
  """[r, nodes] for each mask: every x in [0, nodes - 1] shared between the two nodes beside it.

  One pass a node, nothing of [r, m, nodes] held.
  """
  node = lambda k: tuple(row_sum(jax.nn.relu(1.0 - jnp.abs(x - k)), mask) for mask in masks)
  stacked = jax.lax.map(lambda k: node(k.astype(x.dtype)), jnp.arange(nodes))
  return jax.tree.map(lambda a: a.T, stacked)


def _check_bins(bins: int) -> None:
  if not isinstance(bins, int) or bins < 1:
    raise ValueError(f"bins must be an int of at least 1, not traced; got {bins!r}")


def _histograms_bwd(nodes, residuals, cotangents):
  x, masks = residuals

  def node(slope, k):
    at = x - k.astype(x.dtype)
    # Of relu(1 - |x - k|): 0 at the node itself, as |.| has it.
    kernel = jnp.where(jnp.abs(at) < 1.0, -jnp.sign(at), 0.0)
    parts = [jnp.where(m, c[:, k][:, None], 0.0) for m, c in zip(masks, cotangents, strict=True)]
    return slope + kernel * functools.reduce(jnp.add, parts), None

  return jax.lax.scan(node, jnp.zeros_like(x), jnp.arange(nodes))[0], None


_row_histograms.defvjp(lambda *x: (_row_histograms(*x), x[:2]), _histograms_bwd)


@any_axes
def fast_ap_loss(
  embeddings: Array, labels: Array, *, bins: int = 10, max_distance: float = 4.0,
  distance_fn: DistanceFn = distances.normalized_squared_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """FastAP: one minus average precision over quantised distances.

  1 - 1/N+ sum_l h+_l H+_l / H_l with h the soft histogram of the row's distances over bins + 1
  nodes, H its cumulated sum, + over the positives; averaged over anchors with a positive (Cakir et
  al., CVPR 2019). Reverse-mode differentiable only.

  Args:
    bins: intervals between 0 and `max_distance`; not learnable.
    max_distance: of the distance: 4 for squared distances on the unit sphere. What is farther
      counts as this far.
    **shared: and errors: docs/conventions.md.
  """

  _check_bins(bins)

  def row_fn(pairs, inputs):
    x = jnp.clip(pairs.distances, 0.0, max_distance) * (bins / max_distance)
    of_positives, of_negatives = _row_histograms(x, (pairs.positive, pairs.negative), bins + 1)
    before = jnp.cumsum(of_positives, axis=1)
    total = jnp.cumsum(of_positives + of_negatives, axis=1)
    some = (of_positives > 0) & (total > 0)
    precision = jnp.where(some, of_positives * before / jnp.where(some, total, 1.0), 0.0)
    count = row_count(pairs.positive, x.dtype)
    return Rows.of_anchors(1.0 - jnp.sum(precision, axis=1) / jnp.maximum(count, 1.0), count > 0)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def smooth_ap_loss(
  embeddings: Array, labels: Array, *, temperature: float = 0.01,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Smooth-AP: one minus average precision with sigmoids for the steps of the ranks.

  1 - 1/N+ sum_p (1 + sum_{j in positives} g_j) / (1 + sum_{j in all} g_j), j other than p, with
  g_j = sigmoid((d(a, p) - d(a, j)) / T); averaged over anchors with a positive (Brown et al.,
  arXiv 2007.12163). The anchor does not retrieve itself; the authors' code and
  pytorch-metric-learning let it, at rank 1: so does this for references without ids.
  Reverse-mode differentiable only.

  Args:
    temperature: T > 0, in units of the distance.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    def of_a_positive(column, valid, d):
      d_ap = jnp.take_along_axis(d, column[:, None], axis=1)
      closer = jax.nn.sigmoid((d_ap - d) / temperature)
      # The positive against itself gives exactly 1/2, without gradient.
      ahead, behind = row_sum(closer, pairs.positive), row_sum(closer, pairs.negative)
      return jnp.where(valid, (0.5 + ahead) / (0.5 + ahead + behind), 0.0)

    total = sum_over_positives(of_a_positive, pairs.positive, pairs.distances)
    count = row_count(pairs.positive, total.dtype)
    return Rows.of_anchors(1.0 - total / jnp.maximum(count, 1.0), count > 0)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def histogram_loss(
  embeddings: Array, labels: Array, *, bins: int = 100,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Histogram loss: the probability that a negative pair is more similar than a positive one.

  sum_r h-_r sum_{q <= r} h+_q with h+ and h- the soft histograms of the similarities 1 - distance
  of all positive and all negative pairs over bins + 1 nodes in [-1, 1] (Ustinova and Lempitsky,
  arXiv 1611.00822). It is computed as the mean over positive pairs of the share of negatives beyond
  them, so it has one value an anchor; the negatives' histogram is summed over all anchors first
  (over devices too, given `axis_name`). pytorch-metric-learning leaves out pairs that are in no
  triplet, those of two images alone in their classes. Reverse-mode differentiable only.

  Args:
    bins: intervals between -1 and 1; similarities beyond count as these. Not learnable.
    **shared: and errors: docs/conventions.md.
  """

  _check_bins(bins)

  def positions(pairs):
    return jnp.clip(2.0 - pairs.distances, 0.0, 2.0) * (0.5 * bins)

  def stats_fn(pairs, inputs):
    x = positions(pairs)
    weight = inputs.weights.astype(x.dtype)[pairs.anchor]
    (histogram,) = _row_histograms(x, (pairs.negative,), bins + 1)
    return jnp.sum(weight[:, None] * histogram, axis=0)

  def row_fn(pairs, inputs):
    x = positions(pairs)
    total = jnp.sum(jax.lax.stop_gradient(inputs.stats))
    some = total > 0
    beyond = jnp.cumsum(inputs.stats[::-1])[::-1] / jnp.where(some, total, 1.0)
    (histogram,) = _row_histograms(x, (pairs.positive,), bins + 1)
    return Rows.of_positives(jnp.where(some, histogram @ beyond, 0.0), pairs)

  two_pass = TwoPass(stats_fn, lambda parts: jnp.sum(parts, axis=0), row_fn)
  return from_rows(two_pass, embeddings, labels, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("fast_ap", fast_ap_loss, ("bins", "max_distance"),
    distances.normalized_squared_euclidean, reducers.mean),
  Loss("smooth_ap", smooth_ap_loss, ("temperature",), distances.cosine, reducers.mean),
  Loss("histogram", histogram_loss, ("bins",), distances.cosine, reducers.mean_elements,
    additive=False),
)  # fmt: skip
