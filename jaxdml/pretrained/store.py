"""Converted weights on disk: an Orbax checkpoint and a card, written whole or not at all.

And ImageNet's weights that come as a Python package: converted once, then kept in a cache.
"""

import dataclasses
import functools
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxdml import _files
from jaxdml._version import __version__
from jaxdml.errors import JaxdmlError
from jaxdml.models.base import Encoder, published_encoders
from jaxdml.pretrained import conversion
from jaxdml.pretrained.files import Card, ConvertError

_CARD = "card.json"
_WEIGHTS = "weights"


class WeightsError(JaxdmlError, ValueError):
  """Weights that are not there, cannot be read or do not fit; the message says what to do."""


def check_free(directory: Path, overwrite: bool) -> None:
  """Raises ConvertError if anything is there, with `overwrite` anything but older weights."""
  if not os.path.lexists(directory):
    return
  if not overwrite:
    raise ConvertError(f"{directory} exists; give another --out, or --overwrite")
  if not directory.is_dir() or (any(directory.iterdir()) and not (directory / _CARD).exists()):
    raise ConvertError(
      f"{directory} exists and is no directory of converted weights, so --overwrite leaves it alone"
    )


def save(directory: Path, weights: Any, card: Card, *, overwrite: bool = False) -> None:
  """Writes weights and card into `directory`, which appears whole, or else ConvertError."""
  import orbax.checkpoint as ocp

  directory = directory.absolute()
  check_free(directory, overwrite)
  temporary = directory.with_name(f".{directory.name}.{os.getpid()}.incomplete")
  old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
  try:
    temporary.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(temporary / _WEIGHTS, weights)
    described = {**card.to_json(), "weights": _digest(weights)}
    _files.write_json(temporary / _CARD, _files.seal(described))
    if directory.exists():
      directory.rename(old)
    temporary.rename(directory)
  except Exception as error:
    # Orbax has several errors for a disk that is full or read-only.
    reason = str(error).strip().split("\n")[0][:300]
    raise ConvertError(f"cannot write {directory}: {reason}") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def is_converted(directory: Path) -> bool:
  """Tells whether `save` wrote this directory."""
  return (directory / _CARD).is_file()


def read_card(directory: Path) -> Card:
  """Returns the card of converted weights; WeightsError if there is none, or it is damaged."""
  return _described(directory)[0]


def _described(directory: Path) -> tuple[Card, str]:
  """The card, and the digest of the weights that it is of."""
  path = directory / _CARD
  if not path.is_file():
    found = "no such directory" if not directory.is_dir() else f"it has no {_CARD}"
    raise WeightsError(f"{directory}: expected weights written by jaxdml convert; {found}")
  try:
    fields = _files.read_sealed(path)
    digest = fields.pop("weights")
    return Card.from_json(fields), digest
  except (ValueError, KeyError, TypeError) as error:
    raise WeightsError(f"{path} is damaged ({error}); convert the weights again") from error


