"""Convolutions that are written for CPUs are the convolutions, forwards and backwards."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.models import convolutions


def both(module, x):
  """Output and gradients of flax's own convolution and of ours, in float64."""
  variables = nn.Conv(*module[0], **module[1]).init(jax.random.key(0), x)
  results = []
  for kind in (nn.Conv, convolutions.Conv):
    conv = kind(*module[0], **module[1])
    value = lambda v, x, conv=conv: jnp.sin(conv.apply(v, x)).sum()
    # One program: operation by operation, 49 products take several seconds to compile.
    of = lambda v, x, conv=conv, value=value: (conv.apply(v, x), jax.grad(value, (0, 1))(v, x))
    results.append(jax.jit(of)(variables, x))
  return results


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"strides": 2, "padding": ((0, 0), (0, 0))},
    {"strides": 3, "padding": "VALID", "use_bias": False},
    {"padding": ((1, 1), (0, 0))},
    {"feature_group_count": 3},
  ],
)
def test_equals_flax(options):
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(1), (2, 7, 5, 6), jnp.float64)
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, **options}
    expected, ours = both(((9, (1, 1)), options), x)
    close = lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, expected, ours)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize(
  ("size", "options"),
  [
    (3, {}),
    (3, {"strides": 2, "padding": ((1, 1), (1, 1))}),
    (5, {"padding": "SAME", "use_bias": False}),
    (7, {"strides": 2, "padding": ((3, 3), (3, 3))}),
    (2, {"padding": ((0, 1), (1, 0))}),
  ],
)
def test_small_maps_equal_flax(side, size, options):
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(1), (2, side, side + 1, 3), jnp.float64)
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, **options}
    expected, ours = both(((4, (size, size)), options), x)
    close = lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, expected, ours)


def test_small_maps_and_1x1_are_products():
  def program(size, side=4):
    conv = convolutions.Conv(4, (size, size), use_bias=False)
    x = jnp.ones((1, side, side, 3))
    variables = conv.init(jax.random.key(0), x)
    return jax.jit(jax.grad(lambda v: conv.apply(v, x).sum())).lower(variables).as_text()

  assert "convolution" not in program(1, side=16) + program(3, side=7) + program(5)
  assert "convolution" in program(3, side=8) and "convolution" in program(5, side=5)


def test_half_precision_accumulates_in_float32():
  x = jnp.full((1, 1, 1, 4096), 1.0, jnp.bfloat16)
  kernel = jnp.full((1, 1, 4096, 1), 1.0, jnp.bfloat16)
  y = convolutions.pointwise(x.at[..., 1:].set(2**-9), kernel, 1)
  assert y.dtype == jnp.bfloat16
  assert float(y[0, 0, 0, 0]) == pytest.approx(1 + 4095 / 512, rel=2**-8)


@pytest.mark.parametrize(
  ("height", "width", "size", "stride"),
  [
    (8, 6, 3, 1),
    (9, 7, 3, 2),
    (8, 10, 5, 2),
    (2, 1, 5, 2),
    (1, 3, 5, 1),
    (4, 5, 3, 3),
    (9, 5, 7, 1),
  ],
)
def test_depthwise_is_xlas(height, width, size, stride):
  """Values and both gradients, of the sum that CPUs run and of the convolution that others do."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(size, size, 1, 3)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(convolve, x, kernel):
    value = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, stride)))
    return convolve(x, kernel, stride), *jax.grad(value, (0, 1))(x, kernel)

  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
  jax.tree.map(close, run(convolutions.depthwise, x, kernel), run(convolutions.native, x, kernel))


def test_depthwise_runs_no_convolution_on_a_cpu_alone():
  """Both ways are lowered where the platform is not known, one of them where it is."""
  x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
  gradients = jax.grad(lambda x, k: convolutions.depthwise(x, k, 1).sum(), (0, 1))
  for function in (functools.partial(convolutions.depthwise, stride=1), gradients):
    traced = jax.jit(function).trace(x, kernel)
    assert "convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()
