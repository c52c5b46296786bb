"""A small ConvNet for images of about 32x32 pixels that trains in minutes on two CPU cores."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxdml.models.base import Encoder, register
from jaxdml.models.layers import HE_INIT, Dtype
from jaxdml.types import Array


class StridedConv(nn.Module):
  """3x3 convolution with stride 2 and no bias, as nine strided slices and one matrix product.

  Equals `nn.Conv(features, (3, 3), strides=2, padding="SAME", use_bias=False)`, with a kernel of
  that name and layout [3, 3, c, features], for inputs with even sides. XLA's CPU convolution, its
  backward pass above all, is slower than a matrix product for images this small.
  """

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns [n, h/2, w/2, features] in `dtype`, of x [n, h, w, c]."""
    n, h, w, c = x.shape
    kernel = self.param("kernel", HE_INIT, (3, 3, c, self.features), jnp.float32)
    # "SAME" pads an even side at its end only.
    x = jnp.pad(x.astype(self.dtype), ((0, 0), (0, 1), (0, 1), (0, 0)))
    taps = [
      lax.slice(x, (0, row, column, 0), (n, row + h - 1, column + w - 1, c), (1, 2, 2, 1))
      for row in range(3)
      for column in range(3)
    ]
    columns = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * c)
    y = columns @ kernel.astype(self.dtype).reshape(9 * c, self.features)
    return y.reshape(n, h // 2, w // 2, self.features)


class ConvNet(Encoder):
  """Stride-2 3x3 convolutions with BatchNorm and ReLU, then a coarse grid of average pools.

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32, with
  feature_dim = grid^2 * widths[-1]. The last map is averaged within grid x grid cells (quadrants by
  default) and flattened, so some layout reaches the embedding: global pooling would hide the
  sub-clusters that easy positives (arXiv 2006.05162) keep apart.

  Sides have to be multiples of grid * 2^len(widths): 16 by default.

  >>> import jax
  >>> model = ConvNet(widths=(8, 16, 32))
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False)
  >>> model.apply(variables, jnp.zeros((2, 32, 32, 1)), train=False).shape, model.feature_dim
  ((2, 128), 128)
  """

  widths: Sequence[int] = (32, 64, 128)  # channels of each stride-2 block
  grid: int = 2  # cells along each side of the final pooling; 1 is global average pooling

  @property
  def feature_dim(self) -> int:
    """Size of the features."""
    return self.grid * self.grid * self.widths[-1]

  @property
  def sides(self) -> tuple[int, int]:
    """Smallest side of an image in pixels, and the number that sides are multiples of."""
    multiple = self.grid * 2 ** len(self.widths)
    return multiple, multiple

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output: the blocks."""
    return tuple(f"block{block}" for block in range(len(self.widths)))

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter or statistic at `path` in the encoder's tree."""
    return f"block{path[0].removeprefix('conv').removeprefix('bn')}"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    self.check_images(images)
    make_norm = self.make_norm()
    x = images.astype(self.dtype)
    for block, width in enumerate(self.widths):
      if block == 0:
        # So few input channels that a matrix product would be thin: here XLA's own is faster.
        conv = nn.Conv(
          width, (3, 3), 2, use_bias=False, dtype=self.dtype, kernel_init=HE_INIT, name="conv0"
        )
      else:
        conv = StridedConv(width, dtype=self.dtype, name=f"conv{block}")
      x = nn.relu(make_norm(name=f"bn{block}")(conv(x), train))
    n, h, w, c = x.shape
    cells = x.astype(jnp.float32).reshape(
      n, self.grid, h // self.grid, self.grid, w // self.grid, c
    )
    return cells.mean((2, 4)).reshape(n, self.feature_dim)


register("convnet", ConvNet)
