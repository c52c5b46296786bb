"""GoogLeNet, "Inception v1" (arXiv 1409.4842): the encoder of HDML (arXiv 1903.05503)."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdml.models.base import Encoder, Preprocessing, Published, State, caffe, register, torch_leaf
from jaxdml.models.convolutions import conv
from jaxdml.models.layers import Dtype, Pooling, max_pool, max_pool_ceil, remat
from jaxdml.types import Array

INCEPTION = {
  "3a": (64, (96, 128), (16, 32), 32), "3b": (128, (128, 192), (32, 96), 64),
  "4a": (192, (96, 208), (16, 48), 64), "4b": (160, (112, 224), (24, 64), 64),
  "4c": (128, (128, 256), (24, 64), 64), "4d": (112, (144, 288), (32, 64), 64),
  "4e": (256, (160, 320), (32, 128), 128), "5a": (256, (160, 320), (32, 128), 128),
  "5b": (384, (192, 384), (48, 128), 128),
}  # fmt: skip
"""Table 1 of the paper: 1x1, (3x3 reduce, 3x3), (5x5 reduce, 5x5), pool projection."""


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def local_response_norm(x: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> Array:
  """Divides each channel by the energy of its neighbours, x / (1 + alpha/size * sum x^2)^beta.

  The sum runs over `size` channels centred on each one; x is [..., c], the result has its dtype,
  computed in float32. These are Caffe's definition and constants, with which the published
  GoogLeNet weights were trained. Nothing but x is kept for the gradient. Reverse mode only.

  >>> local_response_norm(jnp.ones((1, 3)), size=3, alpha=3.0, beta=1.0).tolist()
  [[0.3333333432674408, 0.25, 0.3333333432674408]]
  """
  wide = x.astype(jnp.float32)
  return (wide * _energy(wide, size, alpha) ** -beta).astype(x.dtype)


def _energy(x: Array, size: int, alpha: float) -> Array:
  return 1.0 + alpha / size * _over_channels(jnp.square(x), size, (size - 1) // 2)


def _over_channels(x: Array, size: int, before: int) -> Array:
  """Sums of each channel, the `before` ones before it and the others of `size` behind it."""
  padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, size - 1 - before)])
  # Slices are summed where they are used; XLA's own windows are written to memory.
  return sum(padded[..., shift : shift + x.shape[-1]] for shift in range(size))


def _response_norm_bwd(size: int, alpha: float, beta: float, x: Array, bar: Array) -> tuple[Array]:
  # Behind the barrier, or XLA for a GPU would keep the forward pass's energy, in float32, instead
  # of x. For a TPU it moves less without.
  barrier = jax.lax.optimization_barrier
  wide = jax.lax.platform_dependent(x, cuda=barrier, default=lambda x: x).astype(jnp.float32)
  of_output = bar.astype(jnp.float32)
  energy = _energy(wide, size, alpha)
  shrunk = of_output * energy**-beta
  # The channels whose window holds this one: the window turned around.
  others = _over_channels(shrunk * wide / energy, size, size - 1 - (size - 1) // 2)
  return ((shrunk - 2.0 * alpha * beta / size * wide * others).astype(x.dtype),)


local_response_norm.defvjp(
  lambda x, size, alpha, beta: (local_response_norm(x, size, alpha, beta), x), _response_norm_bwd
)


class ConvUnit(nn.Module):
  """Convolution and ReLU; with a bias, with BatchNorm instead of it, or with both.

  The kernel has sides of `size`, the padding is size // 2 on every side.
  """

  width: int
  size: int
  norm: Any = None  # makes a BatchNorm; None for a bias
  stride: int = 1
  bias: bool = False  # besides BatchNorm
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns [n, h/stride, w/stride, width] of x [n, h, w, c]."""
    use_bias = self.bias or self.norm is None
    x = conv(self.width, self.size, self.stride, self.dtype, "conv", use_bias)(x)
    if self.norm is not None:
      x = self.norm(name="bn")(x, train)
    return nn.relu(x)


