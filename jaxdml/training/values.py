"""What single values of a config may be: ranges, names, and durations in steps or epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from ml_collections import ConfigDict

__all__ = ["ConfigError", "check_ranges", "duration", "one_of", "positive"]

_POSITIVE = (
  "data.batch_size", "data.image_size", "data.images_per_class", "embedding.dim",
  "embedding.kernel_scale", "eval.batch_size", "hdml.generator_hidden", "hdml.initial_average",
  "optimizer.decay_factor", "optimizer.layer_decay", "optimizer.learning_rate", "train.keep",
)  # fmt: skip
_NOT_NEGATIVE = (
  "data.num_workers", "encoder.frozen_stages", "hdml.alpha", "hdml.beta", "hdml.block_size",
  "hdml.reconstruction_weight", "hdml.slots", "hdml.soft_weight", "loss.block_size", "memory.size",
  "optimizer.clip_norm", "optimizer.encoder_factor", "optimizer.generator_learning_rate",
  "optimizer.head_learning_rate", "optimizer.loss_learning_rate", "optimizer.weight_decay", "seed",
)  # fmt: skip
_BELOW = {"embedding.bn_momentum": 1, "memory.size": 2**31, "seed": 2**32}


class ConfigError(ValueError):
  """A config that cannot run; the message names the key and what it takes."""


def duration(value: str, steps_per_epoch: int, key: str) -> int:
  """Steps in "300 steps" or "1.5 epochs" (rounded up).

  Raises:
    ConfigError: for anything else, naming `key`.

  >>> duration("2 epochs", 50, "train.duration")
  100
  """
  match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*", str(value))
  if not match:
    raise ConfigError(f'config.{key}: expected "N steps" or "N epochs"; got {value!r}')
  number, unit = float(match[1]), match[2]
  return math.ceil(number * (steps_per_epoch if unit.startswith("epoch") else 1))


def one_of(key: str, value: str, valid: Collection[str]) -> None:
  """Raises ConfigError unless `value`, of `config.key`, is among `valid`."""
  if value not in valid:
    raise ConfigError(f"config.{key}: expected one of {', '.join(valid)}; got {value!r}")


def positive(config: ConfigDict, *keys: str) -> None:
  """Raises ConfigError for the first of `keys` that is not above 0, or not finite."""
  for key in keys:
    value = _value(config, key)
    if not 0 < value < math.inf:
      raise ConfigError(f"config.{key}: expected a positive number; got {value}")


def check_ranges(config: ConfigDict) -> None:
  """Refuses numbers that mean nothing, whatever the other keys are.

  What is open (None) is left to those who fill it in.

  Raises:
    ConfigError: naming the key, what it takes and what came.
  """
  positive(config, *(key for key in _POSITIVE if _value(config, key) is not None))
  for key in (*_NOT_NEGATIVE, *_BELOW):
    value, limit = _value(config, key), _BELOW.get(key, math.inf)
    if value is not None and not 0 <= value < limit:
      upper = "" if limit == math.inf else f" and below {limit}"
      raise ConfigError(f"config.{key}: expected a number of at least 0{upper}; got {value}")
  if not config.eval.ks or not all(isinstance(k, int) and k >= 1 for k in config.eval.ks):
    raise ConfigError(
      f"config.eval.ks: expected whole numbers of at least 1, as (1, 10); got {config.eval.ks}"
    )
  steps = config.optimizer.milestones
  if len({str(step).strip() for step in steps}) < len(steps):
    raise ConfigError(f"config.optimizer.milestones: expected each once; got {steps}")
  if steps and config.optimizer.schedule != "step":
    raise ConfigError(
      "config.optimizer.milestones: optimizer.schedule=step alone has any; got them with "
      f"optimizer.schedule={config.optimizer.schedule}"
    )
  for key in ("log_every", "evaluate_every", "checkpoint_every", "duration"):
    if duration(config.train[key], 1000, f"train.{key}") < 1:
      raise ConfigError(f"config.train.{key}: expected at least 1 step; got {config.train[key]!r}")


def _value(config: ConfigDict, key: str) -> float | None:
  for name in key.split("."):
    config = config[name]
  return config
