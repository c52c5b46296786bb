"""Vision transformers (arXiv 2010.11929), one class for all families of `vit_published`."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdml.models.base import Encoder
from jaxdml.models.layers import Pooling, check_pooling, layer_norm, remat
from jaxdml.models.vit_layers import (
  ACTIVATIONS,
  INIT,
  INTERPOLATIONS,
  QKV_BIASES,
  AttentionPooling,
  Block,
  FlatHead,
  Rotation,
  resize_positions,
  rotary_positions,
)
from jaxdml.types import Array

_PATCHES = ("avg", "max", "avg+max", "gem")
POOLINGS = ("token", *_PATCHES, "token+avg", "map", "flat", "none")
"""The class token; `layers.Pooling` of the patches; token and average one after the other;
SigLIP's attention pooling; UNICOM's head over all patches of a fixed size; the map of patches.
"gem" sees patches clamped from below, as DINO's copy detection does (arXiv 2104.14294)."""


class ViT(Encoder):
  """A vision transformer: images to the normalised class token, or pooled patches.

  Images [n, h, w, c] float32 -> features [n, feature_dim] float32, with sides that are multiples of
  `patch`. The position embedding, trained for `grid` x `grid` patches, is interpolated to any other
  number of them. There is no dropout of any kind. Normalisation and softmax are float32 whatever
  `dtype`.
  """

  width: int = 384  # of the tokens
  depth: int = 12  # blocks
  heads: int = 6  # of each attention
  patch: int = 16  # side of a patch in pixels
  # Patches along each side for which the position embedding was trained; 0: it has none.
  grid: int = 14
  layer_scale: float | None = None  # where LayerScale's factors start (DINOv2: 1e-5); None for none
  # Extra tokens without a position (arXiv 2309.16588; "DINOv2 with registers": 4).
  registers: int = 0
  # One of `POOLINGS`; "none" returns the patches, [n, h/patch, w/patch, width].
  pooling: str = "token"
  remat: bool = False  # gradient checkpointing of every block
  hidden: int | None = None  # width of the MLPs; None: four times `width`
  activation: str = "gelu"  # one of `vit_layers.ACTIVATIONS`
  epsilon: float = 1e-6  # of layer normalisations
  class_token: bool = True
  # A normalisation before the blocks, and patches without bias: CLIP's.
  pre_norm: bool = False
  qkv_bias: str = "qkv"  # one of `vit_layers.QKV_BIASES`
  qk_norm: bool = False  # layer normalisation of each head's queries and keys (arXiv 2302.05442)
  rope: float | None = None  # base of `vit_layers.rotary_positions` (DINOv3: 100); None for none
  interpolation: str = "antialias"  # one of `vit_layers.INTERPOLATIONS`, of position embeddings
  # The last normalisation comes after the pooling of patches (timm's fc_norm), not before.
  norm_after: bool = False
  flat_dim: int = 0  # features of the pooling "flat"
  # The blocks under `jax.lax.scan`, compiled once: the same parameters by the same names, stacked
  # within a step, which holds a second copy of them. From one seed they start at other values.
  scan: bool = False

  @property
  def feature_dim(self) -> int:
    """Size of the features: `width`, twice that for "token+avg", `flat_dim` for "flat"."""
    return {"token+avg": 2 * self.width, "flat": self.flat_dim}.get(self.pooling, self.width)

  @property
  def sides(self) -> tuple[int, int]:
    """Smallest side of an image in pixels, and the number that sides are multiples of."""
    return self.patch * (self.grid if self.pooling == "flat" else 1), self.patch

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output."""
    pool = ("pool",) if self.pooling in ("gem", "map", "flat") else ()
    return ("patch_embed", *(f"block{block}" for block in range(self.depth)), "norm", *pool)

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter at `path` in the encoder's tree."""
    return path[0] if path[0] in self.stages else "patch_embed"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    self._check(images)
    n, rows, columns = images.shape[0], *(side // self.patch for side in images.shape[1:3])
    x = self._with_tokens(self._patches(images.astype(self.dtype)), rows, columns)
    if self.pre_norm:
      x = layer_norm(self.dtype, self.epsilon, "norm_pre")(x).astype(self.dtype)
    prefix = self.registers + self.class_token
    size = self.width // self.heads
    rotation = rotary_positions(rows, columns, size, self.rope, prefix) if self.rope else None
    x = self._blocks(x, train, rotation)
    norm = layer_norm(jnp.float32 if self.norm_after else self.dtype, self.epsilon, "norm")
    if not self.norm_after:
      x = norm(x)
    features = self._pooled(x[:, 0], x[:, prefix:].reshape(n, rows, columns, self.width), train)
    return norm(features) if self.norm_after else features

  def _pooled(self, token: Array, patches: Array, train: bool) -> Array:
    if self.pooling == "token":
      return token.astype(jnp.float32)
    if self.pooling == "token+avg":
      return jnp.concatenate([token, patches.mean((1, 2))], axis=-1)
    tokens = patches.reshape(patches.shape[0], -1, self.width)
    if self.pooling == "map":
      fields = (self.heads, self._hidden, self.dtype, self.activation, self.epsilon)
      return AttentionPooling(*fields, name="pool")(tokens)
    if self.pooling == "flat":
      make_norm = partial(self.make_norm, 2e-5)
      return FlatHead(self.flat_dim, make_norm, self.dtype, name="pool")(tokens, train)
    return Pooling(self.pooling, name="pool")(patches)

  @property
  def _hidden(self) -> int:
    return self.hidden or 4 * self.width

  def _check(self, images: Array) -> None:
    """Raises ValueError for fields that do not go together, and images as `check_images` does."""
    check_pooling(self.pooling, POOLINGS)
    for name, valid in (
      ("activation", tuple(ACTIVATIONS)), ("qkv_bias", QKV_BIASES),
      ("interpolation", INTERPOLATIONS),
    ):  # fmt: skip
      if (found := getattr(self, name)) not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(valid)}; got {found!r}")
    if "token" in self.pooling and not self.class_token:
      raise ValueError(f"pooling: got {self.pooling!r}, but this ViT has no class token; take avg")
    if self.norm_after and self.pooling not in _PATCHES:
      kinds = ", ".join(_PATCHES)
      raise ValueError(f"norm_after: expected a pooling among {kinds}; got {self.pooling!r}")
    if self.width % self.heads:
      raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")
    self.check_images(images)
    side = self.patch * self.grid
    if self.pooling == "flat" and (images.shape[1:3] != (side, side) or not self.flat_dim):
      raise ValueError(
        f"images: pooling 'flat' has weights for {side}x{side} pixels and needs flat_dim, got "
        f"{images.shape[1]}x{images.shape[2]} and flat_dim {self.flat_dim}; take pooling 'avg'"
      )

  def _patches(self, images: Array) -> Array:
    """[n, rows * columns, width]"""
    conv = nn.Conv(self.width, (self.patch, self.patch), self.patch, padding="VALID",
                   use_bias=not self.pre_norm, dtype=self.dtype, kernel_init=INIT,
                   name="patch_embed")  # fmt: skip
    return conv(images).reshape(images.shape[0], -1, self.width)

  def _with_tokens(self, x: Array, rows: int, columns: int) -> Array:
    """Positions added to the patches x, class token and registers put before them."""
    first = []
    if self.class_token:
      first.append(self.param("class_token", INIT, (1, 1, self.width), jnp.float32))
    if self.grid:
      shape = (1, self.class_token + self.grid**2, self.width)
      positions = self.param("position_embedding", INIT, shape, jnp.float32)
      if self.class_token:
        first[0], positions = first[0] + positions[:, :1], positions[:, 1:]
      positions = resize_positions(positions, self.grid, rows, columns, self.interpolation)
      x = x + positions.astype(self.dtype)
    if self.registers:
      shape = (1, self.registers, self.width)
      first.append(self.param("register_tokens", INIT, shape, jnp.float32))
    if not first:
      return x
    tokens = jnp.concatenate(first, axis=1).astype(self.dtype)
    return jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:])), x], axis=1)

  def _blocks(self, x: Array, train: bool, rotation: Rotation | None) -> Array:
    make = partial(
      remat(Block, self.remat), self.heads, self._hidden, self.layer_scale, self.dtype,
      self.activation, self.epsilon, self.qkv_bias, self.qk_norm,
    )  # fmt: skip
    names = [f"block{index}" for index in range(self.depth)]
    if not self.scan or not names:
      for name in names:
        x = make(name=name)(x, train, rotation)
      return x
    # A module outside this one's scope: its parameters are given to it, one block at a time.
    block = make(parent=None)
    if self.is_initializing():
      keys = jax.random.split(self.make_rng("params"), self.depth)
      stacked = jax.vmap(lambda key: block.init(key, x[:1], train, rotation)["params"])(keys)
      for index, name in enumerate(names):
        self.put_variable("params", name, jax.tree.map(lambda leaf, i=index: leaf[i], stacked))
    else:
      parameters = [self.variables["params"][name] for name in names]
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parameters)
    apply = lambda x, params: (block.apply({"params": params}, x, train, rotation), None)
    return jax.lax.scan(apply, x, stacked)[0]
