"""Data sets that need no archives: `digits` and `glyphs`, built where they are not there yet."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from jaxdml import _files
from jaxdml.data import records

BUNDLED = ("digits", "glyphs")  # What `build` makes.
SIZE = 32  # Height and width of a picture in pixels.

_DIGITS = """\
The 1,797 handwritten digits (8x8, 17 grey levels) that ship with scikit-learn, enlarged to 32x32.
The coarse label is the digit's parity. Train and test are halves of the IMAGES of each digit: they
have all classes in common, so they test retrieval by a finer label than the one trained on, not
retrieval of unseen classes.
"""


def default_data_dir() -> Path:
  """Returns where TFDS keeps data sets: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
  """Silences TFDS's own bars and notes; the builders show a bar with an ETA, on stderr."""
  from tensorflow_datasets.core.utils import tqdm_utils

  was_active = getattr(tqdm_utils, "_active", True)
  logger = logging.getLogger("absl")
  level = logger.level
  tfds.disable_progress_bar()
  logger.setLevel(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
    if was_active:
      tfds.enable_progress_bar()


def build(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
  """Builds a bundled data set if it is not there, without network and without TensorFlow.

  TFDS writes to a temporary directory and renames it, so an interrupted build leaves nothing that
  reads as a data set, and of two builds at once the first to finish is kept.

  Returns the directory of the prepared data set, in `data_dir` or `default_data_dir()`; ValueError
  if there is no such bundled data set.
  """
  if name not in BUNDLED:
    raise ValueError(f"no bundled data set {name!r}; there are {sorted(BUNDLED)}")
  root = Path(data_dir or default_data_dir()).expanduser()
  directory = root / name / str(BundledBuilder.VERSION)
  if directory.exists():
    if not records.is_prepared(directory):
      wrong = "exists but is not a data set (it has no dataset_info.json)"
      raise FileExistsError(f"{directory} {wrong}; delete it, and it is built anew")
    return directory
  if name == "digits":
    kind: type[BundledBuilder] = Digits
  else:
    from jaxdml.data.glyphs import Glyphs as kind  # Imports matplotlib, which reading needs not.
  with quiet_tfds():
    builder = kind(data_dir=os.fspath(root), file_format="array_record")
    print(f"Building the data set {name!r} in {directory} (once).", file=sys.stderr)
    try:
      config = tfds.download.DownloadConfig(try_download_gcs=False)
      builder.download_and_prepare(download_config=config)
    except PermissionError as error:
      advice = "as data_dir or in the environment variable TFDS_DATA_DIR"
      why = f"cannot build the data set {name!r} in {root}: {error}"
      raise PermissionError(f"{why}. Give a directory that can be written, {advice}") from error
    except OSError:
      # Another process renamed its finished build into place first; ours is discarded.
      if not records.is_prepared(directory):
        raise
  _files.write_json(directory / records.SOURCE_FILE, {"files": records.digests(directory)})
  return directory


def encode_png(image: np.ndarray) -> bytes:
  """Encodes a uint8 image [h, w] or [h, w, 3] (BGR) as PNG."""
  return cv2.imencode(".png", image)[1].tobytes()


class _StableWriter(tfds_writer.ExampleWriter):
  """Writes features in a fixed order; protobuf's hash map has another in every process."""

  def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
    """Writes one shard."""
    parse = tf_example_pb2.Example.FromString
    stable = ((key, parse(r).SerializeToString(deterministic=True)) for key, r in examples)
    return super().write(path, stable)


class BundledBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set made on this machine; two builds give the same bytes."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 (TFDS reads a plain dict)
  url_infos = None  # Nothing is downloaded; else TFDS looks for checksum files of this package.

  def _described(self, features: dict[str, Any], **more: str) -> tfds.core.DatasetInfo:
    image = tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png")
    more["features"] = tfds.features.FeaturesDict({"image": image, **features})
    return tfds.core.DatasetInfo(builder=self, supervised_keys=("image", "label"), **more)

  def _example_writer(self) -> _StableWriter:
    return _StableWriter(file_format=self.info.file_format)

  def _generate_examples(
    self, examples: list[tuple[str, dict[str, Any]]], split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    what = f"{self.name}: writing {split}"
    yield from tqdm(examples, desc=what, unit=" images", mininterval=0.5)


class Digits(BundledBuilder):
  """Handwritten digits (`label`) with their parity (`parity`: 1 for odd) as coarse label."""

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
      "parity": tfds.features.ClassLabel(names=["even", "odd"]),
    }
    page = "https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html"
    return self._described(features, description=_DIGITS, homepage=page)

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    """Divides the images of each digit in two halves."""
    del dl_manager
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.Generator(np.random.PCG64(2006))
    in_train = np.zeros(len(data.target), bool)
    for digit in range(10):
      of_digit = rng.permutation(np.flatnonzero(data.target == digit))
      in_train[of_digit[: (len(of_digit) + 1) // 2]] = True
    examples: dict[str, list] = {"train": [], "test": []}
    for i, (image, digit) in enumerate(zip(data.images, data.target.tolist(), strict=True)):
      gray = np.round(image * (255 / 16)).astype(np.uint8)
      large = cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
      values = {"image": encode_png(large), "label": digit, "parity": digit % 2}
      examples["train" if in_train[i] else "test"].append((f"{i:04d}", values))
    return {split: self._generate_examples(half, split) for split, half in examples.items()}
