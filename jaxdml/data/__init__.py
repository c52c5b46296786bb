"""Data sets, samplers and input pipelines for metric learning; TensorFlow is never imported."""

from jaxdml.data import augment, normalize, picture_files, preprocess, sampling
from jaxdml.data.catalog import DatasetNotPreparedError
from jaxdml.data.datasets import GALLERY, Dataset, load, names
from jaxdml.data.decode import ImageDecodeError
from jaxdml.data.loading import MAX_BAD_IMAGES, BadImages
from jaxdml.data.pipeline import eval_batches, train_batches
from jaxdml.data.splits import cross_validation, validation_split, with_groups
from jaxdml.data.workers import Batches, WorkerError

__all__ = [
  "GALLERY",
  "MAX_BAD_IMAGES",
  "BadImages",
  "Batches",
  "Dataset",
  "DatasetNotPreparedError",
  "ImageDecodeError",
  "WorkerError",
  "augment",
  "cross_validation",
  "eval_batches",
  "load",
  "names",
  "normalize",
  "picture_files",
  "preprocess",
  "sampling",
  "train_batches",
  "validation_split",
  "with_groups",
]


def __dir__() -> list[str]:
  return __all__
