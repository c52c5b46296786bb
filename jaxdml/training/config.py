"""A run's config: `Config`, what becomes of the ConfigDict that users write, and its durations.

Users write a ConfigDict with the keys of jaxdml/training/defaults.py. `training.resolve` makes a
`Config` of it, once; everything after that takes a `Config` and finds every key set.
"""

import functools
import math
import operator
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from jaxdml.errors import JaxdmlError
from jaxdml.training import defaults, variants


class ConfigError(JaxdmlError, ValueError):
  """A config that cannot run; the message names the key and what it takes."""


class Config(FrozenConfigDict):
  """A resolved config: every key of jaxdml/training/defaults.py, set, checked and immutable."""


def read(values: Mapping[str, Any]) -> Config:
  """The config of a run from its JSON; keys younger than the run have their default.

  AttributeError, KeyError, TypeError or ValueError: keys or types that this version does not know.
  """
  return Config(fill_in(overlay(values)))


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
  """The config with `changes`, {"section.key": value}."""
  changed = ConfigDict(config)
  changed.update_from_flattened_dict(changes)
  return Config(changed)


def overlay(values: Mapping[str, Any]) -> ConfigDict:
  """The defaults with `values` over them; unknown keys and other types raise."""
  config = defaults.get_config().lock()
  for section in config.values():
    for key in ("options", "init_options"):
      if isinstance(section, ConfigDict) and key in section:
        section[key].unlock()
  config.update(values)
  return config


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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"section.key": value} of a config, or of one as nested dicts."""
  flat = {}
  for key, value in tree.items():
    nested = isinstance(value, Mapping | ConfigDict)
    flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
  return flat


def fill_in(config: ConfigDict) -> ConfigDict:
  """A copy with the values of `hdml.variant` wherever the config sets none itself.

  Explicit values win. The table is `variants.VARIANTS`; it reaches beyond config.hdml (weight
  decay, N-pair's L2 term), also where HDML is disabled: the plain arm of a comparison differs by
  `hdml.enabled` alone.

  Raises:
    ConfigError: unknown variant.

  >>> config = defaults.get_config()
  >>> config.hdml.variant, config.hdml.soft_weight = "paper", 2.0
  >>> filled = fill_in(config)
  >>> filled.hdml.window, filled.hdml.soft_weight
  ('1 epochs', 2.0)
  """
  variant = config.hdml.variant
  if variant not in variants.VARIANTS:
    raise ConfigError(
      f"config.hdml.variant: expected one of {', '.join(variants.VARIANTS)}; got {variant!r}"
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for key, value in variants.VARIANTS[variant].items():
      *sections, name = key.split(".")
      section = functools.reduce(operator.getitem, sections, config)
      # N-pair alone has that option.
      applies = key != "loss.options.l2_over" or config.loss.name == "npair"
      if applies and section.get(name) is None:
        section[name] = _of_layout(config, value)
  return config


def kept(config: ConfigDict) -> dict[str, tuple[object, object]]:
  """{key: (the config's value, the variant's)} where the config sets another one, and keeps it."""
  flat, table = flatten(config), variants.VARIANTS[config.hdml.variant]
  there = {key: (flat.get(key), _of_layout(config, value)) for key, value in table.items()}
  return {k: (ours, its) for k, (ours, its) in there.items() if ours not in (None, its)}


def _of_layout(config: ConfigDict, value: object) -> object:
  """An entry of `variants.VARIANTS` for the layout of a config; an unknown one is refused later."""
  by_layout = isinstance(value, Mapping)
  return value.get(config.loss.layout, value["all_pairs"]) if by_layout else value
