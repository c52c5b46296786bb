"""What the bundled builders share: nothing to download, PNG images, reproducible files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2


def encode_png(image: np.ndarray) -> bytes:
  """Encodes a uint8 image [h, w] or [h, w, 3] (BGR) as PNG."""
  return cv2.imencode(".png", image)[1].tobytes()


def _stable(examples: Iterable[tuple[Any, bytes]]) -> Iterator[tuple[Any, bytes]]:
  for key, record in examples:
    example = tf_example_pb2.Example.FromString(record)
    yield key, example.SerializeToString(deterministic=True)


class StableWriter(tfds_writer.ExampleWriter):
  """Writes the features of each record in a fixed order.

  TFDS writes them as protobuf's hash map has them, in another order in every process.
  """

  def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
    """Writes one shard."""
    return super().write(path, _stable(examples))


class BundledBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set made on this machine; two builds give the same bytes."""

  url_infos = None  # Nothing is downloaded; else TFDS looks for checksum files of this package.

  def _example_writer(self) -> StableWriter:
    return StableWriter(file_format=self.info.file_format)
