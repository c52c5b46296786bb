"""Convolutions that XLA's are slow at on a CPU: 1x1 ones in training, small maps, depthwise ones.

On a CPU they are matrix products and sums of shifted images, on every other platform XLA's own.
The platform is that which a program is lowered for (`jax.lax.platform_dependent`).
"""

import functools
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxdml._arguments import together
from jaxdml.models.layers import HE_INIT, Dtype
from jaxdml.types import Array


def _fast_on_cpu(fast: Any, gradients: Any, native: Any) -> Any:
  """Returns convolve(x, kernel, stride), `fast` on a CPU and `native` on every other platform.

  `gradients` takes (x, kernel, gradient, stride) and returns those of x and of the kernel.
  """

  def convolve(x: Array, kernel: Array, stride: int) -> Array:
    return lax.platform_dependent(
      x, kernel, cpu=lambda x, k: fast(x, k, stride), default=lambda x, k: native(x, k, stride)
    )

  def forward(x: Array, kernel: Array, stride: int) -> tuple[Array, Any]:
    return convolve(x, kernel, stride), (x, kernel)

  def backward(stride: int, saved: Any, gradient: Array) -> tuple[Array, Array]:
    native_gradients = _gradients_of(native)
    return lax.platform_dependent(
      *saved, gradient, cpu=lambda x, k, g: gradients(x, k, g, stride),
      default=lambda x, k, g: native_gradients(x, k, g, stride),
    )  # fmt: skip

  convolve = jax.custom_vjp(convolve, nondiff_argnums=(2,))
  convolve.defvjp(forward, backward)
  return lambda x, kernel, stride: convolve(*together((x, kernel)), stride)


def _gradients_of(function: Any) -> Any:
  """The backward pass that JAX derives from a convolution."""
  return lambda x, k, g, stride: jax.vjp(lambda x, k: function(x, k, stride), x, k)[1](g)


def native(x: Array, kernel: Array, stride: int) -> Array:
  """Returns XLA's convolution with "SAME" padding, in as many groups as the kernel is made for."""
  groups = x.shape[-1] // kernel.shape[2]
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )  # fmt: skip


def _product(x: Array, kernel: Array, stride: int) -> Array:
  x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
  wide = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel[0, 0], preferred_element_type=wide)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


pointwise = _fast_on_cpu(_product, _gradients_of(_product), native)
"""1x1 convolution: every `stride`-th pixel of x [n, h, w, c] times the kernel [1, 1, c, d].

On a CPU it is a matrix product, as its gradients are: XLA's convolution takes 2 to 13 times as long
(benchmarks/pointwise.py).
"""


_SMALL = {3: 8}  # kernels -> sides of maps below which they are products; else their own size

Window = tuple[int, tuple[tuple[int, int], tuple[int, int]]]
"""Stride, and (before, after) that rows and columns are padded by."""


def _padded(x: Array, kernel: Array, window: Window) -> Array:
  """XLA's convolution."""
  stride, pads = window
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)


def _unfolded(x: Array, kernel: Array, window: Window) -> Array:
  """The same as a product of all that the kernel sees, [n h w, k^2 c], and the kernel."""
  stride, pads = window
  size, rows, columns = kernel.shape[0], *_outputs(x, kernel, window)
  seen = _taps(jnp.pad(x, ((0, 0), *pads, (0, 0))), size, stride, rows, columns)
  seen = jnp.concatenate(seen, axis=3).reshape(x.shape[0] * rows * columns, -1)
  wide = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.dot(seen, kernel.reshape(seen.shape[1], -1), preferred_element_type=wide)
  return y.reshape(x.shape[0], rows, columns, -1).astype(x.dtype)


