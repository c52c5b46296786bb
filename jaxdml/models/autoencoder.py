"""HDML's autoencoder around the metric space: Embedding y -> z, Generator z -> y', SoftmaxHead.

Hardness-Aware Deep Metric Learning, arXiv 1903.05503. Layer order, initialisation and BatchNorm's
epsilon are those of the authors' release, read in its source; its momentum is 0.99.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxdml.models.layers import BatchNorm, Dtype
from jaxdml.types import Array

EMBEDDING_NORMS = ("batch", "layer", "none")
"""Normalisations of features before the dense layer of `Embedding`."""

GLOROT_INIT = nn.initializers.glorot_uniform()


class Embedding(nn.Module):
  """Features to embedding: BatchNorm, then a dense layer (arXiv 1903.05503).

  z = BN(y) W + b, [..., feature_dim] -> [..., dim] float32. With `hidden` layers y is first
  relu(y V + c) of each. By default z is NOT normalised: HDML
  trains on plain Euclidean distances and dot products; evaluation normalises on its own.

  HDML sends SYNTHETIC features through the same BatchNorm and weights. The caller decides what
  normalises them: with `train=True` their own batch's statistics, which move the running ones only
  with `mutable=["batch_stats"]`, as in the authors' release; with `train=False`, and the real
  batch's mean and variance (`layers.batch_statistics`) in place of the running ones, those.

  Attributes (`axis_name`, `frozen_bn`, `frozen_bn_affine`, `momentum`: as an encoder's):
    dim: size of the embedding.
    norm: of the features: "batch"; "layer" (LayerNorm, arXiv 1607.06450), whose result does not
      depend on the batch; "none", a plain dense layer.
    unit_norm: divide z by its Euclidean norm; a zero stays zero, with a zero gradient.
    dtype: of the computation; parameters and output stay float32.
    kernel_scale: factor on the initial W. Dot-product losses from scratch want a small one: N-pair
      loss begins at about 25 instead of log(classes) with embeddings of norm sqrt(dim).
    epsilon: BatchNorm's.
    hidden: widths of layers with a ReLU before it all.

  >>> import jax
  >>> model = Embedding(dim=8, kernel_scale=0.1)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32)), train=False)
  >>> z, updates = model.apply(variables, jnp.ones((4, 32)), train=True, mutable=["batch_stats"])
  >>> z.shape, sorted(updates)
  ((4, 8), ['batch_stats'])
  """

  dim: int
  axis_name: Any = None
  frozen_bn: bool = False
  frozen_bn_affine: bool = False
  norm: str = "batch"
  unit_norm: bool = False
  dtype: Dtype = jnp.float32
  kernel_scale: float = 1.0
  momentum: float = 0.9
  epsilon: float = 1e-3
  hidden: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, y: Array, train: bool) -> Array:
    """Returns z [..., dim] float32 of y [..., feature_dim]; ValueError for an unknown `norm`."""
    if self.norm not in EMBEDDING_NORMS:
      raise ValueError(f"norm: expected one of {', '.join(EMBEDDING_NORMS)}; got {self.norm!r}")
    for index, width in enumerate(self.hidden):
      y = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"hidden{index}")(y))
    if self.norm == "batch":
      y = BatchNorm(
        self.axis_name, self.frozen_bn, self.frozen_bn_affine, self.momentum, self.epsilon,
        self.dtype, name="bn",
      )(y, train)  # fmt: skip
    elif self.norm == "layer":
      # In float32, whatever `dtype`: bfloat16 has 8 bits for a mean of a thousand features.
      y = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="ln")(y.astype(jnp.float32))
    z = nn.Dense(self.dim, dtype=self.dtype, kernel_init=self._scaled_init, name="fc")(y)
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    if not self.unit_norm:
      return z
    square = jnp.square(z).sum(-1, keepdims=True)
    some = square > 0
    return jnp.where(some, z * lax.rsqrt(jnp.where(some, square, 1.0)), 0.0)

  def _scaled_init(self, key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    return self.kernel_scale * GLOROT_INIT(key, shape, dtype)


class Generator(nn.Module):
  """Embedding back to features: dense, ReLU, BatchNorm, dense (arXiv 1903.05503).

  y' = BN(relu(z W1 + b1)) W2 + b2, [..., dim] -> [..., feature_dim] float32. BatchNorm comes AFTER
  the ReLU, as in `fc_block` of the authors' release and in the paper's order of layers. Fields are
  those of `Embedding`, and `hidden`, the width of the hidden layer.
  """

  feature_dim: int
  hidden: int = 512
  axis_name: Any = None
  dtype: Dtype = jnp.float32
  momentum: float = 0.9
  epsilon: float = 1e-3

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    """Returns y' [..., feature_dim] float32 of embeddings z [..., dim]."""
    y = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=GLOROT_INIT, name="fc1")(z)
    norm = BatchNorm(self.axis_name, momentum=self.momentum, epsilon=self.epsilon,
                     dtype=self.dtype, name="bn")  # fmt: skip
    y = norm(nn.relu(y), train)
    y = nn.Dense(self.feature_dim, dtype=self.dtype, kernel_init=GLOROT_INIT, name="fc2")(y)
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))


class SoftmaxHead(nn.Module):
  """A dense layer of class logits: features y [..., feature_dim] -> [..., num_classes] float32.

  HDML trains it on real features alone and asks it to recognise the class of synthetic ones
  (J_soft, arXiv 1903.05503). `dtype` is that of the computation; all else is float32.
  """

  num_classes: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, y: Array) -> Array:
    """Returns the logits of features y."""
    logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=GLOROT_INIT, name="fc")(y)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
