"""One global batch on 1 device and on 8: the same losses, parameters and statistics."""

import functools

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdml.training import parallel
from tests.training.helpers import (
  build_program,
  compiled,
  fake_batch,
  tiny_config,
  train,
  train_on_all,
)

HDML_NPAIR = {
  "data.sampler": "npair",
  "loss.layout": "npair",
  "hdml.enabled": True,
  "loss.options.l2_reg": 3e-3,
}
CASES = {
  "hdml_npair": HDML_NPAIR,
  "hdml_eps_slots": {
    "hdml.enabled": True,
    "hdml.slots": 5,
    "hdml.synthetic_bn": "real",
    "hdml.running_bn": "both",
    "mining.positive": "nearest_positive",
    "optimizer.weight_decay": 1e-3,
    "optimizer.weight_decay_in_loss": True,
  },
  "margin_random": {
    "loss.name": "margin",
    "loss.learnable_beta": "per_class",
    "mining.negative": "distance_weighted_negative",
    "optimizer.weight_decay": 1e-3,
    "optimizer.weight_decay_in_loss": True,
  },
}
BATCHES = [fake_batch(step) for step in range(5)]


def _config(case):
  config = tiny_config()
  with config.unlocked():
    if case == "hdml_npair":
      config.loss.options.l2_reg = 0.0
    config.update_from_flattened_dict(CASES[case])
  return config


def _assert_same(one, many, rtol):
  losses_one, state_one = one
  losses_many, state_many = many
  for a, b in zip(losses_one, losses_many, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-5, err_msg=name)
  variables = lambda state: jax.tree.map(np.asarray, (state.params, state.batch_stats))
  chex.assert_trees_all_close(variables(state_one), variables(state_many), rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_equal_one(case):
  config = _config(case)
  one = train(config, BATCHES)
  assert len(jax.devices()) == 8
  metrics, state = train_on_all(config, BATCHES)
  _assert_same(one, (metrics, parallel.unreplicate(state)), rtol=2e-3)
  # The comparison means something: the loss moved, and every group of parameters with it.
  assert one[0][0]["loss/real"] != pytest.approx(one[0][-1]["loss/real"], rel=1e-3)
  for name, before in compiled(config).state.params.items():
    after = one[1].params[name]
    assert any(
      not np.array_equal(a, b)
      for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ), name


def test_first_step_is_equal_to_float_error():
  """Before Adam's division amplifies rounding: the first loss and gradient norm, tightly."""
  config = _config("hdml_npair")
  (one,), _ = train(config, BATCHES[:1])
  (many,), _ = train_on_all(config, BATCHES[:1])
  for name in ("loss", "loss/real", "loss/synthetic", "loss/generator", "loss/head", "grad_norm"):
    np.testing.assert_allclose(one[name], many[name], rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_same_step_under_shard_map_and_vmap():
  config = _config("hdml_npair")
  one = train(config, BATCHES[:2])
  step = build_program(config, axis_name=parallel.AXIS).step

  def run(step_fn, split=lambda b: b):
    state, metrics = compiled(config).state, []
    for batch in BATCHES[:2]:
      state, scalars = step_fn(state, split(batch))
      metrics.append({k: float(np.ravel(v)[0]) for k, v in scalars.items()})
    return metrics, state

  mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
  replicated, sharded = PartitionSpec(), PartitionSpec(parallel.AXIS)
  mapped = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(replicated, sharded),
    out_specs=(replicated, replicated),
    check_vma=False,
  )
  _assert_same(one, run(jax.jit(mapped)), rtol=2e-3)

  vmapped = jax.vmap(step, in_axes=(None, 0), out_axes=0, axis_name=parallel.AXIS)

  @functools.partial(jax.jit)
  def first(state, batch):
    return jax.tree.map(lambda x: x[0], vmapped(state, batch))

  split = lambda batch: {k: v.reshape(8, -1, *v.shape[1:]) for k, v in batch.items()}
  _assert_same(one, run(first, split), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hdml_npair", "margin_random"])
def test_fifty_steps_of_shard_map_are_those_of_pmap(case):
  config = _config(case)
  batches = [fake_batch(step) for step in range(50)]
  metrics, expected = train_on_all(config, batches)
  step = parallel.compile_step(build_program(config, axis_name=parallel.AXIS).step, "shard_map")
  state = parallel.replicate(compiled(config, parallel.AXIS).state)
  for batch, of_pmap in zip(batches, metrics, strict=True):
    state, scalars = step(state, parallel.split(batch))
    for name, value in parallel.unreplicate(scalars).items():
      np.testing.assert_allclose(value, of_pmap[name], rtol=1e-6, err_msg=name)
  chex.assert_trees_all_close(*map(parallel.unreplicate, (state, expected)), rtol=1e-6, atol=1e-7)


def test_second_step_compiles_nothing():
  _, state, step = compiled(_config("hdml_npair"), parallel.AXIS)
  state, _ = step(parallel.replicate(state), parallel.split(BATCHES[0]))
  with jax.log_compiles(False), jax.transfer_guard_device_to_host("allow"):
    compilations = _count_compiles(lambda: step(state, parallel.split(BATCHES[1])))
  assert compilations == 0


def _count_compiles(call):
  events = []
  listen = lambda name, *_, **__: events.append(name) if "backend_compile" in name else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    jax.block_until_ready(call())
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return len(events)
