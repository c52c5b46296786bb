"""The networks that a run has trained so far, without its data."""

import hashlib
import json
import os
import pathlib
from collections.abc import Collection
from typing import NamedTuple

import jax
import numpy as np

from jaxdml.data.preprocess import CROP_PCT, INTERPOLATION
from jaxdml.training import networks
from jaxdml.training.checkpoints import open_best
from jaxdml.training.config import Config, ConfigError
from jaxdml.training.workdir import read_config
from jaxdml.types import PyTree


class Trained(NamedTuple):
  """The two networks that embed, as a run's best checkpoint holds them."""

  config: Config
  step: int  # of the checkpoint
  variables: PyTree  # {"params", "batch_stats"}, each a dict by network, on the host
  embedder: networks.Embedder

  @property
  def fingerprint(self) -> str:
    """The `fingerprint` of the model."""
    return fingerprint(self.config, self.variables)


def read(workdir: str | os.PathLike[str], data_dir: str | None = None) -> Trained:
  """Reads the best model of a run, which may still be training: nothing is written.

  Args:
    workdir: of the run, finished or stopped.
    data_dir: replaces the config's, for a caller that goes on to load a data set.

  Raises:
    CheckpointError: no run there, no checkpoint yet, or one that cannot be read.
    ConfigError: its config.json is damaged or has keys that this version does not know.
  """
  workdir = pathlib.Path(os.path.expanduser(workdir))
  config = read_config(workdir, data_dir)
  try:
    embedder = networks.build(config)
    abstract = embedder.abstract()
  except (TypeError, ValueError) as error:
    raise ConfigError(f"{workdir / 'config.json'} is no config of this version: {error}") from error
  with open_best(workdir) as manager:
    step, parts = manager.restore_part("best", networks.needed(config, abstract))
  return Trained(config, step, networks.deployed(config, parts), embedder)


def fingerprint(
  config: Config, variables: PyTree, networks: Collection[str] = ("encoder", "embedding")
) -> str:
  """16 hexadecimal digits of a SHA-256 over what decides an embedding, the same on every machine.

  That is: each parameter and statistic by name, shape, dtype and value, and the config's keys on
  the network and its evaluation preprocessing. What only training looks at is left out, and
  so are keys on other `networks` than those of `variables`.
  """
  keys = {
    "data": ("preprocess", "normalize", "image_size", "channels"),
    "encoder": ("name", "dtype", "options"),
    "embedding": ("dim", "norm", "unit_norm"),
  }
  keys = {part: names for part, names in keys.items() if part in ("data", *networks)}
  chosen = {f"{part}.{k}": config.to_dict()[part][k] for part, names in keys.items() for k in names}
  # Named where it is not what all did before there was a choice: fingerprints of then still hold.
  for key, usual in (("crop_pct", CROP_PCT), ("interpolation", INTERPOLATION)):
    if config.data[key] not in ("", 0.0, usual):
      chosen[f"data.{key}"] = config.data[key]
  chosen["data.image_size"] = config.eval.image_size or config.data.image_size
  digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
  leaves = {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(variables)}
  for name, leaf in sorted(leaves.items()):
    array = np.ascontiguousarray(leaf)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest.update(f"{name} {array.shape} {array.dtype.name} ".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]
