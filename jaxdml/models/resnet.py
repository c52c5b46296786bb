"""Residual networks (arXiv 1512.03385) in their v1.5 form, without the classifier."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdml.models.base import Encoder, Published, register, torch_leaf
from jaxdml.models.convolutions import conv
from jaxdml.models.layers import Dtype, Pooling, max_pool, remat
from jaxdml.types import Array


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, [n, h, w, c] -> [n, h/stride, w/stride, width].

  `stride` is that of the first convolution, `norm` makes a BatchNorm.
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
    y = conv(self.width, 3, self.stride, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y, train))
    y = conv(self.width, 3, 1, self.dtype, "conv2")(y)
    y = self.norm(name="bn2", scale_init=self.last_scale_init)(y, train)
    return nn.relu(y + _shortcut(self, x, train))


class Bottleneck(BasicBlock):
  """1x1, 3x3 (with the stride: v1.5), 1x1 and a shortcut; the output has 4 * width channels."""

  expansion: int = 4

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns the block's output."""
    y = conv(self.width, 1, 1, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y, train))
    y = conv(self.width, 3, self.stride, self.dtype, "conv2")(y)
    y = nn.relu(self.norm(name="bn2")(y, train))
    y = conv(self.width * self.expansion, 1, 1, self.dtype, "conv3")(y)
    y = self.norm(name="bn3", scale_init=self.last_scale_init)(y, train)
    return nn.relu(y + _shortcut(self, x, train))


def _shortcut(block: BasicBlock, x: Array, train: bool) -> Array:
  """The identity, or a strided 1x1 projection where the shape changes (option B of the paper)."""
  width = block.width * block.expansion
  if block.stride == 1 and x.shape[-1] == width:
    return x
  x = conv(width, 1, block.stride, block.dtype, "downsample_conv")(x)
  return block.norm(name="downsample_bn")(x, train)


class ResNet(Encoder):
  """A residual network v1.5: images to globally pooled features (arXiv 1512.03385).

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32; sides of at least 32. In v1.5
  the 3x3 convolution carries a bottleneck's stride, not the 1x1 before it. Padding is symmetric, as
  in the implementations that published weights come from.
  """

  stage_sizes: Sequence[int] = (3, 4, 6, 3)  # blocks in each stage
  block: Any = Bottleneck  # `BasicBlock` or `Bottleneck`
  width: int = 64  # channels of the stem and of the first stage
  # Start every residual branch at zero (the last scale of each block is 0).
  zero_init_residual: bool = False
  # Of the last map, one of `layers.POOLINGS`; "none" returns it, [n, h/32, w/32, c].
  pooling: str = "avg"
  remat: bool = False  # gradient checkpointing of every block

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
    """Returns the stage of the parameter or statistic at `path` in the encoder's tree."""
    return "stem" if path[0] in ("conv1", "bn1") else path[0].partition("_")[0]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    self.check_images(images)
    norm = self.make_norm()
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    x = conv(self.width, 7, 2, self.dtype, "conv1")(images.astype(self.dtype))
    x = nn.relu(norm(name="bn1")(x, train))
    x = max_pool(x, 3, 2, (1, 1))
    block = remat(self.block, self.remat)
    for stage, blocks in enumerate(self.stage_sizes):
      for index in range(blocks):
        stride = 2 if stage > 0 and index == 0 else 1
        last_scale = zeros if self.zero_init_residual else ones
        x = block(self.width * 2**stage, stride, norm, last_scale, self.dtype,
                  name=f"layer{stage + 1}_{index}")(x, train)  # fmt: skip
    return Pooling(self.pooling, name="pool")(x)


_PARTS = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "layer1_0", "downsample_bn", "scale") -> "layer1.0.downsample.1.weight"."""
  modules = (re.sub(r"^(layer\d+)_", r"\1.", _PARTS.get(m, m)) for m in path[1:-1])
  return ".".join((*modules, torch_leaf(path[-1])))


def _published(name: str) -> Published:
  """Weights of torchvision or timm: one and the same names."""
  return Published(
    file=f"torchvision's {name}, {name}-*.pth, or timm's {name}, model.safetensors",
    name_of=_name_of,
    classifier=("fc.weight", "fc.bias"),
    fits=lambda state: "layer1.0.bn1.weight" in state,
    hub=f"timm/{name}.a1_in1k",
  )


ResNet18 = register(
  "resnet18", partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock), _published("resnet18")
)
"""ResNet-18: features of 512, 11,176,512 parameters."""

ResNet50 = register(
  "resnet50", partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck), _published("resnet50")
)
"""ResNet-50 v1.5: features of 2048, 23,508,032 parameters."""
