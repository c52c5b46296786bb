"""Frozen stages, shares of the learning rate by stage, and an encoder that waits."""

import jax
import numpy as np
import pytest

from jaxdml.training.config import ConfigError
from tests.training.helpers import compiled, fake_batch, tiny_config, train


def moved(num_steps=1, **overrides):
  """Largest change of each stage's parameters over some steps: (encoder's, embedding's)."""
  config = tiny_config(**{"optimizer.learning_rate": 0.01, **overrides})
  batches = [fake_batch(number) for number in range(num_steps)]
  start, (_, state) = compiled(config, total_steps=9).state, train(config, batches, total_steps=9)
  change = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, state.params)
  largest = lambda tree: float(max(jax.tree.leaves(tree)))
  stages = {name: largest(tree) for name, tree in sorted(change["encoder"].items())}
  return stages, largest(change["embedding"])


def test_each_stage_has_its_share():
  # Adam's first step is the learning rate times the sign of the gradient.
  stages, embedding = moved(**{"optimizer.encoder_factor": 0.5, "optimizer.layer_decay": 0.1})
  assert embedding == pytest.approx(0.01, rel=1e-3)
  shares = sorted(set(np.round(list(stages.values()), 6)))
  assert shares == pytest.approx([0.01 * 0.5 * 0.1, 0.01 * 0.5], rel=1e-2)


def test_frozen_stages_never_change_and_cost_no_gradient():
  options = {"encoder.frozen_stages": 1, "optimizer.weight_decay": 0.5}
  stages, _ = moved(**options)
  assert [name for name, change in stages.items() if change == 0.0] == ["bn0", "conv0"]
  assert len(stages) == 4

  def norm(**overrides):
    config = tiny_config(**overrides)
    return train(config, [fake_batch(0)], total_steps=9)[0][0]["grad_norm"]

  assert norm(**{"encoder.frozen_stages": 1}) < norm()


def test_the_encoder_waits():
  options = {"optimizer.freeze_encoder": "1 epochs"}
  stages, embedding = moved(2, **options)
  assert max(stages.values()) == 0.0 < embedding
  assert min(moved(3, **options)[0].values()) > 0


def test_stages_begin_to_learn_one_after_the_other():
  """The embedding; from step 1 on the last stage as well, from 3 on all; exactly still before."""
  options = {"optimizer.unfreeze": ("1 steps: 1", "1.5 epochs: all")}
  still = [
    [name for name, change in moved(count, **options)[0].items() if change == 0.0]
    for count in (1, 2, 3, 4)
  ]
  first, last = ["bn0", "conv0"], ["bn1", "conv1"]
  assert still == [sorted(first + last), first, first, []]


def test_stages_that_never_learn_have_no_gradient_and_no_adapters():
  options = {"optimizer.unfreeze": ("1 steps: 1",)}
  program, state, _ = compiled(tiny_config(**options), total_steps=9)
  assert set(program.learns(state.params)["encoder"]["conv0"].values()) == {None}
  stages, _ = moved(3, **options)
  assert [name for name, change in stages.items() if change == 0.0] == ["bn0", "conv0"]
  adapted = tiny_config(**options, **{"encoder.lora.rank": 1, "encoder.lora.targets": ".*kernel"})
  assert set(compiled(adapted, total_steps=9).state.params["lora"]) == {"conv1"}


def test_heads_by_config():
  for options in ({"embedding.norm": "layer"}, {"embedding.unit_norm": True}):
    config = tiny_config(**options)
    program, state, step = compiled(config)
    batch = fake_batch(0)
    z = jax.jit(program.embed)(
      {"params": state.params, "batch_stats": state.batch_stats}, batch["image"]
    )
    assert ("ln" in state.params["embedding"]) == (config.embedding.norm == "layer")
    assert np.allclose(np.linalg.norm(z, axis=1), 1.0) == config.embedding.unit_norm
    assert step(state, batch)[1]["finite"]


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("encoder.frozen_stages", 9, "config.encoder.frozen_stages: convnet has 2 stages"),
    ("optimizer.encoder_factor", 0.0, "config.optimizer.encoder_factor: expected a positive"),
    ("optimizer.layer_decay", 1.5, "config.optimizer.layer_decay: expected"),
    ("optimizer.freeze_encoder", "soon", "config.optimizer.freeze_encoder: expected"),
    ("optimizer.unfreeze", ("1 epochs: 3",), "optimizer.unfreeze: convnet has 2 stages (.*got 3"),
    ("optimizer.unfreeze", ("1 epochs: most",), "optimizer.unfreeze: convnet has 2 stages (.*most"),
    ("optimizer.unfreeze", ("1 epochs",), 'optimizer.unfreeze: expected "1 epochs: 4" or "3 ep'),
    ("optimizer.unfreeze", ("soon: all",), 'optimizer.unfreeze: expected "N steps" or "N epochs"'),
  ],
)
def test_refuses(key, value, message):
  with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
    moved(**{key: value})


def test_one_key_says_when_a_stage_begins():
  keys = {"optimizer.unfreeze": ("1 epochs: all",), "optimizer.freeze_encoder": "1 steps"}
  with pytest.raises(ConfigError, match=r"freeze_encoder: .* says when each stage begins"):
    moved(**keys)
