"""The pieces encoders are made of, against flax, XLA and NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.models.blocks import BatchNorm, max_pool_ceil
from jaxdml.models.convnet import StridedConv
from jaxdml.models.googlenet import local_response_norm


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 2, 6, 5)])
def test_strided_conv_equals_xla(shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=shape), jnp.float32)
  ours = StridedConv(7)
  theirs = nn.Conv(7, (3, 3), 2, use_bias=False)
  kernel = jnp.asarray(rng.normal(size=(3, 3, shape[-1], 7)), jnp.float32)
  variables = {"params": {"kernel": kernel}}
  for module in (ours, theirs):
    initial = jax.eval_shape(module.init, jax.random.key(1, impl="rbg"), x)
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, variables)

  def value(module, variables, x):
    y = module.apply(variables, x)
    return jnp.sum(jnp.sin(y)), y

  gradient = jax.jit(jax.grad(value, (1, 2), has_aux=True), static_argnums=0)
  a, b = (gradient(module, variables, x) for module in (ours, theirs))
  jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("train", [False, True])
def test_batchnorm_equals_flax(train):
  x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (6, 4, 5)), jnp.float32)
  ours = BatchNorm(momentum=0.9)
  theirs = nn.BatchNorm(momentum=0.9, use_running_average=not train)
  variables = ours.init(jax.random.key(1, impl="rbg"), x, train=False)
  variables["params"]["scale"] = jnp.linspace(0.5, 2, 5)
  variables["batch_stats"]["mean"] = jnp.arange(5.0)
  y, updates = ours.apply(variables, x, train=train, mutable=["batch_stats"])
  expected_y, expected_updates = theirs.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, dict(expected_updates)
  )


def test_batchnorm_variance_survives_a_large_mean():
  """E[x^2] - E[x]^2 in float32 loses everything here."""
  noise = np.random.default_rng(0).normal(size=(256, 1))
  model = BatchNorm(epsilon=0.0)
  variables = model.init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 1)), train=False)
  y = model.apply(variables, jnp.asarray(noise + 5000, jnp.float32), train=True)
  np.testing.assert_allclose(y, (noise - noise.mean()) / noise.std(), atol=2e-3)


def test_local_response_norm_is_caffes():
  x = np.random.default_rng(0).normal(scale=50, size=(2, 3, 9)).astype(np.float32)
  expected = np.empty_like(x)
  for channel in range(9):
    near = x[..., max(channel - 2, 0) : channel + 3].astype(np.float64)
    expected[..., channel] = x[..., channel] / (1 + 1e-4 / 5 * (near**2).sum(-1)) ** 0.75
  np.testing.assert_allclose(local_response_norm(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("side", "pooled"), [(112, 56), (114, 57), (57, 28), (28, 14), (3, 1), (2, 1)]
)
def test_ceil_pooling(side, pooled):
  x = jnp.arange(side, dtype=jnp.float32)[None, :, None, None] * jnp.ones((1, 1, side, 1))
  y = max_pool_ceil(x)
  assert y.shape == (1, pooled, pooled, 1)
  expected = np.minimum(2 * np.arange(pooled) + 2, side - 1)
  np.testing.assert_array_equal(y[0, :, 0, 0], expected)