def _digest(weights: Any) -> str:
  digest = hashlib.sha256()
  for path, leaf in sorted(traverse_util.flatten_dict(dict(weights)).items()):
    digest.update(f"{'/'.join(path)} {np.shape(leaf)} {np.asarray(leaf).dtype.name} ".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def restore(directory: Path) -> Any:
  """Returns everything that `save` wrote, as NumPy arrays; WeightsError where it is not that."""
  import orbax.checkpoint as ocp

  path = directory.absolute() / _WEIGHTS
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    tree = ocp.StandardCheckpointHandler().metadata(path).tree
    abstract = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    target = jax.tree.map(abstract, tree)
    with ocp.StandardCheckpointer() as checkpointer:
      weights = jax.tree.map(np.asarray, checkpointer.restore(path, target))
    if _digest(weights) != _described(directory)[1]:
      raise ValueError("other values than were written")
    return weights
  except Exception as error:
    # As many kinds of error as there are kinds of damage.
    reason = str(error).strip().split("\n")[0][:300]
    raise WeightsError(
      f"cannot read the weights in {directory} ({reason}); convert them again"
    ) from error


def fit(weights: Any, card: Card, encoder: Encoder) -> tuple[Any, Any]:
  """Returns (params, batch_stats) of `weights`, once they are seen to fit `encoder`.

  A stage "pool" (GeM's exponent, SigLIP's attention) belongs to one pooling: without it in the
  weights it starts anew, and weights of another pooling's are left out.

  Raises:
    WeightsError: names or shapes differ.
  """
  ours = traverse_util.flatten_dict(dict(conversion.abstract(encoder)))
  theirs = traverse_util.flatten_dict({k: weights[k] for k in ("params", "batch_stats")})
  wrong = [
    f"{'/'.join(path)} (expected {list(leaf.shape)}, found {list(theirs[path].shape)})"
    for path, leaf in ours.items()
    if path in theirs and theirs[path].shape != leaf.shape
  ]
  missing = ["/".join(p) for p in ours if p not in theirs and encoder.stage_of(p[1:]) != "pool"]
  left = ["/".join(p) for p in theirs if p not in ours and p[1] != "pool"]
  try:
    conversion.refuse({"missing": missing, "left over": left, "wrong shape": wrong})
  except ConvertError as error:
    raise WeightsError(f"weights of {card.arch} do not fit the encoder: {error}") from error
  kept = traverse_util.unflatten_dict({path: theirs[path] for path in ours if path in theirs})
  return kept.get("params", {}), kept.get("batch_stats", {})


def load(directory: str | os.PathLike[str], encoder: Encoder) -> tuple[Any, Any, Card]:
  """Returns (params, batch_stats, card) of converted weights, for an encoder.

  Args:
    directory: as given to jaxdml convert --out.
    encoder: of the architecture in the card, with any options that keep its parameters' shapes.

  Returns:
    Trees of NumPy arrays and the card; params lacks what only `pooling` adds.

  Raises:
    WeightsError: not there, damaged, or of another encoder.
  """
  path = Path(directory).expanduser()
  card = read_card(path)
  return *fit(restore(path), card, encoder), card


def load_classifier(directory: str | os.PathLike[str]) -> Any:
  """Returns the classifier {"kernel", "bias"} kept beside an encoder, {} if none; as `load`."""
  path = Path(directory).expanduser()
  read_card(path)
  return restore(path)["classifier"]


def logits(features: jax.Array, classifier: Mapping[str, jax.Array]) -> jax.Array:
  """Returns class logits [n, classes] of features [n, d], by weights' own classifier."""
  return features @ classifier["kernel"] + classifier["bias"]


def cache_dir() -> Path:
  """Returns the folder of converted weights: $XDG_CACHE_HOME/jaxdml, by default ~/.cache/jaxdml."""
  return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdml"


def imagenet_card(arch: str) -> Card:
  """Returns the card of the ImageNet weights of `arch`; errors as of `load_imagenet`."""
  return imagenet(arch)[1]


def load_imagenet(arch: str, encoder: Encoder) -> tuple[Any, Any, Card]:
  """Returns what `load` does, of the ImageNet weights that a Python package carries.

  The first call converts them and keeps them in `cache_dir`.

  Raises:
    WeightsError: no package carries those of `arch`, or it is not installed; the message says
      which file to get and how to convert it.
  """
  weights, card = imagenet(arch)
  return *fit(weights, card, encoder), card


@functools.lru_cache(maxsize=1)
def imagenet(arch: str) -> tuple[Any, Card]:
  """Returns (weights, card) of the ImageNet weights of `arch`; errors as of `load_imagenet`."""
  published = published_encoders().get(arch)
  if published is None:
    raise WeightsError(
      f"no published weights fit {arch}; there are some for {', '.join(published_encoders())}"
    )
  if published.bundled is None:
    raise WeightsError(
      f"no Python package carries weights of {arch}: get {published.file}; convert it by\n"
      f"  jaxdml convert --arch {arch} --source FILE --out weights/{arch}\n"
      f"and give weights/{arch} instead of imagenet"
    )
  try:
    source = published.bundled()
    return converted(arch, source, key(arch, _files.sha256(source)))
  except (OSError, ImportError, ConvertError) as error:
    raise WeightsError(f"{arch}: {error}") from error


def key(arch: str, about: str) -> Path:
  """Returns the directory in the cache of what is told from others by a text, such as a digest."""
  digest = about
  if not re.fullmatch("[0-9a-f]{64}", about):
    digest = hashlib.sha256(about.encode()).hexdigest()
  return cache_dir() / f"{arch}-{__version__}-{digest[:12]}"


def kept(directory: Path) -> tuple[Any, Card] | None:
  """Returns the weights that `converted` kept; None if it did not, or if they are damaged."""
  try:
    card = read_card(directory)
    return restore(directory), card
  except WeightsError:
    return None


def converted(arch: str, source: Path, directory: Path, name: str = "") -> tuple[Any, Card]:
  """Returns a file's weights and card, from `directory` if they are there, else kept there.

  `name` is the source's in the card, by default the file's. ConvertError: it is not of `arch`.
  """
  if there := kept(directory):
    return there
  weights, card = conversion.convert(arch, source)
  card = dataclasses.replace(card, source=name or card.source)
  # Of several hosts Orbax would have one write, and the others wait for it.
  if jax.process_count() == 1:
    try:
      save(directory, weights, card, overwrite=True)
    except ConvertError as error:
      # Another process may have been faster.
      if kept(directory) is None:
        warnings.warn(f"weights will be converted at each start: {error}", stacklevel=2)
  return weights, card
