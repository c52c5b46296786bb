"""The layers encoders are made of, against flax, XLA and NumPy; GeM where float32 ends."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.models.convnet import StridedConv
from jaxdml.models.googlenet import local_response_norm
from jaxdml.models.layers import POOLINGS, BatchNorm, Pooling, layer_norm, max_pool_ceil


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


@pytest.mark.parametrize("size", [5, 11, 4])
def test_the_gradient_of_local_response_norm_is_that_of_its_formula(size):
  """An even window is not its own mirror image."""

  def plain(x):
    window = (1,) * (x.ndim - 1) + (size,)
    energy = jax.lax.reduce_window(x**2, 0.0, jax.lax.add, window, (1,) * x.ndim, "SAME")
    return x / (1 + 0.5 / size * energy) ** 0.75

  x, g = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).normal(size=(2, 2, 3, 12)))
  ours, theirs = (jax.vjp(fn, x) for fn in (lambda x: local_response_norm(x, size, 0.5), plain))
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(ours[1](g)[0], theirs[1](g)[0], rtol=1e-4, atol=1e-5)
  assert local_response_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


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


X = np.random.default_rng(0).normal(1.0, 1.0, (2, 3, 5, 4)).astype(np.float32)


def gem(x, p):
  x = np.maximum(x.astype(np.longdouble), 1e-6)  # range to 1e4932
  return (x**p).mean((1, 2)) ** (1 / p)


EXPECTED = {
  "avg": X.mean((1, 2)),
  "max": X.max((1, 2)),
  "avg+max": X.mean((1, 2)) + X.max((1, 2)),
  "gem": gem(X, 3.0),
  "none": X,
}


@pytest.mark.parametrize("kind", POOLINGS)
def test_pooling_equals_numpy(kind):
  model = Pooling(kind)
  y, variables = model.init_with_output(jax.random.key(0), jnp.asarray(X, jnp.bfloat16))
  assert y.dtype == jnp.float32
  assert variables == ({"params": {"p": 3.0}} if kind == "gem" else {})
  np.testing.assert_allclose(model.apply(variables, X), EXPECTED[kind], rtol=1e-5)


@jax.jit
def pooled(p, x):
  """GeM and the gradients of its sum."""
  pool = lambda p, x: Pooling("gem").apply({"params": {"p": p}}, x)
  return pool(p, x), jax.grad(lambda *a: pool(*a).sum(), (0, 1))(p, x)


@pytest.mark.parametrize("p", [1.0, 6.5, 50.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e10])
def test_gem_of_any_exponent_is_finite_with_its_gradients(p, scale):
  value, gradients = pooled(p, jnp.asarray(scale * X))
  np.testing.assert_allclose(value, gem(scale * X, p), rtol=1e-4)
  for leaf in gradients:
    assert np.isfinite(leaf).all()


def test_gem_gradients_are_those_of_the_formula():
  direct = lambda p, x: jnp.mean(jnp.maximum(x, 1e-6) ** p, (1, 2)) ** (1 / p)
  ours = lambda p, x: Pooling("gem").apply({"params": {"p": p}}, x)
  a, b = (jax.grad(lambda *z, f=f: jnp.sin(f(*z)).sum(), (0, 1))(3.0, X) for f in (ours, direct))
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-6), a, b)


def test_gem_of_blank_maps_has_no_nan():
  _, gradients = pooled(3.0, jnp.zeros_like(X))
  assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_an_unknown_pooling_is_refused():
  with pytest.raises(ValueError, match="avg, max, avg\\+max, gem, none; got 'mean'"):
    Pooling("mean").apply({}, X)


@pytest.mark.parametrize(
  ("dtype", "mean", "bound"), [(jnp.float32, 1e4, 2e-3), (jnp.bfloat16, 100.0, 2**-8)]
)
def test_layer_norm_is_as_exact_as_what_it_is_of(dtype, mean, bound):
  x = jnp.asarray(np.random.default_rng(0).normal(mean, 1.0, (8, 384)), dtype)
  exact = np.asarray(x, np.float64)
  exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
  norm = layer_norm(dtype, 1e-6)
  found, _ = norm.init_with_output(jax.random.key(0), x)
  assert found.dtype == jnp.float32
  assert np.abs(found - exact).max() < bound * np.abs(exact).max()
