"""Parts of vision transformers: the block, rotary and resized positions, pooling with weights."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdml.models.layers import BatchNorm, Dtype, layer_norm
from jaxdml.types import Array

INIT = nn.initializers.truncated_normal(0.02)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu": partial(nn.gelu, approximate=False),
  "gelu_tanh": nn.gelu,
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
  "relu6": nn.relu6,
  "swiglu": nn.silu,
}
"""Of the MLP. "swiglu" is silu(a) * b of two projections a, b (arXiv 2002.05202)."""

QKV_BIASES = ("qkv", "qv", "none")
"""Which of query, key and value have a bias; "qv" is DINOv3's."""

INTERPOLATIONS = ("antialias", "plain", "dino")
"""Kinds of `resize_positions`."""

Rotation = tuple[Array, Array]


def mlp(x: Array, hidden: int, activation: str, dtype: Dtype) -> Array:
  """Returns the MLP of x [..., width] in the calling module's scope: fc1 (or fc1_g, fc1_x), fc2."""
  dense = partial(nn.Dense, dtype=dtype, kernel_init=INIT)
  act = ACTIVATIONS[activation]
  if activation == "swiglu":
    y = act(dense(hidden, name="fc1_g")(x)) * dense(hidden, name="fc1_x")(x)
  else:
    y = act(dense(hidden, name="fc1")(x))
  return dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
  """Pre-norm self-attention and MLP of width `hidden`, each added to its input [n, tokens, width].

  Normalisation and softmax are float32; the fields are those of `ViT`.
  """

  heads: int
  hidden: int
  layer_scale: float | None = None
  dtype: Dtype = jnp.float32
  activation: str = "gelu"
  epsilon: float = 1e-6
  qkv_bias: str = "qkv"
  qk_norm: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool, rotation: Rotation | None = None) -> Array:
    """Returns x after the block, in its own shape; `train` changes nothing.

    `rotation` is `rotary_positions` of the tokens, for queries and keys.
    """
    del train
    norm = partial(layer_norm, self.dtype, self.epsilon)
    y = norm(name="norm1")(x).astype(self.dtype)
    x = x + self._scaled("ls1", self._attention(y, rotation))
    y = norm(name="norm2")(x).astype(self.dtype)
    return x + self._scaled("ls2", mlp(y, self.hidden, self.activation, self.dtype))

  def _attention(self, y: Array, rotation: Rotation | None) -> Array:
    n, tokens, width = y.shape
    dense = partial(nn.Dense, dtype=self.dtype, kernel_init=INIT)
    y = dense(3 * width, use_bias=self.qkv_bias == "qkv", name="qkv")(y)
    if self.qkv_bias == "qv":
      zeros = nn.initializers.zeros_init()
      q, v = (self.param(name, zeros, (width,), jnp.float32) for name in ("q_bias", "v_bias"))
      y = y + jnp.concatenate([q, jnp.zeros_like(q), v]).astype(self.dtype)
    y = y.reshape(n, tokens, 3, self.heads, width // self.heads)
    q, k, v = y[:, :, 0], y[:, :, 1], y[:, :, 2]
    if self.qk_norm:
      q = layer_norm(self.dtype, self.epsilon, "q_norm")(q).astype(self.dtype)
      k = layer_norm(self.dtype, self.epsilon, "k_norm")(k).astype(self.dtype)
    if rotation is not None:
      q, k = rotated(q, rotation), rotated(k, rotation)
    y = jax.nn.dot_product_attention(q, k, v)
    return dense(width, name="proj")(y.reshape(n, tokens, width))

  def _scaled(self, name: str, y: Array) -> Array:
    """LayerScale (arXiv 2103.17239)."""
    if self.layer_scale is None:
      return y
    init = nn.initializers.constant(self.layer_scale)
    return y * self.param(name, init, (y.shape[-1],), jnp.float32).astype(self.dtype)


def rotary_positions(rows: int, columns: int, size: int, base: float, prefix: int) -> Rotation:
  """Returns cosines and sines [prefix + rows * columns, size] of DINOv3's axial rotary embedding.

  The centres of the patches are scaled to -1..1 along each axis, whatever their number, and turn
  size / 4 frequencies 2 pi / base^(4 i / size) each (arXiv 2508.10104). Tokens before the patches
  do not turn. Training's random shifts and scales of the coordinates are left out.
  """
  frequencies = 2 * np.pi / base ** (np.arange(0, size, 4, dtype=np.float32) / size)
  axes = [2 * (np.arange(side, dtype=np.float32) + 0.5) / side - 1 for side in (rows, columns)]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2, 1)
  angles = np.tile((grid * frequencies).reshape(rows * columns, -1), 2)
  angles = np.concatenate([np.zeros((prefix, size)), angles]).astype(np.float32)
  return jnp.cos(angles), jnp.sin(angles)


