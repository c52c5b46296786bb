"""A trained model alone: `model = load("runs/glyphs"); model.embed_batch(images)`.

Needs the workdir and nothing else, neither the data set nor its directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml.data import encoding
from jaxdml.data import preprocess as preprocess_lib
from jaxdml.training import checkpoints, defaults, embedder, hdml_variants, parallel
from jaxdml.training import config as config_lib
from jaxdml.types import PyTree

CARD, STABLEHLO = "model_card.json", "model.stablehlo"
"""Files of an exported model, which `export.export` writes and `load` reads."""

__all__ = ["CARD", "STABLEHLO", "TrainedModel", "fingerprint", "load", "open_best", "read_config"]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
  """What turns encoded images into embeddings.

  Attributes:
    workdir: where it was loaded from.
    config: the run's, every key set.
    step: of the checkpoint.
    dimension: d of the embeddings.
    fingerprint: 16 hexadecimal digits, equal for equal parameters, network and preprocessing.
    variables: {"params", "batch_stats"}, each a dict by network ("encoder", "embedding"), on the
      host; of an exported model {}: they are in its program.
    embed: (variables, uint8 images [b, h, w, c]) -> embeddings [b, d], a plain JAX function.
  """

  workdir: pathlib.Path
  config: ConfigDict
  step: int
  dimension: int
  fingerprint: str
  variables: PyTree
  embed: Callable[[PyTree, Any], Any]

  @functools.cached_property
  def preprocessing(self) -> preprocess_lib.Preprocess:
    """What images pass through before the network in evaluation, with nothing random."""
    return preprocess_lib.from_config(self.config.data, train=False)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """[h, w, c] of what `preprocess` returns and `embed_batch` takes."""
    return self.preprocessing.shape

  @property
  def remarks(self) -> list[str]:
    """What to know before relying on it: the run has not finished, or has learned nothing."""
    if not self.variables:  # Exported: nothing of its run is there.
      return []
    notes = {
      f"the run in {self.workdir} has not finished; its best model so far is that of step "
      f"{self.step}": not (self.workdir / "results.json").exists(),
      "step 0 is the model as it started: training has not beaten it": not self.step,
    }
    return [note for note, holds in notes.items() if holds]

  def preprocess(self, image: Any) -> np.ndarray:
    """Decodes, resizes and crops an image as the run's evaluation did.

    Args:
      image: a path or a file's bytes, of one of `data.decode.FORMATS`; a PIL image; or uint8
        [h, w, 3], RGB, as `data.encoding.encoded` takes them.

    Returns:
      uint8 of `image_shape`, RGB or grey; the network normalises it.

    Raises:
      ImageDecodeError: the bytes are no image, a damaged one or one that is too large.
      TypeError: it is nothing of that kind.
      OSError: the path cannot be read.
    """
    # Nothing is drawn.
    return self.preprocessing(encoding.encoded(image), np.random.default_rng(0))

  def embed_batch(self, images: np.ndarray) -> np.ndarray:
    """Embeds images on all devices of this host.

    Batches of one size compile once; fill up a smaller last one if compiling is slow. The
    embeddings are as the network gives them, of any length: scale them to unit length for cosine
    similarity, as evaluation does.

    Args:
      images: uint8 [b, h, w, c] as `preprocess` gives them.

    Returns:
      float32 [b, d].

    Raises:
      TypeError: images are not uint8.
      ValueError: images have another shape.
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
  gives embeddings of length 1.

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
  config = read_config(workdir, data_dir)
  try:
    networks = embedder.build(hdml_variants.resolve(config))
    abstract = networks.abstract()
  except (TypeError, ValueError) as error:
    raise config_lib.ConfigError(
      f"{workdir / 'config.json'} is no config of this version: {error}"
    ) from error
  with open_best(workdir) as manager:
    step, variables = manager.restore_part("best", abstract)
  return TrainedModel(
    workdir=workdir,
    config=config,
    step=step,
    dimension=config.embedding.dim,
    fingerprint=fingerprint(config, variables),
    variables=variables,
    embed=networks.embed,
  )


def _load_exported(folder: pathlib.Path, data_dir: str | None) -> TrainedModel:
  path = folder / STABLEHLO
  if not path.is_file():
    raise checkpoints.CheckpointError(
      f"{folder} is an exported model without {path.name}, which is what this reads; export it "
      "with --format=stablehlo"
    )
  try:
    card = json.loads((folder / CARD).read_text())
    config = overlay(card["config"])
    step, dimension, digits = (card[key] for key in ("step", "dimension", "fingerprint"))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise config_lib.ConfigError(
      f"{folder / CARD} is no model card of this version: {_first_line(error)}"
    ) from error
  if data_dir is not None:
    config.data.data_dir = data_dir
  try:
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
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

  return TrainedModel(
    workdir=folder,
    config=config,
    step=step,
    dimension=dimension,
    fingerprint=digits,
    variables={},
    embed=embed,
  )


def fingerprint(config: ConfigDict, variables: PyTree) -> str:
  """16 hexadecimal digits of a SHA-256 over what decides an embedding, the same on every machine.

  That is: each parameter and statistic by name, shape, dtype and value, and the config's keys on
  the network and its evaluation preprocessing. What only training looks at is left out.

  Args:
    config: the run's.
    variables: nested dicts of arrays.
  """
  keys = {
    "data": ("preprocess", "normalize", "image_size", "channels"),
    "encoder": ("name", "dtype", "options"),
    "embedding": ("dim", "norm", "unit_norm"),
  }
  chosen = {f"{part}.{k}": config.to_dict()[part][k] for part, names in keys.items() for k in names}
  digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
  leaves = {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(variables)}
  for name, leaf in sorted(leaves.items()):
    array = np.ascontiguousarray(leaf)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest.update(f"{name} {array.shape} {array.dtype.name} ".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


@contextlib.contextmanager
def open_best(workdir: pathlib.Path) -> Iterator[checkpoints.Checkpoints]:
  """The checkpoints of a run to read the best of.

  Raises:
    CheckpointError: there is none.
  """
  if not any((workdir / "checkpoints" / "best").glob("[0-9]*")):
    raise checkpoints.CheckpointError(
      f"{workdir} holds no checkpoint: its run was stopped before the first evaluation; "
      "give its command again"
    )
  manager = checkpoints.Checkpoints(workdir, read_only=True)
  try:
    yield manager
  finally:
    manager.close()


def read_config(workdir: pathlib.Path, data_dir: str | None = None) -> ConfigDict:
  """The run's config.json over the defaults, so that keys younger than the run have a value.

  Args:
    workdir: of the run.
    data_dir: replaces `data.data_dir`, if given.

  Raises:
    CheckpointError: there is no config.json.
    ConfigError: it is damaged or has keys that this version does not know.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise checkpoints.CheckpointError(
      f"{workdir} holds no run: there is no config.json in it; expected the --workdir of "
      "python -m jaxdml.main"
    )
  try:
    config = overlay(json.loads(path.read_text()))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise config_lib.ConfigError(
      f"{path} is no config of this version: {_first_line(error)}"
    ) from error
  if data_dir is not None:
    config.data.data_dir = data_dir
  return config


def overlay(values: dict[str, Any]) -> ConfigDict:
  """The defaults with `values` over them; unknown keys and other types raise."""
  config = defaults.get_config().lock()
  for section in config.values():
    for key in ("options", "init_options"):
      if isinstance(section, ConfigDict) and key in section:
        section[key].unlock()
  config.update(values)
  return config


def _first_line(error: Exception) -> str:
  return str(error).strip().split("\n")[0]
