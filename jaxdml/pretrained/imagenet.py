"""ImageNet's weights that come as a Python package: converted once, then kept in a cache."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from jaxdml._version import __version__
from jaxdml.pretrained import checkpoint, files, mapping, names
from jaxdml.pretrained.card import Card
from jaxdml.pretrained.checkpoint import WeightsError


def cache_dir() -> Path:
  """Where converted weights are kept: $XDG_CACHE_HOME/jaxdml, by default ~/.cache/jaxdml."""
  return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdml"


def imagenet_card(arch: str) -> Card:
  """The card of the ImageNet weights that a Python package carries.

  Raises:
    WeightsError: as `load_imagenet`.
  """
  return _weights(arch)[1]


def load_imagenet(arch: str, encoder: nn.Module) -> tuple[Any, Any, Card]:
  """As `load`, of the ImageNet weights that a Python package carries.

  The first call converts them, for which it needs PyTorch, and keeps them in `cache_dir`.

  Raises:
    WeightsError: no package carries those of `arch`, or it is not installed; the message says
      which file to get and how to convert it.
  """
  weights, card = _weights(arch)
  return *checkpoint.fit(weights, card, encoder), card


@functools.lru_cache(maxsize=1)
def _weights(arch: str) -> tuple[Any, Card]:
  family = names.FAMILIES.get(arch)
  if family is None:
    raise WeightsError(
      f"no published weights fit {arch}; there are some for {', '.join(names.FAMILIES)}"
    )
  if family.bundled is None:
    raise WeightsError(
      f"no Python package carries weights of {arch}: get {family.file}; convert it by\n"
      f"  jaxdml convert --arch {arch} --src FILE --out weights/{arch}\n"
      f"and give weights/{arch} instead of imagenet"
    )
  try:
    source = family.bundled()
    kept = cache_dir() / f"{arch}-{__version__}-{files.sha256(source)[:12]}"
    return _read(kept) or _convert(arch, source, kept)
  except (OSError, ImportError, mapping.ConvertError) as error:
    raise WeightsError(f"{arch}: {error}") from error


def _read(directory: Path) -> tuple[Any, Card] | None:
  """What an earlier call kept; None if it did not, or if that is damaged."""
  if not directory.exists():
    return None
  try:
    card = checkpoint.read_card(directory)
    return checkpoint.restore(directory), card
  except WeightsError:
    return None


def _convert(arch: str, source: Path, directory: Path) -> tuple[Any, Card]:
  weights, card = checkpoint.convert(arch, source)
  # Of several hosts Orbax would have one write, and the others wait for it.
  if jax.process_count() == 1:
    try:
      checkpoint.save(directory, weights, card, overwrite=True)
    except mapping.ConvertError as error:
      # Another process may have been faster.
      if _read(directory) is None:
        warnings.warn(f"weights will be converted at each start: {error}", stacklevel=2)
  return weights, card
