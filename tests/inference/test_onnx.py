"""What is written as ONNX computes what JAX does, with a fixed and with an open batch."""

import collections
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxdml import models
from jaxdml.data import normalize
from jaxdml.inference import _onnx
from jaxdml.models import googlenet
from jaxdml.models.convolutions import depthwise, pointwise
from jaxdml.models.layers import Pooling, max_pool, max_pool_ceil
from tests.models.helpers import SMALL

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


def batch_norm(x):
  """With statistics and weights that differ by channel."""
  c = np.arange(1.0, 1 + x.shape[-1], dtype=np.float32)
  return (x - c) * (c / np.sqrt(c + 1)) + c[::-1]


def folded(x):
  """Neither last nor first, after a pointwise and after a depthwise convolution."""
  return nn.relu6(
    batch_norm(depthwise(nn.relu(batch_norm(pointwise(x / 255, POINT, 2))), DEPTH5, 1))
  )


def unfolded(x):
  """Before any convolution, after a ReLU, after one that is read twice, on the other side of -."""
  y = pointwise(batch_norm(x / 255), POINT, 1)
  return 1 - pointwise(batch_norm(nn.relu(batch_norm(y) + y)), BACK, 1)


DEPTH5, BACK = weights(3, 3, 1, 5), weights(1, 1, 5, 3)
BATCH_NORMS = {
  # What is left: the pixels' scale; a transpose in, a transpose out.
  folded: {"Conv": 2, "Relu": 1, "Clip": 1, "Div": 1, "Transpose": 2},
  # Three BatchNorms in three nodes each, and the residual sum.
  unfolded: {"Conv": 2, "Relu": 1, "Sub": 3, "Mul": 3, "Add": 4, "Transpose": 2},
}


def counted(model, operations):
  found = collections.Counter(node.op_type for node in model.graph.node)
  return {name: found[name] for name in operations}


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("function", BATCH_NORMS)
def test_batch_norm_is_folded_into_the_convolution_before_it_and_into_no_other(function, batch):
  model = _onnx.convert(
    lambda x: function(x.astype(jnp.float32)), (batch, 9, 8, 3), np.uint8, name="test"
  )
  counts = BATCH_NORMS[function]
  assert counted(model, {**counts, "Max": 0, "Min": 0}) == {**counts, "Max": 0, "Min": 0}
  images = RNG.integers(0, 256, (2, 9, 8, 3), dtype=np.uint8)
  expected = np.asarray(function(images.astype(np.float32)))
  np.testing.assert_allclose(run(model, images), expected, rtol=2e-5, atol=2e-5)


INCEPTION = {"4a": (4, (2, 4), (2, 3), 5)}
FAMILIES = {
  "resnet": (SMALL["resnet"], {"Conv": 6, "Relu": 5, "Add": 2, "Sub": 1, "Mul": 0, "Transpose": 1}),
  "efficientnet": (
    SMALL["efficientnet"], {"Conv": 10, "Clip": 7, "Add": 2, "Sub": 1, "Mul": 0, "Transpose": 1},
  ),
  "googlenet": (
    partial(models.GoogLeNet, batch_norm=True),
    {"Conv": 9, "Relu": 9, "Add": 0, "Sub": 1, "Mul": 0, "Transpose": 1},
  ),
  # Layer normalisation and dense layers read the channels last.
  "convnext": (
    partial(models.ConvNeXt, depths=(1, 1), widths=(4, 6)), {"Conv": 4, "Transpose": 7},
  ),
  "vit": (
    partial(models.ViT, width=16, depth=1, heads=2, patch=8, grid=4), {"Conv": 1, "Transpose": 6},
  ),
}  # fmt: skip
"""A small net of each -> its operations: of BatchNorm nothing, one transpose for an image."""


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_keeps_only_what_it_computes(family, monkeypatch):
  monkeypatch.setattr(googlenet, "INCEPTION", INCEPTION)
  make, counts = FAMILIES[family]
  encoder = make()
  init = partial(encoder.init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  draw = lambda leaf: np.float32(
    RNG.normal(size=leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1])
    if len(leaf.shape) > 1
    else RNG.uniform(0.5, 1.5, leaf.shape)
  )
  variables = jax.tree.map(draw, shapes)
  function = lambda images: encoder.apply(variables, images / 255 - 0.5, train=False)
  model = _onnx.convert(function, (None, 32, 32, 3), np.uint8, name="test")
  assert counted(model, counts) == counts
  images = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
  expected = np.asarray(jax.jit(function)(images))
  np.testing.assert_allclose(run(model, images), expected, atol=1e-4 * abs(expected).max())
