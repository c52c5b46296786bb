"""Global pooling of a map of features: average, maximum, their sum, generalised mean, or none."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxdml.types import Array

POOLINGS = ("avg", "max", "avg+max", "gem", "none")
"""The kinds of `Pooling`."""

GEM_INIT = 3.0
"""Where GeM's exponent starts, as in arXiv 1711.02512."""


class Pooling(nn.Module):
  """Pools maps [n, h, w, c] to features [n, c] float32; "none" keeps the map.

  - "avg", "max": over all positions.
  - "avg+max": their sum, as metric-learning work with BN-Inception and ResNet-50 has it (Proxy
    Anchor, arXiv 2003.13911). It keeps c channels, unlike their concatenation.
  - "gem": the generalised mean (mean x^p)^(1/p) over positions of x = max(map, epsilon), whose
    parameter `p` is learned from 3 (arXiv 1711.02512). p = 1 is the average, a large p the maximum.

  Attributes:
    kind: one of `POOLINGS`.
    epsilon: smallest value that "gem" sees.

  >>> x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1)
  >>> [Pooling(kind).apply({}, x).tolist() for kind in ("avg", "max", "avg+max")]
  [[[3.0]], [[6.0]], [[9.0]]]
  """

  kind: str = "avg"
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns features [n, c] float32 of x [n, h, w, c], or x itself as float32.

    Raises:
      ValueError: unknown kind.
    """
    check_pooling(self.kind)
    x = x.astype(jnp.float32)
    if self.kind == "avg":
      return x.mean((1, 2))
    if self.kind == "max":
      return x.max((1, 2))
    if self.kind == "avg+max":
      return x.mean((1, 2)) + x.max((1, 2))
    if self.kind == "none":
      return x
    p = self.param("p", nn.initializers.constant(GEM_INIT), (), jnp.float32)
    x = jnp.maximum(x, self.epsilon)
    # Relative to the largest: neither x^p nor its mean leaves float32's range, whatever p becomes.
    largest = lax.stop_gradient(x.max((1, 2), keepdims=True))
    return largest[:, 0, 0] * ((x / largest) ** p).mean((1, 2)) ** (1 / p)


def check_pooling(kind: str, kinds: tuple[str, ...] = POOLINGS) -> None:
  """Raises ValueError unless `kind` is one of `kinds`."""
  if kind not in kinds:
    raise ValueError(f"pooling: expected one of {', '.join(kinds)}; got {kind!r}")
