"""Training with a cross-batch memory: eight devices = one, warm-up, resuming, what it refuses."""

import signal

import jax
import numpy as np
import pytest

from jaxdml import training
from jaxdml.training import checkpoints, loop, parallel
from jaxdml.training import config as config_lib
from tests.training.helpers import build_program, fake_batch, tiny_config, train, train_on_all
from tests.training.test_loop import LIGHT, assert_bitwise, digits_config, final_state

SIZE = 80
XBM = {
  "loss.name": "triplet",
  "mining.positive": "nearest_positive",
  "mining.negative": "hardest_negative",
  "memory.size": SIZE,
}


def build(config, axis_name=None):
  return build_program(
    config, num_classes=20, total_steps=4, steps_per_epoch=2, axis_name=axis_name
  )


def run(config, batches):
  """Metrics of each step and the last state, on one device."""
  return train(config, batches, total_steps=4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["all_pairs", "npair"])
def test_eight_devices_equal_one(layout):
  config = tiny_config(**XBM, **{"loss.layout": layout, "data.sampler": "npair"})
  batches = [fake_batch(step) for step in range(4)]
  one, state = run(config, batches)
  assert [m["memory/filled"] for m in one] == [32, 64, 80, 80]
  assert len(jax.devices()) == 8
  many, device_state = train_on_all(config, batches, total_steps=4)
  for got, want in zip(many, one, strict=True):
    for name in ("loss", "grad_norm", "memory/filled"):
      np.testing.assert_allclose(got[name], want[name], rtol=2e-3, err_msg=name)
  for copies in jax.tree.leaves(jax.device_get(device_state)):
    np.testing.assert_array_equal(copies, copies[:1].repeat(8, axis=0))
  memory = parallel.unreplicate(device_state).memory
  for field in ("labels", "ids", "cursor", "filled"):
    np.testing.assert_array_equal(getattr(memory, field), getattr(state.memory, field))
  np.testing.assert_allclose(memory.embeddings, state.memory.embeddings, rtol=1e-2, atol=2e-3)
  # Four batches of 32 through 80 slots: the first 48 were written again.
  stored = np.concatenate([batch["index"] for batch in batches])
  np.testing.assert_array_equal(memory.ids, np.concatenate([stored[80:], stored[48:80]]))


@pytest.mark.slow
def test_the_memory_enters_the_loss_after_its_warm_up():
  batches = [fake_batch(step) for step in range(4)]
  without, _ = run(tiny_config(**{**XBM, "memory.size": 0}), batches)
  warm, _ = run(tiny_config(**XBM, **{"memory.warmup": "1 epochs"}), batches)
  assert [m["memory/filled"] for m in warm] == [0, 0, 32, 64]
  for step in range(3):
    np.testing.assert_allclose(warm[step]["loss"], without[step]["loss"], rtol=1e-4)
  assert abs(warm[3]["loss"] - without[3]["loss"]) > 0.01 * without[3]["loss"]


def test_an_older_embedding_of_an_image_is_not_its_positive():
  """Without learning, the batch again in the memory changes no nearest positive or negative."""
  config = tiny_config(**XBM, **{"optimizer.learning_rate": 1e-12, "loss.reducer": "mean_elements"})
  batch = fake_batch(0)
  same, _ = run(config, [batch, batch])
  np.testing.assert_allclose(same[1]["loss"], same[0]["loss"], rtol=1e-4)
  others, _ = run(config, [batch, {**batch, "index": batch["index"] + 40}])
  assert others[1]["loss"] < 0.8 * same[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [XBM, {"loss.name": "proxy_nca"}], ids=["memory", "proxies"])
def test_resuming_is_exact(overrides, data_dir, tmp_path, monkeypatch):
  config = digits_config(data_dir, **{**LIGHT, **overrides, "train.duration": "6 steps"})
  loop.train_and_evaluate(config, tmp_path / "whole")
  calls = []
  real = parallel.compile_step

  def compile_and_stop(step, way):
    compiled = real(step, way)

    def run(state, batch):
      calls.append(1)
      if len(calls) == 3:
        signal.raise_signal(signal.SIGTERM)
      return compiled(state, batch)

    return run

  monkeypatch.setattr(parallel, "compile_step", compile_and_stop)
  assert loop.train_and_evaluate(config, tmp_path / "stopped") is None
  stopped, _ = final_state(tmp_path / "stopped", config)
  assert int(stopped.step) == 3
  assert loop.train_and_evaluate(config, tmp_path / "stopped") is not None
  resumed, whole = (final_state(tmp_path / name, config) for name in ("stopped", "whole"))
  assert int(resumed[0].step) == 6 and len(calls) == 6
  assert_bitwise(resumed, whole)
  if config.memory.size:
    assert int(stopped.memory.filled) == SIZE and np.all(whole[0].memory.ids >= 0)
  else:
    proxies = [state.params["loss"]["proxies"] for state in (stopped, whole[0])]
    assert proxies[0].shape == (2, 8) and not np.array_equal(*proxies)


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
  without, with_memory = build(tiny_config()), build(tiny_config(**XBM))
  state = jax.tree.map(np.asarray, jax.jit(without.init)(jax.random.key(0)))
  manager = checkpoints.Checkpoints(tmp_path, keep=1)
  manager.save("last", 1, state, checkpoints.Progress())
  manager.wait()
  abstract = jax.eval_shape(with_memory.init, jax.random.key(0))
  with pytest.raises(checkpoints.CheckpointError, match="cannot read the checkpoint"):
    manager.restore("last", abstract)
  manager.close()


REFUSED = {
  "negative": (
    {"memory.size": -1},
    "config.memory.size: expected a number of at least 0 and below 2147483648; got -1",
  ),
  "warmup": ({"memory.warmup": "soon"}, 'config.memory.warmup: expected "N steps" or "N epochs"'),
  "triplet": (
    {"loss.layout": "triplet", "data.sampler": "triplet", "data.batch_size": 24},
    "config.memory.size: the triplet layout gives each anchor references of its own",
  ),
  "hdml": ({"hdml.enabled": True}, "config.memory.size: HDML works on the batch alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
  overrides, message = REFUSED[case]
  with pytest.raises(config_lib.ConfigError) as caught:
    training.resolve(tiny_config(**{**XBM, **overrides}), 8)
  assert message in str(caught.value)


def test_accepts_a_memory_with_both_layouts():
  training.resolve(tiny_config(**XBM), 8)
  training.resolve(tiny_config(**XBM, **{"loss.layout": "npair", "data.sampler": "npair"}), 8)
