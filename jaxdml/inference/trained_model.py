"""A trained model alone: `model = inference.load("runs/glyphs"); model.embed_batch(images)`.

Needs the workdir and nothing else, neither the data set nor its directory.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdml import _files
from jaxdml.data import picture_files
from jaxdml.data import preprocess as preprocess_lib
from jaxdml.training import checkpoints, metric_loss, parallel
from jaxdml.training import config as config_lib
from jaxdml.training import trained as trained_lib
from jaxdml.types import DistanceFn, PyTree

CARD, STABLEHLO = "model_card.json", "model.stablehlo"
"""Files of an exported model, which `export` writes and `load` reads."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
  """Networks and preprocessing of a run, from encoded images to embeddings."""

  workdir: pathlib.Path  # where it was loaded from
  config: config_lib.Config  # the run's, every key set
  step: int  # of the checkpoint
  dimension: int  # d of the embeddings
  fingerprint: str  # 16 hexadecimal digits, of parameters, network and preprocessing
  # {"params", "batch_stats"}, each a dict by network ("encoder", "embedding"), on the host; of an
  # exported model {}: they are in its program.
  variables: PyTree
  # (variables, uint8 images [b, h, w, c]) -> embeddings [b, d], a plain JAX function.
  embed: Callable[[PyTree, Any], Any]

  @functools.cached_property
  def preprocessing(self) -> preprocess_lib.Preprocess:
    """Preprocessing of images in evaluation, with nothing random."""
    config = self.config
    return preprocess_lib.from_config(config.data, train=False, image_size=config.eval.image_size)

  @functools.cached_property
  def distance_fn(self) -> DistanceFn | None:
    """Distance that its embeddings are ranked by (`eval.rank_by`); None is cosine similarity."""
    return metric_loss.ranking_of(self.config)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """[h, w, c] of what `preprocess` returns and `embed_batch` takes."""
    return self.preprocessing.shape

  @property
  def remarks(self) -> list[str]:
    """Warnings before relying on it: the run has not finished, or has learned nothing."""
    if not self.variables:  # Exported: nothing of its run is there.
      return []
    notes = []
    if not (self.workdir / "results.json").exists():
      notes.append(f"the run in {self.workdir} has not finished; its best model so far is that of "
                   f"step {self.step}")  # fmt: skip
    if not self.step:
      notes.append("step 0 is the model as it started: training has not beaten it")
    return notes

  def preprocess(self, image: Any) -> np.ndarray:
    """Decodes, resizes and crops an image as the run's evaluation did.

    Args:
      image: a path or a file's bytes, of one of `data.decode.FORMATS`; a PIL image; or uint8
        [h, w, 3], RGB, as `data.picture_files.encoded` takes them.

    Returns:
      uint8 of `image_shape`, RGB or grey; the network normalises it.

    Raises:
      ImageDecodeError: the bytes are no image, a damaged one or one that is too large.
      TypeError: it is nothing of that kind.
      OSError: the path cannot be read.
    """
    # Nothing is drawn.
    return self.preprocessing(picture_files.encoded(image), np.random.default_rng(0))

  def embed_batch(self, images: np.ndarray) -> np.ndarray:
    """Embeds uint8 [b, h, w, c] of `preprocess` to float32 [b, d], on all devices of this host.

    Batches of one size compile once; fill up a smaller last one if compiling is slow. The
    embeddings are as the network gives them, of any length: scale them to unit length for cosine
    similarity, as evaluation does. TypeError or ValueError for other arrays.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
      raise TypeError(
        f"images: expected uint8 as preprocess() gives them, got {images.dtype}; the model "
        "normalises the pixels itself"
      )
    if images.shape[1:] != self.image_shape or images.ndim != 4:
      h, w, c = self.image_shape
      raise ValueError(
        f"images: expected [b, {h}, {w}, {c}], as preprocess() gives them; got {images.shape}"
      )
    count = len(images)
    if not count:
      return np.zeros((0, self.dimension), np.float32)
    rest = -count % jax.local_device_count() if self.variables else 0
    padded = np.concatenate([images, images[:1].repeat(rest, axis=0)]) if rest else images
    return np.array(self._compiled(self._replicated, padded)[:count])

  @functools.cached_property
  def _compiled(self) -> Callable[[PyTree, Any], Any]:
    # An exported program is one device's, and calls itself.
    return parallel.compile_local(self.embed) if self.variables else self.embed

  @functools.cached_property
  def _replicated(self) -> PyTree:
    return parallel.replicate_local(self.variables) if self.variables else {}


def load(workdir: str | os.PathLike[str], *, data_dir: str | None = None) -> TrainedModel:
  """Loads the best model of a run, which may still be training: nothing is written.

  Reads config.json and, of the best checkpoint, the parameters and BatchNorm statistics of encoder
  and embedding; neither the data set nor the weights of `encoder.init` need to be there. Of a
  folder of `jaxdml export` it reads the StableHLO program, which runs on one device and
  gives embeddings of length 1, if they are ranked by cosine similarity.

  Args:
    workdir: of a run of `python -m jaxdml.main`, finished or stopped, or an exported model.
    data_dir: put into the config, for a caller that goes on to load a data set.

  Raises:
    CheckpointError: no run there, no checkpoint yet, or one that cannot be read.
    ConfigError: its config.json is damaged or has keys that this version does not know.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / CARD).is_file() and not (workdir / "config.json").exists():
    return _load_exported(workdir, data_dir)
  trained = trained_lib.read(workdir, data_dir)
  return TrainedModel(
    workdir, trained.config, trained.step, trained.config.embedding.dim, trained.fingerprint,
    trained.variables, trained.embedder.embed,
  )  # fmt: skip


def _load_exported(folder: pathlib.Path, data_dir: str | None) -> TrainedModel:
  path = folder / STABLEHLO
  if not path.is_file():
    raise checkpoints.CheckpointError(
      f"{folder} is an exported model without {path.name}, which is what this reads; export it "
      "with --format=stablehlo"
    )
  try:
    card = _files.read_sealed(folder / CARD)
    config = config_lib.read(card["config"])
    step, dimension, digits = (card[key] for key in ("step", "dimension", "fingerprint"))
    written = card["sha256"][STABLEHLO]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise config_lib.ConfigError(
      f"{folder / CARD} is damaged, or no model card of this version "
      f"({str(error).strip().splitlines()[0]}); export the model again"
    ) from error
  if data_dir is not None:
    config = config_lib.replace(config, {"data.data_dir": data_dir})
  content = path.read_bytes()
  if hashlib.sha256(content).hexdigest() != written:
    raise checkpoints.CheckpointError(
      f"{path} is damaged: it is not the program that {CARD} describes; export the model again"
    )
  try:
    exported = jax.export.deserialize(bytearray(content))
  except Exception as error:  # Of flatbuffers, struct, MLIR: there is no common type.
    raise checkpoints.CheckpointError(
      f"cannot read {path}: {type(error).__name__}: {str(error).strip()[:300]}; export it again"
    ) from error
  whole = exported.in_avals[0].shape[0]

  def embed(variables: PyTree, images: Any) -> Any:
    del variables
    if isinstance(whole, int) and len(images) != whole:
      raise ValueError(f"images: {path} takes batches of {whole}; got {len(images)}")
    return exported.call(images)

  return TrainedModel(folder, config, step, dimension, digits, {}, embed)
