"""Data sets, samplers and input pipelines for metric learning; TensorFlow is never imported."""

from jaxdml.data import encoding as encoding
from jaxdml.data import preprocess as preprocess
from jaxdml.data import sampling as sampling
from jaxdml.data.datasets import GALLERY as GALLERY
from jaxdml.data.datasets import Dataset as Dataset
from jaxdml.data.datasets import DatasetNotPreparedError as DatasetNotPreparedError
from jaxdml.data.datasets import load as load
from jaxdml.data.groups import with_groups as with_groups
from jaxdml.data.images import BadImages as BadImages
from jaxdml.data.pipeline import eval_batches as eval_batches
from jaxdml.data.pipeline import train_batches as train_batches
from jaxdml.data.preprocess import ImageDecodeError as ImageDecodeError
from jaxdml.data.splits import cross_validation as cross_validation
from jaxdml.data.splits import validation_split as validation_split
from jaxdml.data.workers import Batches as Batches
from jaxdml.data.workers import WorkerError as WorkerError

__all__ = [
  "GALLERY",
  "BadImages",
  "Batches",
  "Dataset",
  "DatasetNotPreparedError",
  "ImageDecodeError",
  "WorkerError",
  "cross_validation",
  "encoding",
  "eval_batches",
  "load",
  "preprocess",
  "sampling",
  "train_batches",
  "validation_split",
  "with_groups",
]
