"""Numbers and durations that a config may have, each refusal with the key and what came."""

import math

import pytest

from jaxdml import training
from jaxdml.training.config import ConfigError, duration
from tests.training.helpers import tiny_config

REFUSED = {
  "data.num_workers": -1,
  "data.image_size": 0,
  "embedding.bn_momentum": 1.0,
  "embedding.kernel_scale": 0.0,
  "eval.ks": (0, 1),
  "hdml.alpha": -1.0,
  "hdml.beta": "often",
  "hdml.block_size": -1,
  "hdml.generator_hidden": 0,
  "hdml.initial_average": 0.0,
  "hdml.slots": -1,
  "loss.block_size": -1,
  "memory.size": 2**31,
  "optimizer.clip_norm": -1.0,
  "optimizer.generator_learning_rate": math.nan,
  "optimizer.learning_rate": math.inf,
  "optimizer.milestones": ("3 steps", "3 steps "),
  "optimizer.weight_decay": -0.1,
  "seed": -1,
  "train.evaluate_every": "0 steps",
  "train.log_every": "ten",
}


@pytest.mark.parametrize("key", REFUSED)
def test_refuses_what_means_nothing(key):
  with pytest.raises(ConfigError) as caught:
    training.resolve(tiny_config(**{key: REFUSED[key]}))
  assert str(caught.value).startswith(f"config.{key}: expected ")
  assert str(REFUSED[key]) in str(caught.value)


def test_refuses_no_recall_at_all_and_fractions():
  for ks in ((), (1, 2.5)):
    config = tiny_config()
    config.eval = {**config.eval.to_dict(), "ks": ks}
    with pytest.raises(ConfigError, match=r"config\.eval\.ks: expected whole numbers"):
      training.resolve(config)


def test_takes_the_ends_of_each_range():
  training.resolve(tiny_config())
  ends = {"seed": 2**32 - 1, "memory.size": 2**31 - 1, "optimizer.clip_norm": 0.0}
  training.resolve(tiny_config(**ends, **{"embedding.bn_momentum": 0.0, "eval.ks": (1,)}))


def test_dials_are_numbers_or_set_themselves():
  for value in (0, 90.0, "auto"):
    training.resolve(tiny_config(**{"hdml.alpha": value, "hdml.beta": value}))


def test_a_plain_config_is_not_compared_with_itself():
  training.resolve(tiny_config(**{"eval.plain": True, "hdml.enabled": True}))
  training.resolve(tiny_config(**{"eval.plain": True, "mining.positive": "nearest_positive"}))
  with pytest.raises(ConfigError, match=r"config\.eval\.plain: .*neither EPS nor HDML"):
    training.resolve(tiny_config(**{"eval.plain": True}))


def test_durations():
  assert duration("1.5 epochs", 3, "train.duration") == 5
  assert duration(" 7 steps", 3, "train.duration") == 7
  for wrong in ("7", "-1 steps", "steps", ""):
    with pytest.raises(ConfigError, match=r"config\.train\.duration: expected \"N steps\""):
      duration(wrong, 3, "train.duration")
