"""Window means against NumPy, and the hardness that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import hdml
from tests.hdml.reference import WindowMean


@pytest.mark.parametrize("length", [1, 3, 64])
def test_the_mean_is_that_of_the_last_whole_window(length):
  values = np.random.default_rng(0).uniform(0.0, 9.0, 130).astype(np.float32)

  def body(window, value):
    window = hdml.update_window(window, value, length)
    return window, window

  last, trace = jax.jit(lambda v: jax.lax.scan(body, hdml.init_window(7.0), v))(values)
  want = WindowMean(7.0, length)
  for i, value in enumerate(values):
    want.update(value)
    np.testing.assert_allclose(trace.mean[i], want.mean, rtol=1e-6)
    np.testing.assert_allclose(trace.total[i], sum(want.values), rtol=1e-5)
    assert trace.count[i] == len(want.values)
  by_blocks = values[: len(values) // length * length].reshape(-1, length).mean(1)
  np.testing.assert_allclose(last.mean, by_blocks[-1], rtol=1e-6)
  assert (last.mean.dtype, last.total.dtype, last.count.dtype) == ("float32", "float32", "int32")


def test_state_before_training_pulls_nothing_and_trusts_the_real():
  state = hdml.init_state()
  assert float(state.metric.mean) == float(state.generator.mean) == 1e6
  assert float(hdml.hardness(state.metric.mean, 90.0)) > 0.9999
  small = hdml.init_state(2.0)
  assert float(small.metric.mean) == float(small.generator.mean) == 2.0


def test_a_shorter_window_takes_over_at_once():
  """A run that goes on with a smaller window closes the running one with what it has."""
  window = hdml.Window(jnp.float32(1.0), jnp.float32(30.0), jnp.int32(5))
  window = hdml.update_window(window, 6.0, length=2)
  assert (float(window.mean), float(window.total), int(window.count)) == (6.0, 0.0, 0)


@pytest.mark.parametrize(
  ("average", "alpha", "want"),
  [
    (90.0, 90.0, np.exp(-1.0)),
    (45.0, 90.0, np.exp(-2.0)),
    (1e6, 90.0, np.exp(-90e-6)),
    (np.inf, 90.0, 1.0),
    (1.0, 0.0, 1.0),
    (4.16, 90.0, np.exp(-90 / 4.16)),
    (1e-30, 90.0, 0.0),
    (0.0, 90.0, 0.0),
    (0, 90.0, 0.0),
  ],
)
def test_hardness(average, alpha, want):
  np.testing.assert_allclose(hdml.hardness(average, alpha), want, rtol=1e-5)


def test_hardness_rises_with_the_loss_within_its_limits():
  lam = np.asarray(hdml.hardness(jnp.geomspace(1e-3, 1e9, 200), 90.0))
  assert np.all(np.diff(lam) >= 0)
  assert lam[0] == 0.0 and lam[-1] > 0.999999 and np.max(lam) <= 1.0


def test_hardness_is_differentiable_at_zero():
  assert float(jax.grad(hdml.hardness)(0.0, 90.0)) == 0.0
