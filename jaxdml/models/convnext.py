"""ConvNeXt (arXiv 2201.03545), V2 (arXiv 2301.00808) and DINOv3's (arXiv 2508.10104)."""

import functools
import re
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdml.models.base import Encoder, Preprocessing, Published, State, register, torch_leaf
from jaxdml.models.convolutions import DepthwiseConv
from jaxdml.models.layers import Dtype, Pooling, layer_norm, remat
from jaxdml.types import Array

_INIT = nn.initializers.truncated_normal(0.02)
_EPSILON = 1e-6
# Blocks with one learning rate under layer decay, as in the authors' fine-tuning.
_TOGETHER = 3


class ResponseNorm(nn.Module):
  """Global response normalisation (arXiv 2301.00808, section 3): channels compete.

  x + scale * x * g / (mean of g over channels + 1e-6) + bias, g [n, c] the L2 norm of each channel
  over the map. Parameters start at 0: the identity.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns x [n, h, w, c] normalised, in its dtype."""
    zeros, c = nn.initializers.zeros_init(), x.shape[-1]
    scale = self.param("scale", zeros, (c,), jnp.float32)
    bias = self.param("bias", zeros, (c,), jnp.float32)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.square(wide).sum((1, 2), keepdims=True)
    # GELU gives channels of zeros, where the root has no gradient.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    share = norm / (norm.mean(-1, keepdims=True) + 1e-6)
    return (wide + scale * (wide * share) + bias).astype(x.dtype)


class Block(nn.Module):
  """7x7 depthwise, LayerNorm, and an MLP at each position; added to the input [n, h, w, c]."""

  layer_scale: float | None  # where LayerScale's factors start; None for none
  response_norm: bool  # in the MLP
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns x after the block, in its own shape; `train` changes nothing."""
    del train
    width = x.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
    y = DepthwiseConv(7, 1, self.dtype, use_bias=True, kernel_init=_INIT, name="conv_dw")(x)
    y = layer_norm(self.dtype, _EPSILON, "norm")(y).astype(self.dtype)
    y = nn.gelu(dense(4 * width, name="fc1")(y), approximate=False)
    if self.response_norm:
      y = ResponseNorm(name="grn")(y)
    y = dense(width, name="fc2")(y)
    if self.layer_scale is not None:
      init = nn.initializers.constant(self.layer_scale)
      y = y * self.param("gamma", init, (width,), jnp.float32).astype(self.dtype)
    return x + y


class ConvNeXt(Encoder):
  """A ConvNeXt: images to pooled and then normalised features.

  Images [n, h, w, c] float32 -> features [n, widths[-1]] float32; sides of at least 32, of which
  what is over a multiple of 32 may be cut off by a convolution without padding. LayerNorms are
  float32 whatever `dtype`. There is no stochastic depth.
  """

  depths: Sequence[int] = (3, 3, 9, 3)  # blocks in each stage
  widths: Sequence[int] = (96, 192, 384, 768)  # channels of each stage
  layer_scale: float | None = 1e-6  # where LayerScale's factors start; None for none (V2)
  response_norm: bool = False  # V2's, in every block
  # Of the last map, one of `layers.POOLINGS`, before the last LayerNorm; "none" gives the
  # normalised map, [n, h/32, w/32, c].
  pooling: str = "avg"
  remat: bool = False  # gradient checkpointing of every block

  @property
  def feature_dim(self) -> int:
    """Size of the features."""
    return self.widths[-1]

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output: three blocks each, named after the first."""
    blocks = (
      f"stage{stage + 1}_{first}"
      for stage, depth in enumerate(self.depths)
      for first in range(0, depth, _TOGETHER)
    )
    return ("stem", *blocks, *(("pool",) if self.pooling == "gem" else ()), "norm")

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter at `path` in the encoder's tree."""
    stage, _, rest = path[0].partition("_")
    if not stage.startswith("stage"):
      return stage
    return f"{stage}_{int(rest) // _TOGETHER * _TOGETHER if rest.isdigit() else 0}"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, widths[-1]] float32 of images [n, h, w, c]."""
    self.check_images(images)
    conv = functools.partial(nn.Conv, padding="VALID", dtype=self.dtype, kernel_init=_INIT)
    block = remat(Block, self.remat)
    x = conv(self.widths[0], (4, 4), 4, name="stem_conv")(images.astype(self.dtype))
    x = layer_norm(self.dtype, _EPSILON, "stem_norm")(x).astype(self.dtype)
    for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
      if stage > 1:
        x = layer_norm(self.dtype, _EPSILON, f"stage{stage}_norm")(x).astype(self.dtype)
        x = conv(width, (2, 2), 2, name=f"stage{stage}_conv")(x)
      for index in range(depth):
        layer = block(
          self.layer_scale, self.response_norm, self.dtype, name=f"stage{stage}_{index}"
        )
        x = layer(x, train)
    return layer_norm(jnp.float32, _EPSILON, "norm")(Pooling(self.pooling, name="pool")(x))


_OUTER = {"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm"}
_INNER = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "grn": "mlp.grn"}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "stage2_0", "fc1", "kernel") -> "stages.1.blocks.0.mlp.fc1.weight", timm's name."""
  first, *inner, leaf = path[1:]
  if first not in _OUTER:
    stage, _, part = first.removeprefix("stage").partition("_")
    part = {"norm": "downsample.0", "conv": "downsample.1"}.get(part) or f"blocks.{part}"
    first = f"stages.{int(stage) - 1}.{part}"
  leaf = leaf if leaf == "gamma" else torch_leaf(leaf)
  return ".".join((_OUTER.get(first, first), *(_INNER.get(name, name) for name in inner), leaf))


