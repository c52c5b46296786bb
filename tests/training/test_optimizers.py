"""Groups, schedules and weight decay."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxdml import training
from jaxdml.training import optimizers
from jaxdml.training.config import ConfigError
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


def _matrices():
  """Parameters with two matrices, and gradients of three steps."""
  rng = np.random.default_rng(0)
  draw = lambda: {
    "encoder": {"fc": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}},
    "embedding": {"bn": {"scale": rng.normal(size=2)}, "fc": {"kernel": rng.normal(size=(4, 2))}},
  }
  return [jax.tree.map(jnp.float32, draw()) for _ in range(4)]


def _weights(params):
  """Everything but the normalisation's scale."""
  return {**jax.tree.map(lambda _: True, params), "embedding": {
    "bn": {"scale": False}, "fc": {"kernel": True}}}  # fmt: skip


def _sgdw(rate, momentum, weight_decay, mask):
  decay = optax.add_decayed_weights(weight_decay, mask)
  return optax.chain(optax.trace(momentum), decay, optax.scale(-rate))


@pytest.mark.parametrize(
  ("name", "options", "decay", "theirs"),
  [
    ("adam", {}, 0.0, optax.adam(0.1)),
    ("adam", {"b1": 0.5, "nesterov": True}, 0.0, optax.adam(0.1, b1=0.5, nesterov=True)),
    ("adam", {}, 0.3, optax.adamw(0.1, weight_decay=0.3, mask=_weights)),
    ("adamw", {"b2": 0.9}, 0.3, optax.adamw(0.1, b2=0.9, weight_decay=0.3, mask=_weights)),
    ("lamb", {}, 0.3, optax.lamb(0.1, weight_decay=0.3, mask=_weights)),
    ("lion", {"b1": 0.2}, 0.3, optax.lion(0.1, b1=0.2, weight_decay=0.3, mask=_weights)),
    ("muon", {"consistent_rms": 0.2}, 0.0, optax.contrib.muon(0.1, consistent_rms=0.2)),
    ("sgd", {}, 0.0, optax.sgd(0.1)),
    ("sgd", {"momentum": 0.9}, 0.3, _sgdw(0.1, 0.9, 0.3, _weights)),
  ],
)
def test_optimizers_are_those_of_optax(name, options, decay, theirs):
  config = tiny_config(**{
    "optimizer.name": name, "optimizer.options": options, "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": decay, "optimizer.weight_decay_in_loss": False,
  })  # fmt: skip
  ours, (params, *gradients) = optimizers.create(training.resolve(config), 10, 10), _matrices()
  state, expected = ours.init(params), theirs.init(params)
  if name == "adam":  # What runs of before have saved.
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
    saved = shapes([optax.adam(optax.constant_schedule(0.1)).init(params)])
    assert shapes(state.inner_states["metric"]) == saved
  for gradient in gradients:
    update, state = ours.update(gradient, state, params)
    wanted, expected = theirs.update(gradient, expected, params)
    chex.assert_trees_all_close(update, wanted, rtol=1e-6)


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ({"name": "adamm"}, "optimizer.name: expected one of adam, adamw, lamb, lion, muon, sgd; got"),
    ({"options": {"momentum": 0.9}}, "optimizer.options: adam takes b1, b2, eps, nesterov; got"),
    ({"options": {"b1": 1.0}}, r"optimizer.options.b1: expected a number in \[0, 1\); got 1.0"),
    ({"options": {"nesterov": 1}}, "optimizer.options.nesterov: expected True or False; got 1"),
    ({"name": "muon", "options": {"ns_steps": 2.5}}, "ns_steps: expected a whole number of at"),
    ({"options": {"eps": 0.0}}, "optimizer.options.eps: expected a positive number"),
    (
      {"name": "adamw", "weight_decay": 0.1, "weight_decay_in_loss": True},
      "optimizer.weight_decay_in_loss: adamw decays the weights, not the loss",
    ),
  ],
)
def test_refuses(keys, message):
  config = tiny_config()
  config.optimizer.update(keys)
  with pytest.raises(ConfigError, match=message):
    training.resolve(config)
