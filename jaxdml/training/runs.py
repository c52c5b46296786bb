"""Loads a finished run to look at: `run = restore("runs/glyphs"); run.embed()`."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxdml import data, evaluation
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.checkpoints import Progress, open_best
from jaxdml.training.config import ConfigError, replace
from jaxdml.training.evaluator import Evaluator
from jaxdml.training.program import TrainState
from jaxdml.training.setup import Setup, prepare

__all__ = ["Restored", "restore"]


@dataclasses.dataclass(frozen=True)
class Restored:
  """A run's model and the unseen images it is measured on.

  Attributes:
    setup: the run's config, data and program; "test split" below is its `measured`.
    state: of the best checkpoint, on the host.
    progress: of the loop when it saved that.
    evaluator: of the test split.
  """

  setup: Setup
  state: TrainState
  progress: Progress
  evaluator: Evaluator

  @functools.cached_property
  def untrained(self) -> TrainState:
    """The state that training started from.

    Raises:
      ConfigError: it had the weights of `encoder.init`, and they are gone.
    """
    return self.setup.initial_state()

  @property
  def labels(self) -> np.ndarray:
    """Labels that count as a match on the test split, int32 [n]."""
    return self.setup.measured.column(self._matched)

  @property
  def disjoint(self) -> bool:
    """Tells whether no class of the test split was in training."""
    classes = [part.classes(self._matched) for part in (self.setup.measured, self.setup.train)]
    return not np.isin(*classes).any()

  @property
  def _matched(self) -> str:
    return self.setup.config.data.eval_label or self.setup.config.data.label

  def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The test images `indices` [m] as preprocessed for the network: uint8 [m, h, w, c]."""
    preprocess, rng = self.evaluator.preprocess, np.random.default_rng(0)  # Nothing is drawn.
    return np.stack([preprocess(encoded, rng) for encoded in self.setup.measured.read(indices)])

  def embed(self, state: TrainState | None = None) -> np.ndarray:
    """Embeds the test split on all devices: float32 [n, d], in the order of `labels`.

    Args:
      state: the model's; by default the trained one, `self.untrained` for comparison.

    Raises:
      ImageDecodeError: an image cannot be decoded, and the rows would not be those of `labels`.
    """
    return self._whole(self.evaluator.embed(self.state if state is None else state))

  def raw_pixels(self) -> np.ndarray:
    """The test split's centred pixels, float32 [n, h * w * c]: the embedding of no model."""
    return self._whole(self.evaluator.pixels())

  def _whole(self, embedded: evaluation.Embedded) -> np.ndarray:
    missing = len(self.setup.measured) - len(embedded.embeddings)
    if missing:
      raise data.ImageDecodeError(
        f"{missing} images of {self.evaluator.name} cannot be decoded, and the rows would not be "
        "those of the labels; set config.data.max_bad_images=0 to see which, and mend them"
      )
    return embedded.embeddings


def restore(workdir: str | os.PathLike[str], *, data_dir: str | None = None) -> Restored:
  """Loads what `train_and_evaluate` left in `workdir`: config, best model, test split.

  The run may still be training: nothing is written.

  Args:
    workdir: of a run, finished or stopped.
    data_dir: the TFDS data directory; by default the run's own.

  Raises:
    CheckpointError: no run there, no checkpoint yet, or one that cannot be read.
    ConfigError: its config.json is damaged or has keys that this version does not know, or the data
      set is no longer what it was trained on.
    DatasetNotPreparedError: the data set is not there.
  """
  workdir = pathlib.Path(workdir)
  config = workdir_lib.read_config(workdir, data_dir)
  if not pathlib.Path(config.data.cache).expanduser().is_dir():
    # On another machine; there it is not for us to make.
    config = replace(config, {"data.cache": ""})
  run = prepare(config)
  if changed := workdir_lib.changed_data(workdir, run.splits, config.data.label):
    raise ConfigError(f"{changed}; jaxdml evaluate measures the model as they are")
  with open_best(workdir) as manager:
    state, progress = manager.restore("best", run.abstract_state())
  evaluator = Evaluator(config, run.measured, run.program.embed)
  return Restored(run, state, progress, evaluator)