class Inception(nn.Module):
  """Four parallel branches, concatenated along the channels in the order of `widths`.

  1x1, (3x3 reduce, 3x3), (5x5 reduce, 5x5), pool projection; `unit` makes a ConvUnit, `size5` is
  the side of the kernel that the paper has as 5x5.
  """

  widths: tuple[int, tuple[int, int], tuple[int, int], int]
  unit: Any
  size5: int = 5

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Returns [n, h, w, sum of the branches' widths] of x [n, h, w, c]."""
    single, (reduce3, out3), (reduce5, out5), projection = self.widths
    branches = [
      self.unit(single, 1, name="1x1")(x, train),
      self.unit(out3, 3, name="3x3")(self.unit(reduce3, 1, name="3x3_reduce")(x, train), train),
      self.unit(out5, self.size5, name="5x5")(
        self.unit(reduce5, 1, name="5x5_reduce")(x, train), train
      ),
      self.unit(projection, 1, name="pool_proj")(max_pool(x, 3, 1, (1, 1)), train),
    ]
    return jnp.concatenate(branches, axis=-1)


class InceptionNet(Encoder):
  """The common part of GoogLeNet and BN-Inception: features [n, 1024], blocks of branches."""

  # Of the last map, one of `layers.POOLINGS`; "none" returns it, [n, h/32, w/32, 1024].
  pooling: str = "avg"
  remat: bool = False  # gradient checkpointing of every block

  @property
  def feature_dim(self) -> int:
    """Size of the features."""
    return 1024

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output: the maps of one size, and GeM's exponent."""
    stages = ("stem", "inception3", "inception4", "inception5")
    return (*stages, "pool") if self.pooling == "gem" else stages

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter or statistic at `path` in the encoder's tree."""
    if path[0].startswith("inception_"):
      return f"inception{path[0][len('inception_')]}"
    return path[0] if path[0] == "pool" else "stem"


class GoogLeNet(InceptionNet):
  """Inception v1 without classifiers: images to globally pooled features [n, 1024].

  Images [n, h, w, c] float32 -> features [n, 1024] float32; sides of at least 32 (the paper: 224,
  HDML: 227). Layers carry the names of Caffe's model ("conv1", "inception_3a/3x3_reduce", ...), and
  pooling rounds up as Caffe's does, so that its weights fit.
  """

  # BatchNorm after every convolution instead of biases and local response normalisation. Training
  # from scratch needs it; Caffe's published weights have none.
  batch_norm: bool = False
  # Channels in the window of `local_response_norm`. Caffe's 5; HDML's release ran Caffe's weights
  # with TensorFlow's op, a window of 11 and alpha not divided by it: (11, 11e-4).
  lrn_size: int = 5
  lrn_alpha: float = 1e-4  # its alpha
  size5: int = 5  # side of the kernels that the paper has as 5x5
  last_window: int = 3  # of the last max pooling between blocks
  epsilon: float = 1e-5  # BatchNorm's

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, 1024] float32 of images [n, h, w, c]."""
    self.check_images(images)
    norm = self.make_norm(self.epsilon)
    unit = partial(ConvUnit, norm=norm if self.batch_norm else None, dtype=self.dtype)
    block = remat(Inception, self.remat)
    x = images.astype(self.dtype)
    x = unit(64, 7, stride=2, name="conv1")(x, train)
    x = self._response_norm(max_pool_ceil(x))
    x = unit(64, 1, name="conv2_reduce")(x, train)
    x = unit(192, 3, name="conv2")(x, train)
    x = max_pool_ceil(self._response_norm(x))
    for name, widths in INCEPTION.items():
      if name in ("4a", "5a"):
        x = max_pool_ceil(x, 3 if name == "4a" else self.last_window)
      x = block(widths, unit, self.size5, name=f"inception_{name}")(x, train)
    return Pooling(self.pooling, name="pool")(x)

  def _response_norm(self, x: Array) -> Array:
    if self.batch_norm:
      return x
    return local_response_norm(x, self.lrn_size, self.lrn_alpha)


# Caffe's layers before the blocks; the blocks' have the names that ours have.
_CAFFE_STEM = {"conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3"}
# Suffixes of weights and biases: ours; Caffe2's; ONNX's model zoo.
_SUFFIXES = (("/weights", "/biases"), ("_w", "_b"), ("_w_0", "_b_0"))


def _caffe_name(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "5x5", "conv", "kernel") -> "inception_3a/5x5/weights"."""
  *blocks, unit, _, leaf = path[1:]
  layer = "/".join((*blocks, unit)) if blocks else _CAFFE_STEM[unit]
  return layer + _SUFFIXES[0][leaf == "bias"]


