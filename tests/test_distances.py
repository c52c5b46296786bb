"""Distances against loops, their gradients where they are delicate, their precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances
from tests.losses import reference
from tests.losses.table import compiled

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3))
NAMES = list(reference.DISTANCES)


@pytest.mark.parametrize("name", NAMES)
def test_matches_loops_in_float64_with_gradients(name):
  x, y = np.vstack([X, np.zeros(3)]), np.vstack([Y, np.zeros(3)])
  expected = [[reference.DISTANCES[name](a, b) for b in y] for a in x]
  with jax.enable_x64(True):
    fn = distances.create(name)
    np.testing.assert_allclose(compiled(fn)(x, y), expected, rtol=1e-9, atol=1e-12)
    weight, direction, h = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 3)), 1e-6
    value = compiled(jax.value_and_grad(lambda x: jnp.sum(weight * fn(x, Y))))
    numeric = (value(X + h * direction)[0] - value(X - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose(np.sum(value(X)[1] * direction), numeric, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", NAMES)
def test_delicate_points_are_finite(name, dtype):
  """Coincident points, zero vectors, opposite points: finite, never negative, in float32."""
  x = jnp.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1e-3, 0.0]], dtype)
  fn = lambda x: jnp.sum(jnp.sin(distances.create(name)(x, x)))
  d, gradient = compiled(lambda x: (distances.create(name)(x, x), jax.grad(fn)(x)))(x)
  assert d.dtype == jnp.float32 and gradient.dtype == dtype
  assert np.all(np.isfinite(d)) and np.all(np.isfinite(gradient))
  assert name == "dot" or np.all(d >= -1e-6)
  if name.endswith("euclidean"):
    np.testing.assert_allclose(d[1, 2], 0, atol=1e-3)


def test_gradient_is_zero_where_points_coincide():
  x = jnp.array([[0.3, 0.4]])
  for fn in (distances.euclidean, distances.squared_euclidean, distances.normalized_euclidean):
    np.testing.assert_array_equal(compiled(jax.grad(lambda a, fn=fn: fn(a, x)[0, 0]))(x), [[0, 0]])
  np.testing.assert_array_equal(jax.grad(lambda a: distances.cosine(a, x)[0, 0])(0 * x), [[0, 0]])


def test_safe_sqrt_and_l2_normalize():
  np.testing.assert_allclose(distances.safe_sqrt(jnp.array([0.0, 4.0])), [0, 2])
  np.testing.assert_allclose(
    jax.vmap(jax.grad(distances.safe_sqrt))(jnp.array([0.0, 4.0])), [0, 0.25]
  )
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
  np.testing.assert_allclose(distances.l2_normalize(x), [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)
  assert distances.l2_normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_nan_stays_nan():
  x = jnp.array([[jnp.nan, 1.0], [1.0, 0.0]])
  assert np.all(np.isnan(distances.l2_normalize(x)[0]))
  for name in NAMES:
    d = compiled(distances.create(name))(x, x[1:])
    assert np.isnan(d[0, 0]) and not np.isnan(d[1, 0]), name


def test_products_accumulate_in_float32():
  """4,099 needs 13 bits: bfloat16 has 8."""
  x = jnp.ones((1, 4099), jnp.bfloat16)
  assert float(distances.dot(x, x)[0, 0]) == -4099
  np.testing.assert_allclose(distances.cosine(x, x), [[0]], atol=1e-6)


def test_normalized_wraps_and_names():
  fn = distances.normalized(distances.dot)
  assert fn.__name__ == "normalized_dot"
  np.testing.assert_allclose(fn(3 * X, Y), distances.cosine(X, Y) - 1.0, atol=1e-6)