# Names of transformers' three ConvNeXts and of the authors' own files -> timm's.
_RENAMED = (
  (r"^(convnext|convnextv2|model)\.(?=[a-z])", ""),
  (r"^encoder\.", ""),
  (r"^embeddings\.patch_embeddings\.", "stem.0."),
  (r"^embeddings\.layernorm\.", "stem.1."),
  (r"^stages\.0\.downsample_layers\.", "stem."),
  (r"^(stages\.\d+)\.downsampl(?:e_layers|ing_layer)\.", r"\1.downsample."),
  (r"^downsample_layers\.0\.", "stem."),
  (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
  (r"^(stages\.\d+)\.(?:layers\.)?(\d+)\.", r"\1.blocks.\2."),
  (r"\.(?:dwconv|depthwise_conv)\.", ".conv_dw."),
  (r"(?<=\d)\.(?:layernorm|layer_norm)\.", ".norm."),
  (r"\.(?:pwconv|pointwise_conv)([12])\.", r".mlp.fc\1."),
  (r"(?<=\d)\.grn\.", ".mlp.grn."),
  (r"\.grn\.gamma$", ".grn.weight"),
  (r"\.grn\.beta$", ".grn.bias"),
  (r"\.layer_scale_parameter$", ".gamma"),
  (r"^(?:norm|layernorm|layer_norm)\.", "head.norm."),
  (r"^(?:head|classifier)\.(?=weight|bias)", "head.fc."),
)


def _tidied(state: State) -> State:
  """The arrays by timm's names, whoever's they are; response normalisation's as vectors."""
  tidy: dict[str, np.ndarray] = {}
  for name, array in state.items():
    for pattern, new in _RENAMED:
      name = re.sub(pattern, new, name)
    tidy[name] = array.reshape(-1) if ".grn." in name else array
  return tidy


def _fits(blocks: int, width: int, v2: bool, state: State) -> bool:
  """False unless the stem's width, the third stage's last block and V2's normalisation agree."""
  has = lambda block, part: f"stages.2.blocks.{block}.{part}.weight" in state
  stem = np.shape(state.get("stem.0.weight", 0.0)) == (width, 3, 4, 4)
  return stem and has(blocks - 1, "norm") and not has(blocks, "norm") and has(0, "mlp.grn") == v2


# Blocks in each stage and channels of the first; widths double.
_SIZES = {
  "tiny": ((3, 3, 9, 3), 96), "small": ((3, 3, 27, 3), 96), "base": ((3, 3, 27, 3), 128),
  "large": ((3, 3, 27, 3), 192),
}  # fmt: skip


def _register(name: str, size: str, hub: str, theirs: str, crop: float = 0.875, v2: bool = False):
  depths, width = _SIZES[size]
  make = functools.partial(
    ConvNeXt, depths=depths, widths=tuple(width * 2**stage for stage in range(4)),
    layer_scale=None if v2 else 1e-6, response_norm=v2,
  )  # fmt: skip
  published = Published(
    file=f"timm's {hub}, model.safetensors, or transformers' {theirs}, model.safetensors",
    name_of=_name_of,
    classifier=("head.fc.weight", "head.fc.bias"),
    preprocessing=Preprocessing(interpolation="bicubic", crop_pct=crop),
    # DINOv3's own files have the last normalisation twice.
    ignore=r"norms\..*",
    tidied=_tidied,
    fits=functools.partial(_fits, depths[2], width, v2),
    hub=f"timm/{hub}",
  )
  register(name, make, published)


for _size in _SIZES:
  _register(f"convnext_{_size}", _size, f"convnext_{_size}.fb_in22k",
            f"facebook/convnext-{_size}-224-22k")  # fmt: skip
  _register(f"dinov3_convnext_{_size}", _size, f"convnext_{_size}.dinov3_lvd1689m",
            f"facebook/dinov3-convnext-{_size}-pretrain-lvd1689m", crop=1.0)  # fmt: skip
  if _size != "small":  # of which there are no weights
    _register(f"convnextv2_{_size}", _size, f"convnextv2_{_size}.fcmae_ft_in22k_in1k",
              f"facebook/convnextv2-{_size}-22k-224", v2=True)  # fmt: skip
