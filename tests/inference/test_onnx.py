"""What is written as ONNX computes what JAX does, with a fixed and with an open batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxdml.data import normalize
from jaxdml.inference import _onnx
from jaxdml.models.convolutions import depthwise, pointwise
from jaxdml.models.layers import Pooling, max_pool, max_pool_ceil

RNG = np.random.default_rng(0)


def weights(*shape):
  return RNG.normal(size=shape).astype(np.float32)


KERNEL, POINT, DEPTH, DENSE = (
  weights(3, 2, 3, 4),
  weights(1, 1, 3, 5),
  weights(3, 3, 1, 3),
  weights(3, 4),
)
HEADS = weights(3, 6)


def attention(x):
  x = (x.reshape(x.shape[0], -1, 3) @ HEADS).reshape(x.shape[0], -1, 2, 3)
  return jax.nn.dot_product_attention(x, x, x)[:, 1:, 0]


FUNCTIONS = {
  "normalised": normalize.create("caffe", 3),
  "convolution": lambda x: lax.conv_general_dilated(
    x, KERNEL, (2, 1), ((1, 2), (0, 1)), rhs_dilation=(1, 2),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  ),
  "pointwise": lambda x: pointwise(x, POINT, 2),
  "depthwise": lambda x: depthwise(x, DEPTH, 2),
  "max pooling": lambda x: max_pool(x, 3, 2, (1, 1)),
  "max pooling, last window cut": max_pool_ceil,
  "average pooling": lambda x: nn.avg_pool(x, (3, 2), (2, 1), ((1, 0), (0, 1))),
  "sum over channels": lambda x: lax.reduce_window(
    x, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (1, 1))
  ),
  "gem": lambda x: Pooling("gem").apply({"params": {"p": np.float32(2.5)}}, x),
  "attention": attention,
  "gelu": lambda x: nn.gelu(x / 50 - 2, approximate=False) @ DENSE,
  "layer norm": lambda x: nn.LayerNorm(use_fast_variance=False).apply(
    {"params": {"scale": np.arange(3.0), "bias": np.ones(3)}}, x
  ),
  "pieces": lambda x: jnp.pad(
    jnp.concatenate([x[:, :8:2], x[:, 1::2], x[:, 2:6][..., ::-1]], axis=-1),
    ((0, 0), (1, 2), (0, 0), (0, 0)),
  ),
  "choice": lambda x: jnp.where((x > 100) & (x != 120), jnp.clip(x, 0, 150), -x**3 / 1e4),
  # JAX's operation `name` once found a helper of that name.
  "named": lambda x: checkpoint_name(x, "map") * 2,
  "broadcast": lambda x: jnp.concatenate(
    [jnp.broadcast_to(DENSE, (x.shape[0], 3, 4)), x[:, :3, :4, 0]], axis=1
  ),
}  # fmt: skip


def run(model, images):
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  return session.run(["embeddings"], {"images": images})[0]


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_computes_the_same(name, batch):
  function = lambda images: FUNCTIONS[name](images.astype(jnp.float32))
  model = _onnx.convert(function, (batch, 9, 8, 3), np.uint8, name="test")
  for count in (2, 5) if batch is None else (2,):
    images = RNG.integers(0, 256, (count, 9, 8, 3), dtype=np.uint8)
    expected = np.asarray(function(images))
    np.testing.assert_allclose(run(model, images), expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize(
  ("function", "message"),
  [
    (lambda x: jnp.sort(x, axis=1), "no rule for JAX's 'sort'"),
    (lambda x: x.astype(jnp.bfloat16), "bfloat16"),
    (lambda x: nn.max_pool(x.astype(float), (2, 2, 2), strides=(1, 1, 1)), "windows"),
  ],
)
def test_refuses_what_it_does_not_know(function, message):
  with pytest.raises(_onnx.UnsupportedError, match=message):
    _onnx.convert(function, (2, 9, 8, 3), np.int32, name="test")
