"""Converted weights on disk: an Orbax checkpoint and a card, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from jaxdml._version import __version__
from jaxdml.pretrained import files, mapping, names
from jaxdml.pretrained.card import Card

_CARD = "card.json"
_WEIGHTS = "weights"


class WeightsError(ValueError):
  """Weights that are not there, cannot be read or do not fit; the message says what to do."""


def convert(arch: str, source: Path, *, model_config: Path | None = None) -> tuple[Any, Card]:
  """Reads a published file as the weights of `arch`, in memory.

  Args:
    arch: one of `names.FAMILIES`.
    source: the file.
    model_config: timm's config.json of the model, which says how its pixels were prepared; by
      default the one beside the file, if there is one.

  Returns:
    ({"params", "batch_stats", "classifier"}, its card).

  Raises:
    mapping.ConvertError: the file cannot be read, or is not that of `arch`.
  """
  family = names.FAMILIES[arch]
  usual = family.preprocessing
  preprocessing = files.timm_preprocessing(model_config or source.parent / "config.json", usual)
  if model_config and preprocessing is None:
    raise mapping.ConvertError(f"{model_config}: expected timm's config.json, with pretrained_cfg")
  state = files.read(source)
  try:
    weights = family.rename(state)
  except mapping.ConvertError as error:
    if other := names.looks_like(state, besides=arch):
      raise mapping.ConvertError(
        f"{source} is not of {arch}: this looks like {other}; use --arch {other}"
      ) from error
    raise mapping.ConvertError(
      f"{source} is not what {arch} is made from ({family.file}): {error}"
    ) from error
  classifier = weights["classifier"]
  card = Card(
    arch=arch,
    source=source.name,
    sha256=files.sha256(source),
    converter=__version__,
    classes=len(classifier["bias"]) if classifier else 0,
    preprocessing=preprocessing or usual,
  )
  return weights, card


def check_free(directory: Path, overwrite: bool) -> None:
  """Refuses to write over anything, or with `overwrite` over anything but older weights.

  Raises:
    mapping.ConvertError: naming the directory.
  """
  if not os.path.lexists(directory):
    return
  if not overwrite:
    raise mapping.ConvertError(f"{directory} exists; give another --out, or --overwrite")
  if not directory.is_dir() or (any(directory.iterdir()) and not (directory / _CARD).exists()):
    raise mapping.ConvertError(
      f"{directory} exists and is no directory of converted weights, so --overwrite leaves it alone"
    )


def save(directory: Path, weights: Any, card: Card, *, overwrite: bool = False) -> None:
  """Writes weights and card into `directory`, which appears whole or not at all.

  Raises:
    mapping.ConvertError: it exists already, or cannot be written.
  """
  import orbax.checkpoint as ocp

  directory = directory.absolute()
  check_free(directory, overwrite)
  temporary = directory.with_name(f".{directory.name}.{os.getpid()}.incomplete")
  old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
  try:
    temporary.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(temporary / _WEIGHTS, weights)
    (temporary / _CARD).write_text(json.dumps(card.to_json(), indent=2) + "\n")
    if directory.exists():
      directory.rename(old)
    temporary.rename(directory)
  except Exception as error:
    # Orbax has several errors for a disk that is full or read-only.
    reason = str(error).strip().split("\n")[0][:300]
    raise mapping.ConvertError(f"cannot write {directory}: {reason}") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def read_card(directory: Path) -> Card:
  """The card of converted weights.

  Raises:
    WeightsError: there is none, or it is damaged.
  """
  path = directory / _CARD
  if not path.is_file():
    found = "no such directory" if not directory.is_dir() else f"it has no {_CARD}"
    raise WeightsError(f"{directory}: expected weights written by jaxdml convert; {found}")
  try:
    return Card.from_json(json.loads(path.read_text()))
  except (ValueError, KeyError, TypeError) as error:
    raise WeightsError(f"{path} is damaged ({error}); convert the weights again") from error


def restore(directory: Path) -> Any:
  """Everything that `save` wrote, as NumPy arrays.

  Raises:
    WeightsError: it is damaged.
  """
  import orbax.checkpoint as ocp

  path = directory.absolute() / _WEIGHTS
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    tree = ocp.StandardCheckpointHandler().metadata(path).tree
    target = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree
    )
    with ocp.StandardCheckpointer() as checkpointer:
      return jax.tree.map(np.asarray, checkpointer.restore(path, target))
  except Exception as error:
    # As many kinds of error as there are kinds of damage.
    reason = str(error).strip().split("\n")[0][:300]
    raise WeightsError(
      f"cannot read the weights in {directory} ({reason}); convert them again"
    ) from error


def fit(weights: Any, card: Card, encoder: nn.Module) -> tuple[Any, Any]:
  """Returns (params, batch_stats) of `weights`, once they are seen to fit `encoder`.

  What the encoder has in its stage "pool" (GeM's exponent) is no part of published weights, so it
  is left out.

  Raises:
    WeightsError: names or shapes differ.
  """
  ours = traverse_util.flatten_dict(dict(mapping.abstract(encoder, card.preprocessing.image_size)))
  theirs = traverse_util.flatten_dict({k: weights[k] for k in ("params", "batch_stats")})
  wrong = [
    f"{'/'.join(path)} (expected {list(leaf.shape)}, found {list(theirs[path].shape)})"
    for path, leaf in ours.items()
    if path in theirs and theirs[path].shape != leaf.shape
  ]
  missing = ["/".join(p) for p in ours if p not in theirs and encoder.stage_of(p[1:]) != "pool"]
  left = ["/".join(p) for p in theirs if p not in ours]
  try:
    mapping.refuse({"missing": missing, "left over": left, "wrong shape": wrong})
  except mapping.ConvertError as error:
    raise WeightsError(f"weights of {card.arch} do not fit the encoder: {error}") from error
  return weights["params"], weights["batch_stats"]


def load(directory: str | os.PathLike[str], encoder: nn.Module) -> tuple[Any, Any, Card]:
  """Loads converted weights for an encoder.

  Args:
    directory: as given to jaxdml convert --out.
    encoder: of the architecture in the card, with any options that keep its parameters' shapes.

  Returns:
    (params, batch_stats, card): trees of NumPy arrays; params lacks what only `pooling` adds.

  Raises:
    WeightsError: not there, damaged, or of another encoder.
  """
  path = Path(directory).expanduser()
  card = read_card(path)
  return *fit(restore(path), card, encoder), card


def load_classifier(directory: str | os.PathLike[str]) -> Any:
  """The classifier {"kernel", "bias"} kept beside an encoder, for `logits`; {} if it has none.

  Raises:
    WeightsError: not there or damaged.
  """
  path = Path(directory).expanduser()
  read_card(path)
  return restore(path)["classifier"]
