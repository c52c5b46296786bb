"""Averages of the weights: the recurrence, the start, what they hold, and older checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import training
from jaxdml.training import checkpoints, networks, program
from jaxdml.training.config import ConfigError
from tests.training.helpers import compiled, fake_batch, tiny_config, train

BATCHES = [fake_batch(step) for step in range(4)]
AVERAGED = {"train.ema_decay": 0.8, "encoder.frozen_stages": 1}


def test_it_is_the_debiased_recurrence():
  """m_t = d m_{t-1} + (1 - d) x_t from 0, over 1 - d^t, in float64."""
  values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
  for decay in (0.8, 0.9999):
    average, m = jnp.full(5, 77.0), np.zeros(5)
    for step, x in enumerate(values):
      average = program.moving_average(average, jnp.asarray(x), jnp.int32(step), decay)
      m = decay * m + (1 - decay) * np.float64(x)
      np.testing.assert_allclose(average, m / (1 - decay ** (step + 1)), rtol=2e-5, atol=1e-6)
      assert step or np.array_equal(average, x)


def test_a_step_averages_parameters_and_statistics():
  config = tiny_config(**AVERAGED)
  start = compiled(config).state
  leaves = lambda tree: jax.tree.leaves(jax.tree.map(np.asarray, tree))
  seen = [train(config, BATCHES[:count])[1] for count in (1, 2, 3)]
  for a, b in zip(leaves(start.ema["params"]["encoder"]), leaves(start.params["encoder"]),
                  strict=True):  # fmt: skip
    assert np.array_equal(a, b)
  part = lambda state: {
    "params": {n: state.params[n] for n in ("encoder", "embedding")},
    "batch_stats": {n: state.batch_stats[n] for n in ("encoder", "embedding")},
  }
  weights = np.array([0.64, 0.8, 1.0]) * 0.2 / (1 - 0.8**3)
  wanted = jax.tree.map(lambda *x: sum(w * np.float64(v) for w, v in zip(weights, x, strict=True)),
                        *map(part, seen))  # fmt: skip
  for a, b in zip(leaves(seen[-1].ema), leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  # The average of what is frozen is that, to the last bit.
  average, params = seen[-1].ema["params"]["encoder"], seen[-1].params["encoder"]
  assert np.array_equal(average["conv0"]["kernel"], params["conv0"]["kernel"])
  assert not np.array_equal(average["conv1"]["kernel"], params["conv1"]["kernel"])
  deployed = networks.deployed(config, seen[-1]._asdict())
  assert deployed["params"]["embedding"] is seen[-1].ema["params"]["embedding"]
  # Training itself takes no notice.
  without = train(tiny_config(**{**AVERAGED, "train.ema_decay": 0.0}), BATCHES[:3])[1]
  for a, b in zip(leaves(without.params), leaves(seen[-1].params), strict=True):
    assert np.array_equal(a, b)
  assert without.ema == ()


def test_checkpoints_without_averages_are_as_they_were(tmp_path):
  """A run that began before there were averages has no such entry, and resumes."""
  state = jax.tree.map(np.asarray, compiled(tiny_config()).state)
  manager = checkpoints.Checkpoints(tmp_path, keep=1)
  before = {name: value for name, value in state._asdict().items() if name != "ema"}
  manager.save("last", 3, before, checkpoints.Progress(0.5, 3))
  manager.wait()
  restored, progress = manager.restore("last", jax.eval_shape(lambda: state))
  manager.close()
  assert progress == checkpoints.Progress(0.5, 3, waited=0)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("train.ema_decay", 1.0, "train.ema_decay: expected a number of at least 0 and below 1"),
    ("train.patience", -1, "train.patience: expected a number of at least 0"),
    ("train.patience", 2, "train.patience: eval.select_by=last always gets better"),
  ],
)
def test_refuses(key, value, message):
  config = tiny_config(**{key: value, "eval.select_by": "last"})
  with pytest.raises(ConfigError, match=message):
    training.resolve(config)
