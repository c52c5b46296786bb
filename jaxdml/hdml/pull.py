"""Hardness-aware augmentation: negatives pulled towards their anchor (arXiv 1903.05503)."""

import jax
import jax.numpy as jnp

from jaxdml.distances import safe_sqrt
from jaxdml.types import Array


def pull_negatives(
  anchors: Array,
  negatives: Array,
  positive_distances: Array,
  lam: Array | float,
  *,
  detach_distances: bool = False,
) -> Array:
  """z^ = z + [lam d- + (1 - lam) d+] (z- - z) / d- where d- > d+, else z- (arXiv 1903.05503).

  A pulled negative keeps its direction and ends at a distance from d+ (lam = 0) to d- (lam = 1).
  Gradients flow through the anchors, the negatives and both distances; they are finite at d- = 0,
  d+ = 0 and d- = d+.

  Args:
    anchors: z, [n, d].
    negatives: z-, [n, k, d], private to each anchor, like the result.
    positive_distances: d+, [n] plain Euclidean distances from anchor to positive; an infinite one
      pulls nothing.
    lam: lambda in [0, 1].
    detach_distances: the factor [...] / d- is a constant; another algorithm than the authors'.

  >>> import jax.numpy as jnp
  >>> z = jnp.zeros((1, 2))
  >>> print(pull_negatives(z, jnp.array([[[4.0, 0.0], [0.0, 1.0]]]), jnp.array([2.0]), 0.5))
  [[[3. 0.]
    [0. 1.]]]
  """
  offset = negatives - anchors[:, None, :]
  negative_distances = safe_sqrt(jnp.sum(jnp.square(offset), axis=-1))
  pulled, factor = pull_factors(negative_distances, positive_distances, lam)
  if detach_distances:
    factor = jax.lax.stop_gradient(factor)
  moved = anchors[:, None, :] + factor[..., None] * offset
  return jnp.where(pulled[..., None], moved, negatives)


def pull_factors(
  negative_distances: Array, positive_distances: Array, lam, negative: Array | bool = True
) -> tuple[Array, Array]:
  """(d- > d+, t = [lam d- + (1 - lam) d+] / d- there and 1 elsewhere), [n, k] of d- and d+ [n].

  A partner that is not `negative` is not pulled.
  """
  d_pos = positive_distances[:, None]
  pulled = negative & (negative_distances > d_pos)
  # Guarded input: where nothing is pulled the division never sees d- = 0.
  divisor = jnp.where(pulled, negative_distances, 1.0)
  length = lam * divisor + (1.0 - lam) * jnp.where(pulled, d_pos, 1.0)
  return pulled, jnp.where(pulled, length / divisor, 1.0)
