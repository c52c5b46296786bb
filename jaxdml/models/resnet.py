"""Residual networks (arXiv 1512.03385) in their v1.5 form, without the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdml.models.blocks import HE_INIT, BatchNorm, Dtype, check_images, max_pool, remat
from jaxdml.models.pointwise import Conv
from jaxdml.models.pooling import Pooling
from jaxdml.types import Array


def _conv(width: int, size: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
  """A convolution padded by size // 2 on EVERY side: "SAME" differs from that at stride 2."""
  pad = (size // 2, size // 2)
  return Conv(
    width,
    (size, size),
    stride,
    padding=(pad, pad),
    use_bias=False,
    dtype=dtype,
    kernel_init=HE_INIT,
    name=name,
  )


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, [n, h, w, c] -> [n, h/stride, w/stride, width].

  Attributes:
    width: channels.
    stride: of the first convolution.
    norm: makes a BatchNorm.
    last_scale_init: initializer of the last BatchNorm's scale.
    dtype: of the computation.
  """

  width: int
  stride: int
  norm: Any
  last_scale_init: Any
  dtype: Dtype = jnp.float32
  expansion: int = 1

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns the block's output."""
    y = _conv(self.width, 3, self.stride, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y, train))
    y = _conv(self.width, 3, 1, self.dtype, "conv2")(y)
    y = self.norm(name="bn2", scale_init=self.last_scale_init)(y, train)
    return nn.relu(y + _shortcut(self, x, train))


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride: v1.5), 1x1 and a shortcut; the output has 4 * width channels.

  Attributes:
    width: channels of the two inner convolutions.
    stride: of the 3x3 convolution.
    norm: makes a BatchNorm.
    last_scale_init: initializer of the last BatchNorm's scale.
    dtype: of the computation.
  """

  width: int
  stride: int
  norm: Any
  last_scale_init: Any
  dtype: Dtype = jnp.float32
  expansion: int = 4

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns the block's output."""
    y = _conv(self.width, 1, 1, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y, train))
    y = _conv(self.width, 3, self.stride, self.dtype, "conv2")(y)
    y = nn.relu(self.norm(name="bn2")(y, train))
    y = _conv(self.width * self.expansion, 1, 1, self.dtype, "conv3")(y)
    y = self.norm(name="bn3", scale_init=self.last_scale_init)(y, train)
    return nn.relu(y + _shortcut(self, x, train))


def _shortcut(block: BasicBlock | Bottleneck, x: Array, train: bool) -> Array:
  """The identity, or a strided 1x1 projection where the shape changes (option B of the paper)."""
  width = block.width * block.expansion
  if block.stride == 1 and x.shape[-1] == width:
    return x
  x = _conv(width, 1, block.stride, block.dtype, "downsample_conv")(x)
  return block.norm(name="downsample_bn")(x, train)


class ResNet(nn.Module):
  """A residual network v1.5: images to globally pooled features (arXiv 1512.03385).

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32; sides of at least 32. In v1.5
  the 3x3 convolution carries a bottleneck's stride, not the 1x1 before it. Padding is symmetric, as
  in the implementations that published weights come from.

  Attributes:
    stage_sizes: blocks in each stage.
    block: `BasicBlock` or `Bottleneck`.
    width: channels of the stem and of the first stage.
    axis_name: mapped axis over which BatchNorm's statistics are synchronised.
    frozen_bn: BatchNorm uses its running statistics in training too, and never moves them.
    frozen_bn_affine: with it, its scale and bias get no gradient either.
    zero_init_residual: start every residual branch at zero (the last scale of each block is 0).
    dtype: of the computation; parameters, statistics and features stay float32.
    momentum: share of the old running statistics that an update keeps.
    pooling: of the last map, one of `pooling.POOLINGS`; "none" returns it, [n, h/32, w/32, c].
    remat: gradient checkpointing of every block.
  """

  stage_sizes: Sequence[int] = (3, 4, 6, 3)
  block: Any = Bottleneck
  width: int = 64
  axis_name: Any = None
  frozen_bn: bool = False
  frozen_bn_affine: bool = False
  zero_init_residual: bool = False
  dtype: Dtype = jnp.float32
  momentum: float = 0.9
  pooling: str = "avg"
  remat: bool = False

  @property
  def feature_dim(self) -> int:
    """Size of the features: 2048 for ResNet-50, 512 for ResNet-18."""
    return self.width * 2 ** (len(self.stage_sizes) - 1) * self.block.expansion

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output; GeM's exponent is one of its own."""
    layers = (f"layer{stage + 1}" for stage in range(len(self.stage_sizes)))
    return ("stem", *layers, *(("pool",) if self.pooling == "gem" else ()))

  def stage_of(self, path: Sequence[str]) -> str:
    """The stage of the parameter or statistic at `path` in the encoder's tree."""
    return "stem" if path[0] in ("conv1", "bn1") else path[0].partition("_")[0]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    check_images(images, 32)
    norm = partial(
      BatchNorm,
      axis_name=self.axis_name,
      frozen=self.frozen_bn,
      frozen_affine=self.frozen_bn_affine,
      momentum=self.momentum,
      dtype=self.dtype,
    )
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    x = _conv(self.width, 7, 2, self.dtype, "conv1")(images.astype(self.dtype))
    x = nn.relu(norm(name="bn1")(x, train))
    x = max_pool(x, 3, 2, (1, 1))
    block = remat(self.block, self.remat)
    for stage, blocks in enumerate(self.stage_sizes):
      for index in range(blocks):
        x = block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and index == 0 else 1,
          norm=norm,
          last_scale_init=zeros if self.zero_init_residual else ones,
          dtype=self.dtype,
          name=f"layer{stage + 1}_{index}",
        )(x, train)
    return Pooling(self.pooling, name="pool")(x)


ResNet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
"""ResNet-18: features of 512, 11,176,512 parameters."""

ResNet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
"""ResNet-50 v1.5: features of 2048, 23,508,032 parameters."""