def rotated(x: Array, rotation: Rotation) -> Array:
  """Returns x [n, tokens, heads, size] turned in the planes of its elements i and i + size / 2."""
  cosines, sines = (part[:, None] for part in rotation)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  other = jnp.concatenate([-second, first], axis=-1)
  return (x * cosines + other * sines).astype(x.dtype)


def resize_positions(
  positions: Array, grid: int, rows: int, columns: int, kind: str = "antialias"
) -> Array:
  """Returns positions [1, grid^2, c] of a square grid, interpolated to [1, rows * columns, c].

  Bicubic. "antialias" (a = -0.5) is what timm, OpenCLIP and DINOv2 with registers do; "plain"
  (a = -0.75, no antialiasing) is PyTorch's, which transformers takes; "dino" is that with the
  factor (side + 0.1) / grid, as in the code of DINO and DINOv2 without registers.
  """
  if (rows, columns) == (grid, grid):
    return positions
  c = positions.shape[-1]
  square = positions.reshape(1, grid, grid, c)
  if kind == "antialias":
    square = jax.image.resize(square, (1, rows, columns, c), "cubic")
  else:
    extra = 0.1 if kind == "dino" else 0.0
    down, across = (_cubic(grid, side, (side + extra) / grid) for side in (rows, columns))
    square = jnp.einsum("ri,sj,nijc->nrsc", down, across, square, precision="highest")
  return square.reshape(1, rows * columns, c)


def _cubic(source: int, target: int, scale: float, a: float = -0.75) -> np.ndarray:
  """Keys' cubic convolution [target, source]; positions beyond the border are the border's."""
  at = (np.arange(target) + 0.5) / scale - 0.5
  weights = np.zeros((target, source))
  for tap in range(-1, 3):
    index = np.floor(at).astype(int) + tap
    d = np.abs(at - index)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    np.add.at(weights, (np.arange(target), index.clip(0, source - 1)), np.where(d <= 1, near, far))
  return weights.astype(np.float32)


class AttentionPooling(nn.Module):
  """SigLIP's head (arXiv 2303.15343): a learned query attends to tokens [n, t, c]; then an MLP.

  The result [n, c] is float32. The fields are those of `ViT`.
  """

  heads: int
  hidden: int
  dtype: Dtype = jnp.float32
  activation: str = "gelu"
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns features [n, c] float32 of tokens [n, t, c]."""
    n, _, width = x.shape
    x = x.astype(self.dtype)
    dense = partial(nn.Dense, dtype=self.dtype, kernel_init=INIT)
    split = lambda y, parts: y.reshape(*y.shape[:2], parts, self.heads, width // self.heads)
    latent = self.param("latent", INIT, (1, 1, width), jnp.float32)
    q = jnp.broadcast_to(dense(width, name="q")(latent.astype(self.dtype)), (n, 1, width))
    kv = split(dense(2 * width, name="kv")(x), 2)
    y = jax.nn.dot_product_attention(split(q, 1)[:, :, 0], kv[:, :, 0], kv[:, :, 1])
    y = dense(width, name="proj")(y.reshape(n, width))
    z = layer_norm(self.dtype, self.epsilon, "norm")(y).astype(self.dtype)
    return (y + mlp(z, self.hidden, self.activation, self.dtype)).astype(jnp.float32)


class FlatHead(nn.Module):
  """UNICOM's head (arXiv 2304.05884): all tokens in one vector, two dense layers with BatchNorm."""

  features: int
  make_norm: Callable[..., BatchNorm]
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns features [n, features] float32 of tokens [n, t, c]."""
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=INIT)
    y = dense(x.shape[-1], name="reduce")(x.reshape(x.shape[0], -1).astype(self.dtype))
    y = self.make_norm()(name="reduce_norm")(y, train)
    y = dense(self.features, name="embed")(y)
    return self.make_norm()(name="embed_norm")(y, train).astype(jnp.float32)
