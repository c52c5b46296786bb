"""Data sets, samplers and input pipelines for metric learning; TensorFlow is never imported.

`load` opens a split, `sampling.create` says which of its records are a batch, `preprocess.create`
what becomes of an image, and `train_batches` and `eval_batches` iterate over all that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdml.data import augment as augment
  from jaxdml.data import normalize as normalize
  from jaxdml.data import picture_files as picture_files
  from jaxdml.data import preprocess as preprocess
  from jaxdml.data import sampling as sampling
  from jaxdml.data.catalog import DatasetNotPreparedError as DatasetNotPreparedError
  from jaxdml.data.datasets import GALLERY as GALLERY
  from jaxdml.data.datasets import Dataset as Dataset
  from jaxdml.data.datasets import load as load
  from jaxdml.data.datasets import names as names
  from jaxdml.data.decode import ImageDecodeError as ImageDecodeError
  from jaxdml.data.loading import MAX_BAD_IMAGES as MAX_BAD_IMAGES
  from jaxdml.data.loading import BadImages as BadImages
  from jaxdml.data.pipeline import eval_batches as eval_batches
  from jaxdml.data.pipeline import train_batches as train_batches
  from jaxdml.data.splits import cross_validation as cross_validation
  from jaxdml.data.splits import validation_split as validation_split
  from jaxdml.data.splits import with_groups as with_groups
  from jaxdml.data.workers import Batches as Batches
  from jaxdml.data.workers import WorkerError as WorkerError

# Loaded when asked for: an error's name needs neither TFDS nor Grain, which imports JAX.
_PLACES = {
  "catalog": ("DatasetNotPreparedError",),
  "datasets": ("GALLERY", "Dataset", "load", "names"),
  "decode": ("ImageDecodeError",),
  "loading": ("MAX_BAD_IMAGES", "BadImages"),
  "pipeline": ("eval_batches", "train_batches"),
  "splits": ("cross_validation", "validation_split", "with_groups"),
  "workers": ("Batches", "WorkerError"),
}
_MODULES = ("augment", "normalize", "picture_files", "preprocess", "sampling")

__all__ = [
  "GALLERY", "MAX_BAD_IMAGES", "BadImages", "Batches", "Dataset", "DatasetNotPreparedError",
  "ImageDecodeError", "WorkerError", "augment", "cross_validation", "eval_batches", "load",
  "names", "normalize", "picture_files", "preprocess", "sampling", "train_batches",
  "validation_split", "with_groups",
]  # fmt: skip


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  for module, names in _PLACES.items():
    if name in names:
      return getattr(importlib.import_module(f"{__name__}.{module}"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return __all__
