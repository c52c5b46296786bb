"""Training: `train_and_evaluate(config, workdir)`, and what a config and a run are.

A config is a ConfigDict with the keys of jaxdml/training/defaults.py, which `default_config` gives
and `apply_recipe` changes by names; `resolve` makes a `Config` of it. `restore` loads a run to look
at.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdml.training.checkpoints import CheckpointError as CheckpointError
  from jaxdml.training.config import Config as Config
  from jaxdml.training.config import ConfigError as ConfigError
  from jaxdml.training.defaults import get_config as default_config
  from jaxdml.training.loop import NonFiniteError as NonFiniteError
  from jaxdml.training.loop import train_and_evaluate as train_and_evaluate
  from jaxdml.training.metrics_log import read_metrics as read_metrics
  from jaxdml.training.recipes import apply as apply_recipe
  from jaxdml.training.runs import Restored as Restored
  from jaxdml.training.runs import restore as restore
  from jaxdml.training.setup import resolve as resolve

# Loaded when asked for: a command's --help and the errors need neither JAX nor the networks.
_PLACES = {
  "CheckpointError": ("checkpoints", "CheckpointError"),
  "Config": ("config", "Config"),
  "ConfigError": ("config", "ConfigError"),
  "NonFiniteError": ("loop", "NonFiniteError"),
  "Restored": ("runs", "Restored"),
  "apply_recipe": ("recipes", "apply"),
  "default_config": ("defaults", "get_config"),
  "read_metrics": ("metrics_log", "read_metrics"),
  "resolve": ("setup", "resolve"),
  "restore": ("runs", "restore"),
  "train_and_evaluate": ("loop", "train_and_evaluate"),
}

__all__ = [
  "CheckpointError", "Config", "ConfigError", "NonFiniteError", "Restored", "apply_recipe",
  "default_config", "read_metrics", "resolve", "restore", "train_and_evaluate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
  if name not in _PLACES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, attribute = _PLACES[name]
  return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
  return __all__
