"""Products whose gradients are written by hand are the plain product, and so are the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances as products


@pytest.mark.parametrize("with_rows", [False, True])
def test_matmul_transposed_is_the_plain_product(with_rows):
  rng = np.random.default_rng(0)
  x, y, bar = (np.float32(rng.normal(size=s)) for s in ((5, 3), (3, 7), (5, 7)))
  of = lambda x, y: products.matmul_transposed(x, y, y.T if with_rows else None)
  value, pull = jax.vjp(of, x, y)
  np.testing.assert_allclose(value, x @ y, rtol=1e-5)
  x_bar, y_bar = pull(bar)
  np.testing.assert_allclose(x_bar, bar @ y.T, rtol=1e-5)
  np.testing.assert_allclose(y_bar, x.T @ bar, rtol=1e-5)


@pytest.mark.parametrize("with_rows", [False, True])
def test_bfloat16_accumulates_in_float32_and_gets_gradients_in_kind(with_rows):
  """300 ones: bfloat16 cannot count beyond 256."""
  x, y = jnp.ones((2, 300), jnp.bfloat16), jnp.ones((300, 4), jnp.bfloat16)
  of = lambda x, y: products.matmul_transposed(x, y, y.T if with_rows else None)
  value, pull = jax.vjp(of, x, y)
  assert value.dtype == jnp.float32 and np.all(value == 300)
  assert all(bar.dtype == jnp.bfloat16 for bar in pull(jnp.ones_like(value)))
  assert np.all(products.matmul(x, y.T) == 300)
