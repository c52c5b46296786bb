"""What a config leaves open of HDML, filled in by its variant; and HDML's keys checked."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from jaxdml import hdml
from jaxdml.training.config import ConfigError, flatten

__all__ = ["kept", "resolve"]


def _open(config: ConfigDict, key: str) -> tuple[ConfigDict, str] | None:
  """(section, name) of a key that the config leaves open; None if it is set or does not apply."""
  *sections, name = key.split(".")
  section = config
  for part in sections:
    section = section[part]
  if key == "loss.options.l2_over":
    return (section, name) if config.loss.name == "npair" and name not in section else None
  return (section, name) if section[name] is None else None


def _value(config: ConfigDict, value: object) -> object:
  """An entry of `hdml.VARIANTS` for the layout of a config."""
  return value[config.loss.layout] if isinstance(value, Mapping) else value


def kept(config: ConfigDict) -> dict[str, tuple[object, object]]:
  """{key: (the config's value, the variant's)} where the config sets another one, and keeps it."""
  flat, table = flatten(config.to_dict()), hdml.VARIANTS[config.hdml.variant]
  there = {key: (flat.get(key), _value(config, value)) for key, value in table.items()}
  return {k: (ours, its) for k, (ours, its) in there.items() if ours not in (None, its)}


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with the values of `hdml.variant` wherever it sets none itself.

  Explicit values win. The table is `jaxdml.hdml.VARIANTS`; it reaches beyond config.hdml (weight
  decay, N-pair's L2 term), also where HDML is disabled: the plain arm of a comparison differs by
  `hdml.enabled` alone.

  Raises:
    ConfigError: unknown variant.

  >>> from jaxdml.training import defaults
  >>> config = defaults.get_config()
  >>> config.hdml.variant, config.hdml.soft_weight = "paper", 2.0
  >>> resolved = resolve(config)
  >>> resolved.hdml.window, resolved.hdml.soft_weight
  ('1 epochs', 2.0)
  """
  variant = config.hdml.variant
  if variant not in hdml.VARIANTS:
    raise ConfigError(
      f"config.hdml.variant: expected one of {', '.join(hdml.VARIANTS)}; got {variant!r}"
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for key, value in hdml.VARIANTS[variant].items():
      place = _open(config, key)
      if place is not None:
        section, name = place
        section[name] = _value(config, value)
  return config
