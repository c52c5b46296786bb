"""Layers that encoders share: BatchNorm with three modes, pooling, gradient checkpointing."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxdml.types import Array

Dtype = Any
HE_INIT = nn.initializers.he_normal()
"""He initialisation (arXiv 1502.01852): variance 2 / fan-in, for convolutions before a ReLU."""


class BatchNorm(nn.Module):
  """Batch normalisation over every axis but the last (arXiv 1502.03167).

  y = scale * (x - mean) / sqrt(var + epsilon) + bias, the statistics in at least float32 whatever
  `dtype`, the variance in two passes (subtracting the mean first, so that it never cancels).
  Parameters and `batch_stats` are named as in `flax.linen.BatchNorm`.

  `train` chooses the statistics of this batch. The running ones only ever move in training and
  where the caller passes `mutable=["batch_stats"]`.

  Attributes:
    axis_name: mapped axis (or axes) over which the statistics are averaged, so that N devices with
      batch B/N each compute what one device computes with B; None keeps them local.
    frozen: use the running statistics in training too, and never move them.
    frozen_affine: stop the gradient of scale and bias as well.
    momentum: share of the old running value that an update keeps.
    epsilon: added to the variance.
    dtype: of the output.
    scale_init: initializer of scale.
  """

  axis_name: Any = None
  frozen: bool = False
  frozen_affine: bool = False
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32
  scale_init: Any = nn.initializers.ones_init()

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns x [..., c] normalised, in its shape and in `dtype`."""
    features = (x.shape[-1],)
    scale = self.param("scale", self.scale_init, features, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros_init(), features, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
    if self.frozen_affine:
      scale, bias = lax.stop_gradient(scale), lax.stop_gradient(bias)

    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if train and not self.frozen:
      # No axis is bound while the module initialises, outside the mapped step.
      mean, var = batch_statistics(x, None if self.is_initializing() else self.axis_name)
      if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * lax.stop_gradient(mean)
        running_var.value = keep * running_var.value + (1 - keep) * lax.stop_gradient(var)
    else:
      mean, var = running_mean.value, running_var.value
    y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
    return y.astype(self.dtype)


def batch_statistics(x: Array, axis_name: Any = None) -> tuple[Array, Array]:
  """Returns mean and variance [c] of x [..., c] over all axes but the last, as `BatchNorm` does.

  In at least float32; the mean is subtracted before squaring, so that nothing cancels.
  """
  axes = tuple(range(x.ndim - 1))
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  over_devices = lambda s: s if axis_name is None else lax.pmean(s, axis_name)
  mean = over_devices(x.mean(axes))
  return mean, over_devices(jnp.square(x - mean).mean(axes))


def layer_norm(of: Dtype, epsilon: float, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm in float32 of x of dtype `of`.

  The variance of float32 is taken in a second pass, as its mean of squares would cancel where the
  mean is large. Squares of bfloat16 are exact in float32, and where their sum cancels, x's own
  rounding has hidden the variance already: one pass then does, and an H100's step of a ViT-S/16
  moves 3.6 % less memory (docs/accelerators.md).
  """
  once = jnp.dtype(of) == jnp.bfloat16
  return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=once, name=name)


def remat(block: type[nn.Module], enabled: bool) -> type[nn.Module]:
  """Returns the module class `block`, called as block(...)(x, train), with gradient checkpointing.

  Its activations are computed again in the backward pass instead of being kept: the same values and
  gradients, less memory, one more forward pass.
  """
  return nn.remat(block, static_argnums=(2,)) if enabled else block


def max_pool(x: Array, window: int, stride: int, padding: tuple[int, int]) -> Array:
  """Returns the square max pooling of x [n, h, w, c]; (low, high) pads rows and columns alike."""
  return nn.max_pool(x, (window, window), (stride, stride), (padding, padding))


def max_pool_ceil(x: Array, window: int = 3) -> Array:
  """Returns the max pooling with stride 2 that counts a last partial window, as Caffe does.

  A side of n becomes ceil((n - window) / 2) + 1.

  >>> max_pool_ceil(jnp.zeros((1, 28, 57, 8))).shape
  (1, 14, 28, 8)
  """
  pads = [(0, (-(-(side - window) // 2)) * 2 + window - side) for side in x.shape[1:3]]
  return nn.max_pool(x, (window, window), (2, 2), pads)


POOLINGS = ("avg", "max", "avg+max", "gem", "none")
"""Kinds of `Pooling`."""


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
    """Returns features [n, c] float32 of x [n, h, w, c], or x itself as float32."""
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
    p = self.param("p", nn.initializers.constant(3.0), (), jnp.float32)
    x = jnp.maximum(x, self.epsilon)
    # Relative to the largest: neither x^p nor its mean leaves float32's range, whatever p becomes.
    largest = lax.stop_gradient(x.max((1, 2), keepdims=True))
    return largest[:, 0, 0] * ((x / largest) ** p).mean((1, 2)) ** (1 / p)


def check_pooling(kind: str, kinds: tuple[str, ...] = POOLINGS) -> None:
  """Raises ValueError unless `kind` is one of `kinds`."""
  if kind not in kinds:
    raise ValueError(f"pooling: expected one of {', '.join(kinds)}; got {kind!r}")


def count_parameters(params: Any) -> int:
  """Returns the number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`.

  >>> count_parameters({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
  16
  """
  return sum(leaf.size for leaf in jax.tree.leaves(params))
