"""Training losses with parameters: every name, eight devices = one, options, what is refused."""

import jax
import numpy as np
import pytest

from jaxdml import distances, losses, training
from jaxdml.training import config as config_lib
from jaxdml.training import metric_loss
from tests.losses import names
from tests.training.helpers import (
  build_program,
  compiled,
  fake_batch,
  tiny_config,
  train,
  train_on_all,
)

CLASSES = 20
SOFT_TRIPLE = {"loss.name": "soft_triple", "optimizer.loss_learning_rate": 0.05}


def configured(overrides, **init_options):
  config = tiny_config(**overrides)
  with config.unlocked():
    config.loss.init_options.update(init_options)
  return config


def build(config, axis_name=None):
  return build_program(
    config, num_classes=CLASSES, total_steps=2, steps_per_epoch=2, axis_name=axis_name
  )


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_trains_by_name(name):
  config = tiny_config(**{"loss.name": name})
  training.resolve(config, 8)
  program = build(config)
  state = jax.eval_shape(program.init, jax.random.key(0))
  after, metrics = jax.eval_shape(program.step, state, fake_batch(0))
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert jax.tree.all(jax.tree.map(same, after, state)) and metrics["loss"].shape == ()
  assert ("loss" in state.params) == (name in names.PARAMETRIC)
  for leaf in jax.tree.leaves(state.params.get("loss", {})):
    assert (leaf.shape[0], leaf.shape[-1]) == (CLASSES, config.embedding.dim)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [0, 2])
def test_eight_devices_equal_one(block_size):
  """SoftTriple: several centers a class, and a penalty that must be counted once."""
  config = configured({**SOFT_TRIPLE, "loss.block_size": block_size}, centers_per_class=2)
  batches = [fake_batch(step) for step in range(2)]
  assert compiled(config).state.params["loss"]["centers"].shape == (CLASSES, 2, 8)
  one, state = train(config, batches)
  many, device_state = train_on_all(config, batches)
  for got, want in zip(many, one, strict=True):
    for name in ("loss", "grad_norm"):
      np.testing.assert_allclose(got[name], want[name], rtol=2e-4, err_msg=name)
  copies = np.asarray(device_state.params["loss"]["centers"])
  np.testing.assert_array_equal(copies, copies[:1].repeat(8, axis=0))
  np.testing.assert_allclose(copies[0], state.params["loss"]["centers"], rtol=1e-3, atol=2e-4)


def first_step(**overrides):
  config = tiny_config(**{"loss.name": "proxy_nca", **overrides})
  (metrics,), state = train(config, [fake_batch(0)])
  start = compiled(config).state
  moved = state.params["loss"]["proxies"] - start.params["loss"]["proxies"]
  return metrics["loss"], np.abs(moved).max()


@pytest.mark.slow
def test_reducer_distance_mining_and_learning_rate_of_the_config():
  mean, moved = first_step()
  # Adam's first step is the learning rate times the sign of the gradient.
  np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)
  total, moved = first_step(
    **{"loss.reducer": "sum", "loss.block_size": 8, "optimizer.loss_learning_rate": 0.02}
  )
  np.testing.assert_allclose(total, 32 * mean, rtol=1e-5)
  np.testing.assert_allclose(moved, 0.02, rtol=1e-3)
  hardest, _ = first_step(**{"mining.negative": "hardest_negative"})
  assert hardest < 0.9 * mean  # one negative in the denominator, not nineteen
  dot, _ = first_step(**{"loss.distance": "dot"})
  assert abs(dot - mean) > 0.01 * mean


def test_the_distance_takes_its_options():
  def between(curvature):
    config = tiny_config(**{"loss.name": "contrastive", "loss.distance": "hyperbolic"})
    config.loss.distance_options = {"curvature": curvature}
    return metric_loss.distance_of(config)(x, x)[0, 1]

  x = np.eye(2, dtype=np.float32)
  assert between(0.1) == distances.hyperbolic(curvature=0.1)(x, x)[0, 1] != between(1.0)


REFUSED = {
  "hdml": ({"hdml.enabled": True}, {}, "config.hdml.enabled: proxy_anchor has no tuples"),
  "layout": (
    {"loss.layout": "npair", "data.sampler": "npair"}, {},
    "config.loss.layout: proxy_anchor compares each example with its parameters: all_pairs",
  ),
  "memory": ({"memory.size": 64}, {}, "config.memory.size: proxy_anchor compares examples with"),
  "option": ({}, {"centers": 2}, "config.loss.init_options: loss 'proxy_anchor' has no"),
  "value": (
    SOFT_TRIPLE, {"centers_per_class": 0}, "config.loss.init_options: num_classes, vectors of",
  ),
  "tuple_loss": ({"loss.name": "npair"}, {"k": 1}, "loss 'npair' has no init option ['k']"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
  overrides, init_options, message = REFUSED[case]
  config = configured({"loss.name": "proxy_anchor", **overrides}, **init_options)
  with pytest.raises(config_lib.ConfigError) as caught:
    training.resolve(config, 8)
  assert message in str(caught.value)


def test_miners_of_several_pairs_take_their_options():
  config = tiny_config(
    **{
      "loss.name": "margin",
      "mining.positive": "nearest_positives",
      "mining.negative": "multi_similarity_filter+hardest_negatives",
    }
  )
  with config.unlocked():
    config.mining.options.update({"k": 2, "epsilon": 0.2})
  training.resolve(config, 8)
  (metrics,), _ = train(config, [fake_batch(0)])
  assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0
  with config.unlocked():
    config.mining.options.update({"cutoff": 0.5})
  with pytest.raises(config_lib.ConfigError, match=r"takes the options \['cutoff'\]"):
    training.resolve(config, 8)
