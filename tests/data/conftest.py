"""One copy of the bundled data sets a test session, and a public one in miniature."""

import dataclasses
import fcntl
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdml import data
from jaxdml.data import bundled


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """TFDS data directory that the workers of pytest-xdist share."""
  base = tmp_path_factory.getbasetemp()
  root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tfds"
  root.mkdir(exist_ok=True)
  return root


def _both_splits(name, data_dir):
  with (data_dir / f".lock-{name}").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # One worker builds it, the others wait.
    return {split: data.load(name, split, data_dir=data_dir) for split in ("train", "test")}


@pytest.fixture(scope="session")
def glyphs(data_dir):
  return _both_splits("glyphs", data_dir)


@pytest.fixture(scope="session")
def digits(data_dir):
  return _both_splits("digits", data_dir)


def _picture(number):
  """A colour photo in miniature whose pixels are its number."""
  image = np.full((6, 8, 3), number, np.uint8)
  return cv2.imencode(".png", image)[1].tobytes()


class Cars196(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The layout of TFDS's cars196: both official splits hold images of all 196 classes."""

  name = "cars196"
  VERSION = tfds.core.Version("2.1.0")
  url_infos = None

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.ClassLabel(names=[f"car {i}" for i in range(196)]),
          "bbox": tfds.features.BBoxFeature(),
          "id": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(0), "test": self._generate_examples(1)}

  def _generate_examples(self, official):
    for label in range(official, 196, 3):
      box = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
      yield (
        f"{label}",
        {"image": _picture(label), "label": label, "bbox": box, "id": f"{official}-{label}"},
      )


@pytest.fixture(scope="session")
def cars_dir(tmp_path_factory):
  """A TFDS data directory with a tiny cars196; images show their label."""
  root = tmp_path_factory.mktemp("cars")
  with bundled.quiet_tfds():
    builder = Cars196(data_dir=os.fspath(root), file_format="array_record")
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  return Path(root)


@dataclasses.dataclass(frozen=True, eq=False)
class Photos(data.Dataset):
  """Records that are JPEGs of noise, each its own, of four sizes; those in `bad` are cut short."""

  bad: tuple[int, ...] = ()

  def read(self, indices):
    return [self._photo(int(i)) for i in indices]

  def path(self, index):
    return f"straße/{index}.jpg"

  def _photo(self, index):
    height, width = (60 + 20 * (index % 2), 90 - 20 * (index % 3))
    noise = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", noise)[1].tobytes()
    return encoded[: len(encoded) // 2] if index in self.bad else encoded


@pytest.fixture
def photos():
  """(labels, bad) -> a data set of JPEGs; by default 6 classes of 6."""

  def make(labels=None, bad=()):
    labels = np.repeat(np.arange(6), 6) if labels is None else labels
    return Photos(
      name="photos", split="train", labels={"label": labels.astype(np.int32)},
      default_label="label", directory="/photos", tfds_split="train", rows=np.arange(len(labels)),
      image="image", names={"label": None}, digest="", bad=bad,
    )  # fmt: skip

  return make
