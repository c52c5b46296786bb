"""Pooling against NumPy, and GeM where float32 would overflow or a logarithm would be infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.models.pooling import POOLINGS, Pooling

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


@pytest.mark.parametrize("p", [1.0, 6.5, 50.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e10])
def test_gem_of_any_exponent_is_finite_with_its_gradients(p, scale):
  x = jnp.asarray(scale * X)
  pool = lambda p, x: Pooling("gem").apply({"params": {"p": p}}, x)
  np.testing.assert_allclose(pool(p, x), gem(scale * X, p), rtol=1e-4)
  for leaf in jax.grad(lambda *a: pool(*a).sum(), (0, 1))(p, x):
    assert np.isfinite(leaf).all()


def test_gem_gradients_are_those_of_the_formula():
  direct = lambda p, x: jnp.mean(jnp.maximum(x, 1e-6) ** p, (1, 2)) ** (1 / p)
  ours = lambda p, x: Pooling("gem").apply({"params": {"p": p}}, x)
  a, b = (jax.grad(lambda *z, f=f: jnp.sin(f(*z)).sum(), (0, 1))(3.0, X) for f in (ours, direct))
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-6), a, b)


def test_gem_of_blank_maps_has_no_nan():
  grad = jax.grad(
    lambda p: Pooling("gem").apply({"params": {"p": p}}, jnp.zeros((1, 2, 2, 3))).sum()
  )
  assert np.isfinite(grad(3.0))


def test_an_unknown_pooling_is_refused():
  with pytest.raises(ValueError, match="avg, max, avg\\+max, gem, none; got 'mean'"):
    Pooling("mean").apply({}, X)
