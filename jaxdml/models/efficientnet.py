"""EfficientNet-Lite0 (arXiv 1905.11946): made for phones, affordable on a CPU, no classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdml.models.blocks import HE_INIT, BatchNorm, Dtype, check_images, remat
from jaxdml.models.depthwise import DepthwiseConv
from jaxdml.models.pointwise import Conv
from jaxdml.models.pooling import Pooling
from jaxdml.types import Array


class Stage(NamedTuple):
  """Blocks in a row that work on maps of one size.

  Attributes:
    blocks: how many.
    size: side of the depthwise kernels.
    stride: of the first block.
    expand: how many times a block widens its input for the depthwise convolution.
    width: output channels.
  """

  blocks: int
  size: int
  stride: int
  expand: int
  width: int


LITE0 = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)
"""The stages of EfficientNet-B0 (table 1 of the paper) and of Lite0."""


def _conv(width: int, size: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
  """A convolution padded as TensorFlow does: "SAME", the larger half after the image."""
  return Conv(
    width,
    (size, size),
    stride,
    padding="SAME",
    use_bias=False,
    dtype=dtype,
    kernel_init=HE_INIT,
    name=name,
  )


class InvertedResidual(nn.Module):
  """1x1 to a wide map, depthwise, 1x1 to a narrow one; and the input where the shape stays.

  Attributes:
    stage: widths, kernel and stride.
    norm: makes a BatchNorm.
    dtype: of the computation.
  """

  stage: Stage
  norm: Any
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns [n, h/stride, w/stride, width] of x [n, h, w, c]."""
    _, size, stride, expand, width = self.stage
    y = x
    if expand != 1:
      y = _conv(x.shape[-1] * expand, 1, 1, self.dtype, "expand_conv")(y)
      y = nn.relu6(self.norm(name="expand_bn")(y, train))
    y = DepthwiseConv(size, stride, self.dtype, name="depthwise_conv")(y)
    y = nn.relu6(self.norm(name="depthwise_bn")(y, train))
    y = _conv(width, 1, 1, self.dtype, "project_conv")(y)
    y = self.norm(name="project_bn")(y, train)
    return y + x if y.shape == x.shape else y


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite: images to globally pooled features (arXiv 1905.11946).

  Images [n, h, w, c] float32 -> features [n, head_width] float32; sides of at least 32 (trained
  on 224). Lite has ReLU6 and no squeeze-and-excitation. Padding, BatchNorm's epsilon and its
  momentum are those of the TensorFlow original, from which the published weights were converted.
  There is neither dropout nor drop-connect.

  Attributes:
    layout: the stages.
    stem_width: channels of the first convolution.
    head_width: channels of the last 1x1 convolution, and size of the features.
    axis_name: mapped axis over which BatchNorm's statistics are synchronised.
    frozen_bn: BatchNorm uses its running statistics in training too, and never moves them.
    frozen_bn_affine: with it, its scale and bias get no gradient either.
    momentum: share of the old running statistics that an update keeps.
    dtype: of the computation; parameters, statistics and features stay float32.
    pooling: of the last map, one of `pooling.POOLINGS`; "none" returns it, [n, h/32, w/32, c].
    remat: gradient checkpointing of every block.
    epsilon: BatchNorm's.
  """

  layout: Sequence[Stage] = LITE0
  stem_width: int = 32
  head_width: int = 1280
  axis_name: Any = None
  frozen_bn: bool = False
  frozen_bn_affine: bool = False
  momentum: float = 0.99
  dtype: Dtype = jnp.float32
  pooling: str = "avg"
  remat: bool = False
  epsilon: float = 1e-3

  @property
  def feature_dim(self) -> int:
    """Size of the features."""
    return self.head_width

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output; GeM's exponent is one of its own."""
    middle = (f"stage{stage + 1}" for stage in range(len(self.layout)))
    return ("stem", *middle, "head", *(("pool",) if self.pooling == "gem" else ()))

  def stage_of(self, path: Sequence[str]) -> str:
    """The stage of the parameter or statistic at `path` in the encoder's tree."""
    return path[0].partition("_")[0]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, head_width] float32 of images [n, h, w, c]."""
    check_images(images, 32)
    norm = partial(
      BatchNorm,
      axis_name=self.axis_name,
      frozen=self.frozen_bn,
      frozen_affine=self.frozen_bn_affine,
      momentum=self.momentum,
      epsilon=self.epsilon,
      dtype=self.dtype,
    )
    block = remat(InvertedResidual, self.remat)
    x = _conv(self.stem_width, 3, 2, self.dtype, "stem_conv")(images.astype(self.dtype))
    x = nn.relu6(norm(name="stem_bn")(x, train))
    for number, stage in enumerate(self.layout):
      stage = Stage(*stage)
      for index in range(stage.blocks):
        this = stage._replace(stride=stage.stride if index == 0 else 1)
        x = block(this, norm, self.dtype, name=f"stage{number + 1}_{index}")(x, train)
    x = _conv(self.head_width, 1, 1, self.dtype, "head_conv")(x)
    x = nn.relu6(norm(name="head_bn")(x, train))
    return Pooling(self.pooling, name="pool")(x)
