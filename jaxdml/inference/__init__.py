"""A trained model at work: `load` one, `embed` images with it, `export` it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdml.inference.embedding import DatasetImages as DatasetImages
  from jaxdml.inference.embedding import EmbeddingError as EmbeddingError
  from jaxdml.inference.embedding import FolderImages as FolderImages
  from jaxdml.inference.embedding import embed_images as embed
  from jaxdml.inference.embedding import embed_source as embed_source
  from jaxdml.inference.exporting import ExportError as ExportError
  from jaxdml.inference.exporting import MismatchError as MismatchError
  from jaxdml.inference.exporting import export as export
  from jaxdml.inference.trained_model import TrainedModel as TrainedModel
  from jaxdml.inference.trained_model import load as load

# Loaded when asked for: the errors, and what reads folders, need neither JAX nor the networks.
_PLACES = {
  "DatasetImages": ("embedding", "DatasetImages"),
  "EmbeddingError": ("embedding", "EmbeddingError"),
  "ExportError": ("exporting", "ExportError"),
  "FolderImages": ("embedding", "FolderImages"),
  "MismatchError": ("exporting", "MismatchError"),
  "TrainedModel": ("trained_model", "TrainedModel"),
  "embed": ("embedding", "embed_images"),
  "embed_source": ("embedding", "embed_source"),
  "export": ("exporting", "export"),
  "load": ("trained_model", "load"),
}

__all__ = [
  "DatasetImages", "EmbeddingError", "ExportError", "FolderImages", "MismatchError",
  "TrainedModel", "embed", "embed_source", "export", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
  if name not in _PLACES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, attribute = _PLACES[name]
  return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
  return __all__
