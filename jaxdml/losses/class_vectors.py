"""Cross-entropy over class vectors with a margin on the true class: ArcFace and its relatives.

Margins are applied to cosines: angles are compared by their cosines and never computed, because the
arc cosine has an infinite slope where an embedding meets its class vector. The similarity is
1 - distance, the cosine by default; other distances give finite numbers, but no angles.
"""

import math
from typing import Unpack

import jax.numpy as jnp
import numpy as np

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._class_rows import PROXIES, centers, cross_entropy_rows, from_classes, logit_rows
from jaxdml.losses._numerics import sine
from jaxdml.losses._rows import row_sum
from jaxdml.types import Array, DistanceFn, Loss, PyTree, ReduceFn, Rows, Shared

__all__ = [
  "arcface_loss", "cosface_loss", "normalized_softmax_loss", "sphereface_loss",
  "sub_center_arcface_loss",
]  # fmt: skip


_SUB_CENTERS = centers("sub_centers", 3)


@any_axes
def normalized_softmax_loss(
  embeddings: Array, labels: Array, *, params: PyTree, temperature: float = 0.05,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """Normalised softmax: cross-entropy over the cosines to one vector a class.

  -log(exp(s_y / T) / sum_z exp(s_z / T)) with s = 1 - distance (Zhai and Wu, arXiv 1811.12649).

  Args:
    temperature: T, in units of the cosine.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> params = {"proxies": jnp.eye(2)}  # cosines 1 and 0: log(1 + exp(-1 / 0.5))
  >>> x, y = jnp.array([[3.0, 0.0]]), jnp.array([0])
  >>> print(f"{normalized_softmax_loss(x, y, params=params, temperature=0.5):.4f}")
  0.1269
  """
  row_fn = lambda pairs, inputs: logit_rows((1.0 - pairs.distances) / temperature, pairs)
  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


@any_axes
def cosface_loss(
  embeddings: Array, labels: Array, *, params: PyTree, margin: float = 0.35, scale: float = 64.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """CosFace: normalised softmax with the true class's cosine lowered by a margin.

  -log(exp(s (c_y - m)) / (exp(s (c_y - m)) + sum_{z != y} exp(s c_z))) with c = 1 - distance
  (Wang et al., arXiv 1801.09414).

  Args:
    margin: m, in units of the cosine.
    scale: s, one over the temperature.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    cosine = 1.0 - pairs.distances
    target = scale * (row_sum(cosine, pairs.positive) - margin)
    return cross_entropy_rows(scale * cosine, target, pairs.positive, pairs.negative)

  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


def _add_angle(cosine: Array, margin: Array | float) -> Array:
  """cos(theta + margin) from cos(theta); on past theta + margin = pi it goes on falling."""
  margin = jnp.asarray(margin, cosine.dtype)
  beyond = cosine - margin * jnp.sin(margin)
  within = cosine * jnp.cos(margin) - sine(cosine) * jnp.sin(margin)
  return jnp.where(cosine < -jnp.cos(margin), beyond, within)


def _arcface_rows(cosine, positive, negative, margin, scale) -> Rows:
  target = scale * _add_angle(row_sum(cosine, positive), margin)
  return cross_entropy_rows(scale * cosine, target, positive, negative)


@any_axes
def arcface_loss(
  embeddings: Array, labels: Array, *, params: PyTree, margin: float = 0.5, scale: float = 64.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """ArcFace: normalised softmax with a margin added to the true class's angle.

  -log(exp(s cos(t_y + m)) / (exp(s cos(t_y + m)) + sum_{z != y} exp(s cos t_z))), cos t = 1 -
  distance; where t_y + m > pi, cos t_y - m sin m replaces cos(t_y + m), as in the authors' code
  (Deng et al., arXiv 1801.07698).

  Args:
    margin: m, in radians, from 0 to pi (pytorch-metric-learning takes degrees).
    scale: s, one over the temperature.
    **shared: and errors: docs/conventions.md.

  >>> import jax.numpy as jnp
  >>> params = {"proxies": jnp.eye(2)}  # cos(0 + pi / 2) = 0 against 0: log 2
  >>> x, y = jnp.array([[3.0, 0.0]]), jnp.array([0])
  >>> print(f"{arcface_loss(x, y, params=params, margin=jnp.pi / 2):.4f}")
  0.6931
  """
  row_fn = lambda pairs, inputs: _arcface_rows(
    1.0 - pairs.distances, pairs.positive, pairs.negative, margin, scale
  )
  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


@any_axes
def sub_center_arcface_loss(
  embeddings: Array, labels: Array, *, params: PyTree, margin: float = 0.5, scale: float = 64.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """Sub-centre ArcFace: ArcFace on the cosine to the nearest of several centres a class.

  The cosine to a class is the largest over its `sub_centers`, an option of `init`, 3 by default
  (Deng et al., ECCV 2020). A miner picks among all the centres.

  Args:
    margin: in radians, from 0 to pi (pytorch-metric-learning takes degrees).
    scale: one over the temperature.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    kept = pairs.positive | pairs.negative
    nearest = jnp.max(jnp.where(kept, 1.0 - pairs.distances, -jnp.inf), axis=1)
    # A class of which a miner keeps no centre is in neither mask, but may not be infinite either.
    nearest = jnp.where(jnp.any(kept, axis=1), nearest, 0.0)
    positive, negative = (jnp.any(mask, axis=1) for mask in (pairs.positive, pairs.negative))
    return _arcface_rows(nearest, positive, negative, margin, scale)

  return from_classes(
    row_fn, _SUB_CENTERS, embeddings, labels, params, distance_fn, reduce_fn, **shared
  )


def _multiply_angle(cosine: Array, times: int) -> Array:
  """psi(theta) = (-1)^k cos(times theta) - 2 k, theta in [k pi / times, (k + 1) pi / times].

  Outside [-1, 1], where no angle is, psi goes on with slope 1.
  """
  inside = jnp.clip(cosine, -1.0, 1.0)
  before, polynomial = jnp.ones_like(inside), inside  # Chebyshev: T_k(cos t) = cos(k t)
  for _ in range(times - 1):
    before, polynomial = polynomial, 2.0 * inside * polynomial - before
  k = jnp.zeros_like(cosine)
  for j in range(1, times):
    k = k + (inside <= math.cos(j * math.pi / times))
  sign = 1.0 - 2.0 * jnp.mod(k, 2.0)
  return sign * polynomial - 2.0 * k + (cosine - inside)


@any_axes
def sphereface_loss(
  embeddings: Array, labels: Array, *, params: PyTree, margin: int = 4, scale: float = 1.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """SphereFace (A-Softmax): the true class's angle is multiplied by an integer margin.

  -log(exp(r psi(t_y)) / (exp(r psi(t_y)) + sum_{z != y} exp(r cos t_z))) with r = scale ||x||,
  cos t = 1 - distance and psi(t) = (-1)^k cos(m t) - 2 k for t in [k pi / m, (k + 1) pi / m]
  (Liu et al., arXiv 1704.08063, without the annealing of its code). ||x|| is the norm of the
  embedding as given, whatever the distance normalises, and gets a gradient.

  Args:
    margin: m, an integer of at least 1; not learnable.
    scale: factor of all logits; 1 in the paper.
    **shared: and errors: docs/conventions.md.

  Raises:
    ValueError: for a margin that is not a positive integer.

  >>> import jax.numpy as jnp
  >>> params = {"proxies": jnp.eye(2)}  # cosines 0.6 and 0.8; cos 2 t = 2 0.36 - 1 = -0.28
  >>> x, y = jnp.array([[0.6, 0.8]]), jnp.array([0])  # log(1 + exp(0.8 + 0.28))
  >>> print(f"{sphereface_loss(x, y, params=params, margin=2):.4f}")
  1.3724
  """
  if not isinstance(margin, (int, np.integer)) or margin < 1:
    raise ValueError(f"margin must be an integer of at least 1, not traced; got {margin!r}")

  def row_fn(pairs, inputs):
    cosine = 1.0 - pairs.distances
    x = inputs.embeddings.astype(cosine.dtype)[pairs.anchor]
    radius = scale * distances.norm(x)
    target = radius * _multiply_angle(row_sum(cosine, pairs.positive), int(margin))
    return cross_entropy_rows(radius[:, None] * cosine, target, pairs.positive, pairs.negative)

  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


RECORDS = (
  Loss("normalized_softmax", normalized_softmax_loss, ("temperature",), distances.cosine,
    reducers.mean, parameter=PROXIES),
  Loss("cosface", cosface_loss, ("margin", "scale"), distances.cosine, reducers.mean,
    parameter=PROXIES),
  Loss("arcface", arcface_loss, ("margin", "scale"), distances.cosine, reducers.mean,
    parameter=PROXIES),
  Loss("sub_center_arcface", sub_center_arcface_loss, ("margin", "scale"), distances.cosine,
    reducers.mean, parameter=_SUB_CENTERS),
  Loss("sphereface", sphereface_loss, ("margin", "scale"), distances.cosine, reducers.mean,
    parameter=PROXIES),
)  # fmt: skip
