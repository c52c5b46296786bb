"""Vision transformers (arXiv 2010.11929) as DeiT, DINO and DINOv2 have them, no classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdml.models.blocks import Dtype, check_images, remat
from jaxdml.models.pooling import Pooling, check_pooling
from jaxdml.types import Array

POOLINGS = ("token", "avg", "max", "avg+max", "none")
"""The class token, or what `pooling.Pooling` makes of the patches. "gem" is not among them: it is
for features that are not negative, and these come from a layer normalisation."""

_INIT = nn.initializers.truncated_normal(0.02)
# The variance in two passes, in float32 whatever the encoder computes in.
_Norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False)


class Block(nn.Module):
  """Pre-norm self-attention and MLP, each added to its input; x [n, tokens, width].

  Attributes:
    heads: of the attention.
    hidden: width of the MLP's hidden layer.
    layer_scale: where the factors on both branches start; None for no factors.
    dtype: of the computation; normalisation and softmax are float32.
  """

  heads: int
  hidden: int
  layer_scale: float | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns x after the block, in its own shape; `train` changes nothing."""
    del train
    dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
    n, tokens, width = x.shape
    y = _Norm(name="norm1")(x).astype(self.dtype)
    y = dense(3 * width, name="qkv")(y).reshape(n, tokens, 3, self.heads, width // self.heads)
    y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
    y = dense(width, name="proj")(y.reshape(n, tokens, width))
    x = x + self._scaled("ls1", y)
    y = _Norm(name="norm2")(x).astype(self.dtype)
    y = nn.gelu(dense(self.hidden, name="fc1")(y), approximate=False)
    return x + self._scaled("ls2", dense(width, name="fc2")(y))

  def _scaled(self, name: str, y: Array) -> Array:
    """LayerScale (arXiv 2103.17239)."""
    if self.layer_scale is None:
      return y
    init = nn.initializers.constant(self.layer_scale)
    return y * self.param(name, init, (y.shape[-1],), jnp.float32).astype(self.dtype)


class ViT(nn.Module):
  """A vision transformer: images to the normalised class token, or pooled patches.

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32, with sides that are multiples of
  `patch`. The position embedding, trained for `grid` x `grid` patches, is interpolated to any other
  number of them: bicubic (a = -0.5) with antialiasing, as timm does. DINO's and DINOv2's own code
  takes a = -0.75 without antialiasing and scales by (side + 0.1) / grid, so at other sizes than
  the trained one its features differ a little from these. There is no dropout of any kind.

  Attributes:
    width: of the tokens, and size of the features.
    depth: blocks.
    heads: of each attention.
    patch: side of a patch in pixels.
    grid: patches along each side for which the position embedding was trained.
    layer_scale: where LayerScale's factors start (DINOv2: 1e-5); None for none.
    registers: extra tokens without a position (arXiv 2309.16588; "DINOv2 with registers": 4).
    axis_name: unused, as the next three: there is no BatchNorm. Every encoder takes them.
    frozen_bn: unused.
    frozen_bn_affine: unused.
    momentum: unused.
    dtype: of the computation; parameters, normalisation, softmax and features stay float32.
    pooling: one of `POOLINGS`; "none" returns the patches, [n, h/patch, w/patch, feature_dim].
    remat: gradient checkpointing of every block.
  """

  width: int = 384
  depth: int = 12
  heads: int = 6
  patch: int = 16
  grid: int = 14
  layer_scale: float | None = None
  registers: int = 0
  axis_name: Any = None
  frozen_bn: bool = False
  frozen_bn_affine: bool = False
  momentum: float = 0.9
  dtype: Dtype = jnp.float32
  pooling: str = "token"
  remat: bool = False

  @property
  def feature_dim(self) -> int:
    """Size of the features: 384 for ViT-S, 768 for ViT-B."""
    return self.width

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output."""
    return ("patch_embed", *(f"block{block}" for block in range(self.depth)), "norm")

  def stage_of(self, path: Sequence[str]) -> str:
    """The stage of the parameter at `path` in the encoder's tree."""
    return path[0] if path[0] in self.stages else "patch_embed"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]; `train` changes nothing."""
    check_pooling(self.pooling, POOLINGS)
    check_images(images, self.patch, self.patch)
    n, rows, columns = images.shape[0], *(side // self.patch for side in images.shape[1:3])
    x = self._patches(images.astype(self.dtype))
    x = self._with_tokens(x, rows, columns)
    block = remat(Block, self.remat)
    for index in range(self.depth):
      x = block(self.heads, 4 * self.width, self.layer_scale, self.dtype, name=f"block{index}")(
        x, train
      )
    x = _Norm(name="norm")(x)
    if self.pooling == "token":
      return x[:, 0]
    x = x[:, 1 + self.registers :].reshape(n, rows, columns, self.width)
    return Pooling(self.pooling, name="pool")(x)

  def _patches(self, images: Array) -> Array:
    """[n, rows * columns, width]"""
    conv = nn.Conv(
      self.width,
      (self.patch, self.patch),
      self.patch,
      padding="VALID",
      dtype=self.dtype,
      kernel_init=_INIT,
      name="patch_embed",
    )
    return conv(images).reshape(images.shape[0], -1, self.width)

  def _with_tokens(self, x: Array, rows: int, columns: int) -> Array:
    """Positions added to the patches x, class token and registers put before them."""
    token = self.param("class_token", _INIT, (1, 1, self.width), jnp.float32)
    shape = (1, 1 + self.grid**2, self.width)
    positions = self.param("position_embedding", _INIT, shape, jnp.float32)
    first = [token + positions[:, :1]]
    if self.registers:
      shape = (1, self.registers, self.width)
      first.append(self.param("register_tokens", _INIT, shape, jnp.float32))
    x = x + resize_positions(positions[:, 1:], self.grid, rows, columns).astype(self.dtype)
    tokens = jnp.concatenate(first, axis=1).astype(self.dtype)
    tokens = jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:]))
    return jnp.concatenate([tokens, x], axis=1)


def resize_positions(positions: Array, grid: int, rows: int, columns: int) -> Array:
  """Interpolates positions [1, grid^2, c] of a square grid to [1, rows * columns, c].

  Bicubic, a = -0.5, with antialiasing where the grid shrinks.
  """
  if (rows, columns) == (grid, grid):
    return positions
  c = positions.shape[-1]
  square = positions.reshape(1, grid, grid, c)
  return jax.image.resize(square, (1, rows, columns, c), "cubic").reshape(1, rows * columns, c)


ViTS16 = partial(ViT, width=384, heads=6)
"""ViT-S/16: DeiT's, and DINO's small one; 21,665,664 parameters."""

ViTB16 = partial(ViT, width=768, heads=12)
"""ViT-B/16: DeiT's, and DINO's base one; 85,798,656 parameters."""

DinoV2S14 = partial(ViT, width=384, heads=6, patch=14, grid=37, layer_scale=1e-5)
"""DINOv2's ViT-S/14, trained at 518 pixels: 22,056,192 parameters (arXiv 2304.07193)."""
