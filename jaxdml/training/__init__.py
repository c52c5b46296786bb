"""Training: `train_and_evaluate(config, workdir)`, and what a config and a run are.

A config is a ConfigDict with the keys of jaxdml/training/defaults.py, which `default_config` gives
and `apply_recipe` changes by names; `resolve` makes a `Config` of it. `restore` loads a run to look
at.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.training.checkpoints import CheckpointError
  from jaxdml.training.config import Config, ConfigError
  from jaxdml.training.defaults import get_config as default_config
  from jaxdml.training.loop import NonFiniteError, train_and_evaluate
  from jaxdml.training.metrics_log import read_metrics
  from jaxdml.training.recipes import apply as apply_recipe
  from jaxdml.training.runs import Restored, restore
  from jaxdml.training.setup import resolve

__all__ = [
  "CheckpointError", "Config", "ConfigError", "NonFiniteError", "Restored", "apply_recipe",
  "default_config", "read_metrics", "resolve", "restore", "train_and_evaluate",
]  # fmt: skip

# A command's --help and the errors need neither JAX nor the networks.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, checkpoints="CheckpointError", config="Config ConfigError",
  defaults="default_config=get_config", loop="NonFiniteError train_and_evaluate",
  metrics_log="read_metrics", recipes="apply_recipe=apply", runs="Restored restore",
  setup="resolve",
)  # fmt: skip
