"""Losses that are a cross-entropy over similarities, from N-pair and NT-Xent to angular."""

import math
from typing import Unpack

import jax.numpy as jnp

from jaxdml import distances
from jaxdml._arguments import any_axes, together
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import (
  exponents_fit,
  log1p_sum_exp,
  log_sum_exp,
  log_sum_exp_pair,
  sine,
  softplus,
)
from jaxdml.losses._rows import row_count, row_sum, sum_over_positives
from jaxdml.types import Array, DistanceFn, Loss, Pairs, ReduceFn, Rows, SharedRefs

__all__ = [
  "angular_loss", "nca_loss", "npair_loss", "ntxent_loss", "supcon_loss", "tuplet_margin_loss",
]  # fmt: skip


def _against_negatives(
  pairs: Pairs, positive_logits: Array, negative_logits: Array, bounded: bool = False
) -> Rows:
  """Elements log(1 + sum_n exp(z_n - z_p)), one a positive; 0 in rows without a negative."""
  away = log_sum_exp(negative_logits, pairs.negative, bounded=bounded, empty=-jnp.inf)[:, None]
  return Rows.of_positives(row_sum(softplus(away - positive_logits), pairs.positive), pairs)


def _bounded(distance_fn: DistanceFn, temperature: Array | float) -> bool:
  """Tells whether exp(-distance / temperature) needs no shift."""
  return exponents_fit(distance_fn, lambda d: [-d / temperature], temperature)


