"""One global batch on 1 device and on 8: the same losses, parameters and statistics."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdml.training import parallel
from tests.training.helpers import build_program, fake_batch, tiny_config

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


def _build(config, axis_name):
  return build_program(
    config, num_classes=20, total_steps=5, steps_per_epoch=5, axis_name=axis_name
  )


def _config(case):
  config = tiny_config()
  with config.unlocked():
    if case == "hdml_npair":
      config.loss.options.l2_reg = 0.0
    config.update_from_flattened_dict(CASES[case])
  return config


def _single(config):
  program = _build(config, None)
  return program, jax.jit(program.step)


def _run(step_fn, state, count=5, split=lambda b: b, read=lambda t: t):
  losses = []
  for step in range(count):
    state, metrics = step_fn(state, split(fake_batch(step)))
    losses.append({k: float(np.ravel(v)[0]) for k, v in metrics.items()})
  return losses, read(state)


def _assert_same(one, many, rtol):
  losses_one, state_one = one
  losses_many, state_many = many
  for a, b in zip(losses_one, losses_many, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-5, err_msg=name)
  flat_one = jax.tree_util.tree_leaves_with_path((state_one.params, state_one.batch_stats))
  flat_many = jax.tree.leaves((state_many.params, state_many.batch_stats))
  for (path, a), b in zip(flat_one, flat_many, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_equal_one(case):
  config = _config(case)
  program, step_fn = _single(config)
  state = jax.jit(program.init)(jax.random.key(0))
  one = _run(step_fn, state)
  assert len(jax.devices()) == 8
  sharded = parallel.compile_step(_build(config, parallel.AXIS).step)
  many = _run(sharded, parallel.replicate(state), split=parallel.split, read=parallel.unreplicate)
  _assert_same(one, many, rtol=2e-3)
  # The comparison means something: the loss moved, and every group of parameters with it.
  assert one[0][0]["loss/real"] != pytest.approx(one[0][-1]["loss/real"], rel=1e-3)
  for name, before in state.params.items():
    after = one[1].params[name]
    assert any(
      not np.array_equal(a, b)
      for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ), name


def test_first_step_is_equal_to_float_error():
  """Before Adam's division amplifies rounding: the first loss and gradient norm, tightly."""
  config = _config("hdml_npair")
  program, step_fn = _single(config)
  state = jax.jit(program.init)(jax.random.key(0))
  (one,), _ = _run(step_fn, state, count=1)
  sharded = parallel.compile_step(_build(config, parallel.AXIS).step)
  (many,), _ = _run(sharded, parallel.replicate(state), count=1, split=parallel.split)
  for name in ("loss", "loss/real", "loss/synthetic", "loss/generator", "loss/head", "grad_norm"):
    np.testing.assert_allclose(one[name], many[name], rtol=2e-5, err_msg=name)


def test_same_step_under_shard_map_and_vmap():
  config = _config("hdml_npair")
  program, step_fn = _single(config)
  state = jax.jit(program.init)(jax.random.key(0))
  one = _run(step_fn, state, count=2)
  step = _build(config, parallel.AXIS).step

  mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
  replicated, sharded = PartitionSpec(), PartitionSpec(parallel.AXIS)
  mapped = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(replicated, sharded),
    out_specs=(replicated, replicated),
    check_vma=False,
  )
  _assert_same(one, _run(jax.jit(mapped), state, count=2), rtol=2e-3)

  vmapped = jax.vmap(step, in_axes=(None, 0), out_axes=0, axis_name=parallel.AXIS)

  @functools.partial(jax.jit)
  def first(state, batch):
    return jax.tree.map(lambda x: x[0], vmapped(state, batch))

  split = lambda batch: {k: v.reshape(8, -1, *v.shape[1:]) for k, v in batch.items()}
  _assert_same(one, _run(first, state, count=2, split=split), rtol=2e-3)


def test_second_step_compiles_nothing():
  config = _config("hdml_npair")
  sharded = parallel.compile_step(_build(config, parallel.AXIS).step)
  state = parallel.replicate(jax.jit(_build(config, None).init)(jax.random.key(0)))
  state, _ = sharded(state, parallel.split(fake_batch(0)))
  with jax.log_compiles(False), jax.transfer_guard_device_to_host("allow"):
    compiled = _count_compiles(lambda: sharded(state, parallel.split(fake_batch(1))))
  assert compiled == 0


def _count_compiles(call):
  events = []
  listen = lambda name, *_, **__: events.append(name) if "backend_compile" in name else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    jax.block_until_ready(call())
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return len(events)
