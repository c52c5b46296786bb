"""BN-Inception, "Inception v2" (arXiv 1502.03167): an encoder that metric learning often uses."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdml.models.base import Published, State, caffe, register, torch_leaf
from jaxdml.models.googlenet import ConvUnit, InceptionNet
from jaxdml.models.layers import Pooling, max_pool, max_pool_ceil, remat
from jaxdml.types import Array


class Widths(NamedTuple):
  """Channels of a block's branches; the block halves the map if `single` and `projection` are 0."""

  single: int  # 1x1
  reduce3: int  # 1x1 before the 3x3
  out3: int  # 3x3
  reduce_double: int  # 1x1 before the two 3x3
  double: int  # both 3x3 in a row
  projection: int  # 1x1 after the pooling
  pool: str = "avg"  # or "max"


BLOCKS = {
  "3a": Widths(64, 64, 64, 64, 96, 32),
  "3b": Widths(64, 64, 96, 64, 96, 64),
  "3c": Widths(0, 128, 160, 64, 96, 0, "max"),
  "4a": Widths(224, 64, 96, 96, 128, 128),
  "4b": Widths(192, 96, 128, 96, 128, 128),
  "4c": Widths(160, 128, 160, 128, 160, 128),
  "4d": Widths(96, 128, 192, 160, 192, 128),
  "4e": Widths(0, 128, 192, 192, 256, 0, "max"),
  "5a": Widths(352, 192, 320, 160, 224, 128),
  "5b": Widths(352, 192, 320, 192, 224, 128, "max"),
}
"""The blocks of the Caffe model that published weights come from: the pooling projections of 4c and
4d are wider than in the paper's table."""


class Block(nn.Module):
  """Three or four branches, concatenated: 1x1, 3x3, two 3x3, pooling. `unit` makes a ConvUnit."""

  widths: Widths
  unit: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns [n, h, w, channels] of x [n, h, w, c]; half the sides, rounded up, if it reduces."""
    width = self.widths
    stride = 1 if width.single else 2
    run = lambda name, x, *args, **kwargs: self.unit(*args, name=name, **kwargs)(x, train)
    branches = []
    if width.single:
      branches.append(run("1x1", x, width.single, 1))
    y = run("3x3_reduce", x, width.reduce3, 1)
    branches.append(run("3x3", y, width.out3, 3, stride=stride))
    y = run("double_3x3_reduce", x, width.reduce_double, 1)
    y = run("double_3x3_1", y, width.double, 3)
    branches.append(run("double_3x3_2", y, width.double, 3, stride=stride))
    pooled = self._pool(x)
    branches.append(run("pool_proj", pooled, width.projection, 1) if width.projection else pooled)
    return jnp.concatenate(branches, axis=-1)

  def _pool(self, x: Array) -> Array:
    if not self.widths.single:
      # A last window of one row where the side is odd, so that it meets the convolutions' maps;
      # the Caffe model has no function there.
      pads = [(0, 1 + side % 2) for side in x.shape[1:3]]
      return nn.max_pool(x, (3, 3), (2, 2), pads)
    if self.widths.pool == "max":
      return max_pool(x, 3, 1, (1, 1))
    # The zeros of the border count.
    return nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))


class BNInception(InceptionNet):
  """BN-Inception without a classifier: images to globally pooled features [n, 1024].

  Images [n, h, w, c] float32 -> features [n, 1024] float32; sides of at least 32 (usually 224 or
  227). As in the Caffe model whose weights metric-learning papers start from, convolutions have
  biases besides BatchNorm, and pooling rounds up.
  """

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, 1024] float32 of images [n, h, w, c]."""
    self.check_images(images)
    norm = self.make_norm()
    unit = partial(ConvUnit, norm=norm, bias=True, dtype=self.dtype)
    block = remat(Block, self.remat)
    x = images.astype(self.dtype)
    x = max_pool_ceil(unit(64, 7, stride=2, name="conv1")(x, train))
    x = unit(64, 1, name="conv2_reduce")(x, train)
    x = max_pool_ceil(unit(192, 3, name="conv2")(x, train))
    for name, widths in BLOCKS.items():
      x = block(widths, unit, name=f"inception_{name}")(x, train)
    return Pooling(self.pooling, name="pool")(x)


_STEM = {"conv1": "conv1_7x7_s2", "conv2_reduce": "conv2_3x3_reduce", "conv2": "conv2_3x3"}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "1x1", "bn", "scale") -> "inception_3a_1x1_bn.weight"."""
  *blocks, unit, kind, leaf = path[1:]
  layer = "_".join((*blocks, unit)) if blocks else _STEM[unit]
  return f"{layer}{'_bn' if kind == 'bn' else ''}.{torch_leaf(leaf)}"


def _tidied(state: State) -> State:
  """The published file has BatchNorm's arrays as [1, n]; [n] is taken too."""
  return {
    name: array[0] if "_bn." in name and np.ndim(array) == 2 and len(array) == 1 else array
    for name, array in state.items()
  }


register(
  "bn_inception",
  BNInception,
  Published(
    file="pretrainedmodels' bninception, bn_inception-*.pth",
    name_of=_name_of,
    classifier=("last_linear.weight", "last_linear.bias"),
    preprocessing=caffe((104.0, 117.0, 128.0)),
    tidied=_tidied,
    fits=lambda state: "conv1_7x7_s2_bn.weight" in state,
  ),
)