@any_axes
def npair_loss(
  embeddings: Array, labels: Array, *, l2_reg: float = 0.0, l2_over: str = "positives",
  distance_fn: DistanceFn = distances.dot,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """N-pair loss: cross-entropy of each positive against all the row's negatives.

  mean_p log(1 + sum_n exp(s_an - s_ap)) + l2_reg / 4 (||a||^2 + mean_p ||p||^2) with s = -distance,
  inner products of unnormalised embeddings by default (Sohn, NIPS 2016; the L2 term as HDML's code
  has it, arXiv 1903.05503). With one positive a row it is softmax cross-entropy;
  pytorch-metric-learning has that only, on two images of each class, normalised by default.

  Args:
    l2_reg: weight of the L2 term; 3e-3 on Cars196 and 1.5e-2 on CUB in HDML.
    l2_over: "positives": the term takes the anchor and its positives; "references": the anchor and
      all that it is compared with, as HDML's code does (the same on N-pair batches of distinct
      classes, another where references are private to an anchor).
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # both anchors: log(1 + exp(0 - 1))
  >>> print(round(float(npair_loss(x, jnp.array([0, 0, 1]))), 4))
  0.3133
  """

  if l2_over not in ("positives", "references"):
    raise ValueError(f"l2_over: expected one of positives, references; got {l2_over!r}")

  def row_fn(pairs, inputs):
    rows = _against_negatives(pairs, -pairs.distances, -pairs.distances)
    if isinstance(l2_reg, (int, float)) and not l2_reg:
      return rows
    square = lambda x: jnp.sum(jnp.square(distances.bounded(x).astype(rows.total.dtype)), axis=-1)
    ref_square = square(inputs.refs.embeddings)
    ref_square = ref_square[pairs.anchor] if ref_square.ndim == 2 else ref_square[None, :]
    norms = rows.elements * square(inputs.embeddings)[pairs.anchor]
    if l2_over == "positives":
      norms = norms + row_sum(ref_square, pairs.positive)
    else:
      compared = pairs.positive | pairs.negative
      count = jnp.maximum(row_count(compared, norms.dtype), 1.0)
      norms = norms + rows.elements * row_sum(ref_square, compared) / count
    return rows._replace(total=rows.total + 0.25 * l2_reg * norms)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def ntxent_loss(
  embeddings: Array, labels: Array, *, temperature: float = 0.07,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """NT-Xent (InfoNCE): each positive against itself and the row's negatives.

  -log(exp(s_ap / T) / (exp(s_ap / T) + sum_n exp(s_an / T))) with s = -distance, averaged over all
  (anchor, positive) pairs (Sohn, NIPS 2016; van den Oord et al., arXiv 1807.03748; Chen et al.,
  arXiv 2002.05709). The other positives are not in the denominator.

  Args:
    temperature: T > 0.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # log(1 + exp((0 - 1) / T))
  >>> print(round(float(ntxent_loss(x, jnp.array([0, 0, 1]), temperature=0.5)), 4))
  0.1269
  """

  def row_fn(pairs, inputs):
    logits = pairs.distances * (-1.0 / temperature)
    bounded = _bounded(inputs.distance_fn, temperature)
    return _against_negatives(pairs, logits, logits, bounded=bounded)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def supcon_loss(
  embeddings: Array, labels: Array, *, temperature: float = 0.1,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Supervised contrastive loss: every positive against all the row's pairs.

  -mean_p log(exp(s_ap / T) / sum_{j in positives and negatives} exp(s_aj / T)) with s = -distance,
  averaged over anchors with a positive (Khosla et al., arXiv 2004.11362, eq. 2, L_out). A batch
  without negatives still has a loss; in pytorch-metric-learning it is 0.

  Args:
    temperature: T > 0.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  >>> print(round(float(supcon_loss(x, jnp.array([0, 0, 1]), temperature=0.5)), 4))
  0.1269
  """

  def row_fn(pairs, inputs):
    logits = pairs.distances * (-1.0 / temperature)
    count = row_count(pairs.positive, logits.dtype)
    attraction = row_sum(logits, pairs.positive) / jnp.maximum(count, 1.0)
    bounded = _bounded(inputs.distance_fn, temperature)
    total = log_sum_exp(logits, pairs.positive | pairs.negative, bounded=bounded)
    return Rows.of_anchors(total - attraction, count > 0)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def nca_loss(
  embeddings: Array, labels: Array, *, temperature: float = 1.0,
  distance_fn: DistanceFn = distances.squared_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Neighbourhood component analysis: the softmax probability of picking a positive neighbour.

  -log(sum_p exp(-d(a, p) / T) / sum_{j in positives and negatives} exp(-d(a, j) / T)), averaged
  over anchors with a positive (Goldberger et al., NIPS 2004, the log form; squared distances of
  unnormalised embeddings, which pytorch-metric-learning normalises by default). One near positive
  suffices, so classes may keep several modes.

  Args:
    temperature: T > 0, in units of the distance.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[0.0], [1.0], [2.0]])  # log(1 + exp(-4 + 1)), log(1 + exp(-1 + 1))
  >>> print(round(float(nca_loss(x, jnp.array([0, 0, 1]))), 4))
  0.3709
  """

  def row_fn(pairs, inputs):
    logits = pairs.distances * (-1.0 / temperature)
    some, enemies = (jnp.any(m, axis=1) for m in (pairs.positive, pairs.negative))
    near, far = log_sum_exp_pair(logits, pairs.positive, pairs.negative, add_one=False)
    used = some & enemies
    value = jnp.where(used, softplus(jnp.where(used, far - near, 0.0)), 0.0)
    return Rows.of_anchors(value, some)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def tuplet_margin_loss(
  embeddings: Array, labels: Array, *, margin: float = 0.1, scale: float = 64.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Tuplet margin loss: every positive, its angle reduced by a margin, against all negatives.

  log(1 + sum_n exp(scale (cos t_an - cos(t_ap - margin)))), averaged over all (anchor, positive)
  pairs, with cos t = 1 - distance (Yu and Tao, ICCV 2019). The margin keeps pairs that are near
  already from being pulled on, as intra-class variance needs.

  Args:
    margin: in radians; the paper's 5.73 degrees by default.
    scale: steepness.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    cosine = 1.0 - pairs.distances
    # cos(t - margin) without arccos; outside [-1, 1] there is no angle and the sine is 0.
    eased = cosine * jnp.cos(margin) + sine(cosine) * jnp.sin(margin)
    return _against_negatives(pairs, scale * eased, scale * cosine)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


@any_axes
def angular_loss(
  embeddings: Array, labels: Array, *, alpha: float = math.radians(40.0),
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean_elements, **shared: Unpack[SharedRefs],
) -> Array:  # fmt: skip
  """Angular loss: bounds the angle at the negative of the triangle (anchor, positive, negative).

  log(1 + sum_n exp(4 t (s_an + s_pn) - 2 (1 + t) s_ap)) with t = tan(alpha)^2 and s = 1 - distance,
  averaged over all (anchor, positive) pairs (Wang et al., arXiv 1708.01682, eq. 8 on normalised
  embeddings; pytorch-metric-learning leaves the negatives as they are). The negatives are the
  anchor's. Costs a matrix product for every positive of a row, unless the anchors are the
  references and in one block; reverse-mode differentiable only.

  Args:
    alpha: upper bound of the angle, in radians; the paper's range is 36 to 55 degrees.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    t = together(jnp.tan(jnp.asarray(alpha, pairs.distances.dtype)) ** 2, pairs.distances)
    refs = inputs.refs.embeddings
    # Anchors that are the references themselves, all at once: every row is there already.
    own = refs is inputs.embeddings and pairs.distances.shape == (len(refs), len(refs))

    def of_a_positive(column, valid, d, refs):
      if own:
        d_pn = d[column]
      elif refs.ndim == 2:
        d_pn = inputs.distance_fn(refs[column], refs)
      else:
        others = refs[pairs.anchor]
        mine = jnp.take_along_axis(others, column[:, None, None], axis=1)[:, 0]
        d_pn = distances.private_distances(inputs.distance_fn, mine, others)
      s_ap = 1.0 - jnp.take_along_axis(d, column[:, None], axis=1)
      exponent = 4.0 * t * (2.0 - d - d_pn) - 2.0 * (1.0 + t) * s_ap
      return log1p_sum_exp(exponent, pairs.negative & valid[:, None])

    total = sum_over_positives(of_a_positive, pairs.positive, pairs.distances, refs)
    return Rows.of_positives(total, pairs)

  return from_rows(row_fn, embeddings, labels, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("npair", npair_loss, ("l2_reg", "l2_over"), distances.dot, reducers.mean),
  Loss("ntxent", ntxent_loss, ("temperature",), distances.cosine, reducers.mean_elements),
  Loss("supcon", supcon_loss, ("temperature",), distances.cosine, reducers.mean),
  Loss("nca", nca_loss, ("temperature",), distances.squared_euclidean, reducers.mean),
  Loss("tuplet_margin", tuplet_margin_loss, ("margin", "scale"), distances.cosine,
    reducers.mean_elements),
  Loss("angular", angular_loss, ("alpha",), distances.cosine, reducers.mean_elements),
)  # fmt: skip
