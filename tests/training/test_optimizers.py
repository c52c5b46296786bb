"""Groups, schedules and weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.training import optimizers
from tests.training.helpers import tiny_config

PARAMS = {
  "encoder": {
    "conv": {"kernel": jnp.full((2,), 3.0)},
    "bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
  },
  "embedding": {"fc": {"kernel": jnp.full((2,), 2.0), "bias": jnp.ones(1)}},
  "generator": {"fc1": {"kernel": jnp.ones(2)}},
  "head": {"fc": {"kernel": jnp.ones(2)}},
  "loss": {"beta": jnp.ones(())},
}


def test_each_group_moves_at_its_own_rate():
  config = tiny_config(
    **{
      "optimizer.learning_rate": 0.1,
      "optimizer.generator_learning_rate": 0.2,
      "optimizer.head_learning_rate": 0.3,
      "optimizer.loss_learning_rate": 0.4,
    }
  )
  optimizer = optimizers.create(config, 10, 10)
  # Adam's first step is the learning rate times the sign of the gradient.
  updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
  moved = {name: float(-jnp.ravel(tree)[0]) for name, tree in _first_leaves(updates).items()}
  expected = {"encoder": 0.1, "embedding": 0.1, "generator": 0.2, "head": 0.3, "loss": 0.4}
  assert moved == pytest.approx(expected, rel=1e-4)


def _first_leaves(tree):
  first = lambda x: first(next(iter(x.values()))) if isinstance(x, dict) else x
  return {name: first(value) for name, value in tree.items()}


def test_l2_penalty_leaves_batchnorm_out():
  decayed = {name: PARAMS[name] for name in ("encoder", "embedding")}
  # 0.1 / 2 * (2 * 3^2 + 2 * 2^2 + 1)
  np.testing.assert_allclose(optimizers.l2_penalty(decayed, 0.1), 0.05 * 27.0, rtol=1e-6)


def test_decoupled_decay_moves_weights_and_not_batchnorm():
  config = tiny_config(**{"optimizer.weight_decay": 0.5, "optimizer.learning_rate": 0.1})
  optimizer = optimizers.create(config, 10, 10)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates["encoder"]["conv"]["kernel"], -0.1 * 0.5 * 3.0, rtol=1e-5)
  np.testing.assert_allclose(updates["encoder"]["bn"]["scale"], 0.0)
  np.testing.assert_allclose(updates["generator"]["fc1"]["kernel"], 0.0)


def test_step_schedule_halves_at_milestones():
  config = tiny_config(
    **{
      "optimizer.schedule": "step",
      "optimizer.learning_rate": 8.0,
      "optimizer.milestones": ("3 steps", "1 epochs"),
    }
  )
  rate = optimizers.learning_rate(config, 10, 5)
  assert [float(rate(step)) for step in range(7)] == [8.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0]


def test_cosine_with_warmup():
  config = tiny_config(
    **{
      "optimizer.schedule": "cosine",
      "optimizer.learning_rate": 1.0,
      "optimizer.warmup": "2 steps",
    }
  )
  rate = optimizers.learning_rate(config, 6, 5)
  expected = [0.0, 0.5, *(0.5 * (1 + np.cos(np.pi * np.arange(5) / 4)))]
  np.testing.assert_allclose([rate(step) for step in range(7)], expected, atol=1e-6)
