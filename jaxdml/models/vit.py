"""Vision transformers (arXiv 2010.11929) as DeiT, DINO and DINOv2 have them, no classifier."""

import re
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdml.models.base import Encoder, Preprocessing, Published, register, torch_leaf
from jaxdml.models.layers import Dtype, Pooling, check_pooling, remat
from jaxdml.types import Array

POOLINGS = ("token", "avg", "max", "avg+max", "none")
"""Class token, or what `layers.Pooling` makes of the patches. "gem" is not among them: it is for
features that are not negative, and these come from a layer normalisation."""

_INIT = nn.initializers.truncated_normal(0.02)
# The variance in two passes, in float32 whatever the encoder computes in.
_Norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False)


class Block(nn.Module):
  """Pre-norm self-attention and MLP of width `hidden`, each added to its input [n, tokens, width].

  Normalisation and softmax are float32; the fields are those of `ViT`.
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


class ViT(Encoder):
  """A vision transformer: images to the normalised class token, or pooled patches.

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32, with sides that are multiples of
  `patch`. The position embedding, trained for `grid` x `grid` patches, is interpolated to any other
  number of them: bicubic (a = -0.5) with antialiasing, as timm does. DINO's and DINOv2's own code
  takes a = -0.75 without antialiasing and scales by (side + 0.1) / grid, so at other sizes than
  the trained one its features differ a little from these. There is no dropout of any kind.
  Normalisation and softmax are float32 whatever `dtype`.
  """

  width: int = 384  # of the tokens, and size of the features
  depth: int = 12  # blocks
  heads: int = 6  # of each attention
  patch: int = 16  # side of a patch in pixels
  grid: int = 14  # patches along each side for which the position embedding was trained
  layer_scale: float | None = None  # where LayerScale's factors start (DINOv2: 1e-5); None for none
  # Extra tokens without a position (arXiv 2309.16588; "DINOv2 with registers": 4).
  registers: int = 0
  # One of `POOLINGS`; "none" returns the patches, [n, h/patch, w/patch, feature_dim].
  pooling: str = "token"
  remat: bool = False  # gradient checkpointing of every block

  @property
  def feature_dim(self) -> int:
    """Size of the features: 384 for ViT-S, 768 for ViT-B."""
    return self.width

  @property
  def sides(self) -> tuple[int, int]:
    """Smallest side of an image in pixels, and the number that sides are multiples of."""
    return self.patch, self.patch

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output."""
    return ("patch_embed", *(f"block{block}" for block in range(self.depth)), "norm")

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter at `path` in the encoder's tree."""
    return path[0] if path[0] in self.stages else "patch_embed"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]; `train` changes nothing."""
    check_pooling(self.pooling, POOLINGS)
    self.check_images(images)
    n, rows, columns = images.shape[0], *(side // self.patch for side in images.shape[1:3])
    x = self._patches(images.astype(self.dtype))
    x = self._with_tokens(x, rows, columns)
    block = remat(Block, self.remat)
    for index in range(self.depth):
      layer = block(self.heads, 4 * self.width, self.layer_scale, self.dtype, name=f"block{index}")
      x = layer(x, train)
    x = _Norm(name="norm")(x)
    if self.pooling == "token":
      return x[:, 0]
    x = x[:, 1 + self.registers :].reshape(n, rows, columns, self.width)
    return Pooling(self.pooling, name="pool")(x)

  def _patches(self, images: Array) -> Array:
    """[n, rows * columns, width]"""
    conv = nn.Conv(self.width, (self.patch, self.patch), self.patch, padding="VALID",
                   dtype=self.dtype, kernel_init=_INIT, name="patch_embed")  # fmt: skip
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
  """Returns positions [1, grid^2, c] of a square grid, interpolated to [1, rows * columns, c]."""
  if (rows, columns) == (grid, grid):
    return positions
  c = positions.shape[-1]
  square = positions.reshape(1, grid, grid, c)
  return jax.image.resize(square, (1, rows, columns, c), "cubic").reshape(1, rows * columns, c)


_PARTS = {
  "patch_embed": "patch_embed.proj", "qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}  # fmt: skip
_LEAVES = {
  "class_token": "cls_token", "position_embedding": "pos_embed",
  "register_tokens": "register_tokens", "ls1": "ls1.gamma", "ls2": "ls2.gamma",
}  # fmt: skip


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "block3", "fc1", "kernel") -> "blocks.3.mlp.fc1.weight"."""
  modules = [re.sub(r"^block(\d+)$", r"blocks.\1", _PARTS.get(m, m)) for m in path[1:-1]]
  return ".".join((*modules, _LEAVES.get(path[-1]) or torch_leaf(path[-1])))


def _published(file: str) -> Published:
  """Weights of timm, DeiT, DINO or DINOv2: one and the same names up to the head."""
  return Published(
    file=file,
    name_of=_name_of,
    classifier=("head.weight", "head.bias"),
    preprocessing=Preprocessing(interpolation="bicubic"),
    ignore="mask_token",  # DINOv2's, for training alone
  )


def _deit(size: str, dino: str) -> Published:
  return _published(
    f"DeiT's deit_{size}_patch16_224-*.pth, DINO's {dino}_pretrain.pth, or timm's "
    f"deit_{size}_patch16_224, model.safetensors (timm's vit_{size}_patch16_224.augreg_* took "
    "data.normalize=half)"
  )


ViTS16 = register("vit_s16", partial(ViT, width=384, heads=6), _deit("small", "dino_deitsmall16"))
"""ViT-S/16: DeiT's, and DINO's small one; 21,665,664 parameters."""

ViTB16 = register("vit_b16", partial(ViT, width=768, heads=12), _deit("base", "dino_vitbase16"))
"""ViT-B/16: DeiT's, and DINO's base one; 85,798,656 parameters."""

DinoV2S14 = register(
  "dinov2_s14",
  partial(ViT, width=384, heads=6, patch=14, grid=37, layer_scale=1e-5),
  _published(
    "DINOv2's dinov2_vits14_pretrain.pth (without registers), or timm's "
    "vit_small_patch14_dinov2.lvd142m, model.safetensors"
  ),
)
"""DINOv2's ViT-S/14, trained at 518 pixels: 22,056,192 parameters (arXiv 2304.07193)."""