def _outputs(x: Array, kernel: Array, window: Window) -> list[int]:
  """Rows and columns of the result."""
  stride, pads = window
  sides = zip(x.shape[1:3], pads, strict=True)
  return [(side + sum(pad) - kernel.shape[0]) // stride + 1 for side, pad in sides]


on_small_maps = _fast_on_cpu(_unfolded, _gradients_of(_unfolded), _padded)
"""Convolution of a small map: one that is smaller than the kernel, or becomes so, and 3x3 below 8.

On a CPU it is a matrix product. XLA's takes up to a hundred times as long where the map is smaller
than the kernel as on the next larger one (benchmarks/encoders_by_side.py).
"""


def _convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
  plain = all(s == 1 for key in ("lhs_dilation", "rhs_dilation") for s in options[key])
  plain &= options["feature_group_count"] == 1 and options["precision"] is None
  sizes = kernel.shape[:2]
  if plain and x.ndim == 4 and len(set(sizes)) == len(set(strides)) == 1:
    named = isinstance(padding, str)
    pads = lax.padtype_to_pads(x.shape[1:3], sizes, strides, padding) if named else padding
    window = strides[0], tuple(map(tuple, pads))
    if sizes == (1, 1) and not any(map(sum, pads)):
      return pointwise(x, kernel, strides[0])
    if min(*x.shape[1:3], *_outputs(x, kernel, window)) < _SMALL.get(sizes[0], sizes[0]):
      return on_small_maps(x, kernel, window)
  return lax.conv_general_dilated(x, kernel, strides, padding, **options)


Conv = functools.partial(nn.Conv, conv_general_dilated=_convolve, kernel_init=HE_INIT)
"""`flax.linen.Conv` whose 1x1 convolutions are `pointwise`."""


def conv(
  width: int, size: int, stride: int, dtype: Dtype, name: str, use_bias: bool = False
) -> nn.Conv:
  """Returns a square convolution padded by size // 2 on EVERY side, as PyTorch and Caffe do.

  "SAME", TensorFlow's way, differs from that at stride 2.
  """
  pad = (size // 2, size // 2)
  return Conv(
    width, (size, size), stride, padding=(pad, pad), use_bias=use_bias, dtype=dtype, name=name
  )


class DepthwiseConv(nn.Module):
  """Depthwise convolution with "SAME" padding, [n, h, w, c] -> [n, h/s, w/s, c].

  Equals `nn.Conv(c, (size, size), stride, feature_group_count=c, use_bias=use_bias)`, with a kernel
  of that name and layout [size, size, 1, c], float32. Sides are rounded up, and of an odd padding
  the larger half comes last, as in TensorFlow.
  """

  size: int
  stride: int = 1
  dtype: Dtype = jnp.float32
  use_bias: bool = False
  # Each output channel sees size^2 inputs.
  kernel_init: Any = nn.initializers.variance_scaling(
    2.0, "fan_in", "truncated_normal", in_axis=(0, 1, 2)
  )

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns the convolution of x."""
    shape = (self.size, self.size, 1, x.shape[-1])
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    y = depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros_init(), shape[-1:], jnp.float32).astype(y.dtype)
    return y


def _padding(side: int, size: int, stride: int) -> tuple[int, int, int]:
  """The side of the result, and the padding before and after."""
  out = -(-side // stride)
  total = max((out - 1) * stride + size - side, 0)
  return out, total // 2, total - total // 2


def _taps(x: Array, size: int, stride: int, rows: int, columns: int) -> list[Array]:
  """Pixels of a padded x that each weight of a kernel sees: size^2 arrays [n, rows, columns, c]."""
  n, _, _, c = x.shape
  height, width = (rows - 1) * stride + 1, (columns - 1) * stride + 1
  return [
    lax.slice(x, (0, i, j, 0), (n, i + height, j + width, c), (1, stride, stride, 1))
    for i in range(size)
    for j in range(size)
  ]


def _padded_input(x: Array, size: int, stride: int) -> Array:
  (_, *vertical), (_, *horizontal) = (_padding(side, size, stride) for side in x.shape[1:3])
  return jnp.pad(x.astype(jnp.float32), ((0, 0), vertical, horizontal, (0, 0)))


def _weighted(taps: list[Array], kernel: Array) -> Array:
  weights = kernel.astype(jnp.float32).reshape(len(taps), -1)
  return functools.reduce(operator.add, map(operator.mul, taps, weights))


def _shifted(x: Array, kernel: Array, stride: int) -> Array:
  size = kernel.shape[0]
  rows, columns = (_padding(side, size, stride)[0] for side in x.shape[1:3])
  taps = _taps(_padded_input(x, size, stride), size, stride, rows, columns)
  return _weighted(taps, kernel).astype(x.dtype)


def _input_gradient(x: Array, kernel: Array, gradient: Array, stride: int) -> Array:
  """The same sum with the kernel turned around, over gradients `stride` apart."""
  size, (_, height, width, _) = kernel.shape[0], x.shape
  spread = [(0, 0, 0)]
  for side in (height, width):
    out, before, _ = _padding(side, size, stride)
    low, high = size - 1 - before, side - 1 + before - (out - 1) * stride
    spread.append((low, high, stride - 1))
  gradient = lax.pad(gradient.astype(jnp.float32), 0.0, [*spread, (0, 0, 0)])
  taps = _taps(gradient, size, 1, height, width)
  return _weighted(taps, kernel[::-1, ::-1]).astype(x.dtype)


def _kernel_gradient(x: Array, kernel: Array, gradient: Array, stride: int) -> Array:
  """An image at a time: a sum over all positions of a large batch runs out of cache."""
  size, (_, rows, columns, _) = kernel.shape[0], gradient.shape
  height, width = (rows - 1) * stride + 1, (columns - 1) * stride + 1

  def of_image(pair: tuple[Array, Array]) -> Array:
    image, g = _padded_input(pair[0][None], size, stride), pair[1].astype(jnp.float32)
    if size <= 3:
      taps = _taps(image, size, stride, rows, columns)
      return jnp.stack([(tap[0] * g).sum((0, 1)) for tap in taps])

    def of_row(i: Array) -> Array:
      seen = lax.dynamic_slice_in_dim(image[0], i, height)[::stride]
      taps = (seen[:, j : j + width : stride] for j in range(size))
      return jnp.stack([(tap * g).sum((0, 1)) for tap in taps])

    # A loop over a large kernel's rows compiles in a third of the time, and runs no slower.
    return lax.map(of_row, jnp.arange(size))

  total = lax.map(of_image, (x, gradient)).sum(0)
  return total.reshape(kernel.shape).astype(kernel.dtype)


# Traced once a shape, whoever calls it: the larger ConvNeXts have 36 of these in four shapes.
depthwise = functools.partial(jax.jit, static_argnums=2, inline=True)(
  _fast_on_cpu(_shifted, lambda *args: (_input_gradient(*args), _kernel_gradient(*args)), native)
)
"""Depthwise convolution with "SAME" padding of x [n, h, w, c] by a kernel [k, k, 1, c].

XLA's CPU convolution is slow with a group a channel: an EfficientNet took 8 times as long. On a CPU
it becomes a sum of shifted and scaled images, one for each weight of the kernel, which is
vectorised over channels; backwards likewise.
"""
