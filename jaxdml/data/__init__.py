"""Data sets, samplers and input pipelines for metric learning; TensorFlow is never imported.

`load` opens a split, `sampling.create` says which of its records are a batch, `preprocess.create`
what becomes of an image, and `train_batches` and `eval_batches` iterate over all that.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.data import augment, augmentation, normalize, picture_files, preprocess, sampling
  from jaxdml.data.catalog import DatasetNotPreparedError
  from jaxdml.data.datasets import GALLERY, Dataset, cross_validation, load, names
  from jaxdml.data.datasets import validation_split as validation_split
  from jaxdml.data.datasets import with_groups as with_groups
  from jaxdml.data.decode import ImageDecodeError
  from jaxdml.data.loading import MAX_BAD_IMAGES, BadImages
  from jaxdml.data.pipeline import eval_batches, train_batches
  from jaxdml.data.records import DamagedDatasetError
  from jaxdml.data.workers import Batches, WorkerError

__all__ = [
  "GALLERY", "MAX_BAD_IMAGES", "BadImages", "Batches", "DamagedDatasetError", "Dataset",
  "DatasetNotPreparedError", "ImageDecodeError", "WorkerError", "augment", "augmentation",
  "cross_validation", "eval_batches", "load", "names", "normalize", "picture_files", "preprocess",
  "sampling", "train_batches", "validation_split", "with_groups",
]  # fmt: skip

# An error's name needs neither TFDS nor Grain, which imports JAX.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, catalog="DatasetNotPreparedError",
  datasets="GALLERY Dataset cross_validation load names validation_split with_groups",
  decode="ImageDecodeError", loading="MAX_BAD_IMAGES BadImages",
  pipeline="eval_batches train_batches", records="DamagedDatasetError",
  workers="Batches WorkerError",
)  # fmt: skip