def _caffe_tidied(state: State) -> State:
  """Caffe's blobs with the first of `_SUFFIXES`, and with as many axes as they need."""
  return {_our_suffix(name): _without_ones(np.asarray(a), name) for name, a in state.items()}


def _our_suffix(name: str) -> str:
  for theirs in _SUFFIXES[:0:-1]:
    for suffix, ours in zip(theirs, _SUFFIXES[0], strict=True):
      if name.endswith(suffix):
        return name.removesuffix(suffix) + ours
  return name


def _without_ones(array: np.ndarray, name: str) -> np.ndarray:
  """Older Caffe kept biases as [1, 1, 1, n] and dense weights as [1, 1, n, m]."""
  dims = 1 if re.search(r"(/biases|_b|_b_0)$", name) else 2
  dense = dims == 1 or "classifier" in name
  if dense and array.ndim == 4 and array.shape[: 4 - dims] == (1,) * (4 - dims):
    return array.reshape(array.shape[4 - dims :])
  return array


register(
  "googlenet",
  GoogLeNet,
  Published(
    file="Caffe's bvlc_googlenet as .npz: LAYER/weights, LAYER/biases (also LAYER_w_0, LAYER_b_0 "
    "of ONNX's model zoo)",
    name_of=_caffe_name,
    classifier=("loss3/classifier/weights", "loss3/classifier/biases"),
    preprocessing=caffe((104.0, 117.0, 123.0)),
    ignore=r"loss[12]/.*|OC2_DUMMY_\d+",  # the classifiers of training alone
    tidied=_caffe_tidied,
    fits=lambda state: "conv1/7x7_s2/weights" in state,
  ),
)

# torchvision's modules: three units before the blocks, then branches of one or two units each.
_STEM = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
_BRANCHES = {
  "1x1": "branch1", "3x3_reduce": "branch2.0", "3x3": "branch2.1", "5x5_reduce": "branch3.0",
  "5x5": "branch3.1", "pool_proj": "branch4.1",
}  # fmt: skip


def _torchvision_name(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "5x5", "bn", "scale") -> "inception3a.branch3.1.bn.weight"."""
  *blocks, unit, kind, leaf = path[1:]
  where = [b.replace("_", "") for b in blocks] + [(_BRANCHES if blocks else _STEM)[unit]]
  return ".".join((*where, kind, torch_leaf(leaf)))


GoogLeNetBN = register(
  "googlenet_bn",
  partial(GoogLeNet, batch_norm=True, size5=3, last_window=2, epsilon=1e-3),
  Published(
    file="torchvision's googlenet, googlenet-*.pth",
    name_of=_torchvision_name,
    classifier=("fc.weight", "fc.bias"),
    # torchvision's weights take [-1, 1]: its model turns ImageNet's normalisation into that itself
    # (transform_input=True).
    preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
    ignore=r".*\.num_batches_tracked|aux[12]\..*",
    fits=lambda state: "conv3.bn.weight" in state,
  ),
)
"""torchvision's GoogLeNet: BatchNorm, 3x3 kernels in the "5x5" branches, a 2x2 last max pooling."""
