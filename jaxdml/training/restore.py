"""Loads a finished run to look at: `run = restore("runs/glyphs"); run.embed()`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import data, evaluation
from jaxdml.training import checkpoints, defaults, parallel, steps
from jaxdml.training import config as config_lib

__all__ = ["Restored", "restore"]


@dataclasses.dataclass(frozen=True)
class Restored:
  """A run's model and the unseen images it is measured on.

  Attributes:
    config: the run's.
    program: what the config becomes: init, step, embed.
    state: of the best checkpoint, on the host.
    untrained: the state that training started from.
    memory: what the loop remembered: "best" (the selection metric), "best_step", "floors".
    test: the test split.
    disjoint: no class of the test split was in training.
    preprocess: bytes -> image, as in evaluation.
  """

  config: ConfigDict
  program: steps.Program
  state: steps.TrainState
  untrained: steps.TrainState
  memory: dict[str, Any]
  test: data.Dataset
  disjoint: bool
  preprocess: data.preprocess.Preprocess

  @property
  def labels(self) -> np.ndarray:
    """What counts as a match on the test split, int32 [n]."""
    return self.test.column(self.config.data.eval_label or self.config.data.label)

  def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The test images `indices` [m], decoded and resized only: uint8 [m, h, w, c]."""
    return np.stack([self.preprocess.load(encoded) for encoded in self.test.read(indices)])

  def embed(self, state: steps.TrainState | None = None) -> np.ndarray:
    """Embeds the test split on all devices: float32 [n, d], in the order of `labels`.

    Args:
      state: the model's; by default the trained one, `self.untrained` for comparison.
    """
    state = self.state if state is None else state
    keep = ("encoder", "embedding")
    variables = parallel.replicate(
      {
        kind: {name: getattr(state, kind)[name] for name in keep if name in getattr(state, kind)}
        for kind in ("params", "batch_stats")
      }
    )

    def apply(images: np.ndarray) -> np.ndarray:
      return self._apply(variables, parallel.split(images)).reshape(len(images), -1)

    with self._batches() as batches:
      return evaluation.embed(apply, batches, description="embed").embeddings

  def raw_pixels(self) -> np.ndarray:
    """The test split's centred pixels, float32 [n, h * w * c]: the embedding of no model."""
    with self._batches() as batches:
      return evaluation.raw_pixels(batches, center=True).embeddings

  @functools.cached_property
  def _apply(self):
    return parallel.compile_embed(self.program.embed)

  def _batches(self) -> data.Batches:
    devices = jax.local_device_count()
    batch_size = -(-self.config.eval.batch_size // devices) * devices
    return data.eval_batches(self.test, self.preprocess, batch_size, self.config.data.num_workers)


def restore(workdir: str | os.PathLike[str], *, data_dir: str | None = None) -> Restored:
  """Loads what `train_and_evaluate` left in `workdir`: config, best model, test split.

  Do not call it while the run is still training: opening its checkpoints clears half-written ones.

  Args:
    workdir: of a run, finished or stopped.
    data_dir: the TFDS data directory; by default the run's own.

  Raises:
    CheckpointError: no run there, no checkpoint yet, or one that cannot be read.
    ConfigError: its config.json is damaged or has keys that this version does not know.
    DatasetNotPreparedError: the data set is not there.
  """
  workdir = pathlib.Path(workdir)
  config = _read_config(workdir)
  if data_dir is not None:
    config.data.data_dir = data_dir
  if not any((workdir / "checkpoints" / "best").glob("[0-9]*")):
    raise checkpoints.CheckpointError(
      f"{workdir} holds no checkpoint: its run was stopped before the first evaluation; "
      "give its command again"
    )
  directory = config.data.data_dir or None
  train = data.load(config.data.dataset, "train", data_dir=directory)
  test = data.load(config.data.dataset, "test", data_dir=directory)
  if config.eval.validation_fraction:
    fraction, label = config.eval.validation_fraction, config.data.label
    train, _ = data.validation_split(train, label, fraction, config.seed)
  steps_per_epoch = -(-len(train) // config.data.batch_size)
  program = steps.build(
    config,
    num_classes=len(train.classes(config.data.label)),
    total_steps=config_lib.duration(config.train.duration, steps_per_epoch, "train.duration"),
    steps_per_epoch=steps_per_epoch,
    axis_name=parallel.AXIS,
  )
  untrained = jax.tree.map(np.asarray, jax.jit(program.init)(jax.random.key(config.seed)))
  manager = checkpoints.Checkpoints(workdir, config.train.keep)
  try:
    state, memory = manager.restore("best", untrained)
  finally:
    manager.close()
  size, channels = config.data.image_size, config.data.channels
  preprocess = data.preprocess.create(config.data.preprocess, size, train=False, channels=channels)
  matched = config.data.eval_label or config.data.label
  disjoint = not np.isin(test.classes(matched), train.classes(matched)).any()
  return Restored(config, program, state, untrained, memory, test, disjoint, preprocess)


def _read_config(workdir: pathlib.Path) -> ConfigDict:
  """The run's config.json over the defaults, so that keys younger than the run have a value."""
  path = workdir / "config.json"
  if not path.is_file():
    raise checkpoints.CheckpointError(
      f"{workdir} holds no run: there is no config.json in it; expected the --workdir of "
      "python -m jaxdml.main"
    )
  config = defaults.get_config().lock()
  for section in config.values():
    if isinstance(section, ConfigDict) and "options" in section:
      section.options.unlock()
  try:
    config.update(json.loads(path.read_text()))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    reason = str(error).strip().split("\n")[0]
    raise config_lib.ConfigError(f"{path} is no config of this version: {reason}") from error
  return config
