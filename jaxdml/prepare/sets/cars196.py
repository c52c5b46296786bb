"""Cars196 from its archives, in either of the two forms in which people have them."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxdml.prepare import official
from jaxdml.prepare.official import Annotations, Count, Row
from jaxdml.prepare.source import PrepareError, small_file

_TRAIN_CLASSES = 98
_TEST_ANNOS = "cars_test_annos_withlabels.mat"
_DEVKIT = ("car_devkit.tgz", "car_devkit.tar.gz", "devkit/cars_train_annos.mat")
# Of each part its folder, where it is, and the file and class of each image.
_Found = list[tuple[str, Path, list[tuple[str, int]]]]


def _read(root: Path, most: int) -> Annotations:
  joined = {
    "car_ims.tgz": official.find_part(root, "car_ims"),
    "cars_annos.mat": official.find(root, "cars_annos.mat"),
  }
  divided = {
    "cars_train.tgz": official.find_part(root, "cars_train"),
    "cars_test.tgz": official.find_part(root, "cars_test"),
    "car_devkit.tgz": official.find(root, *_DEVKIT),
    _TEST_ANNOS: official.find(root, _TEST_ANNOS, f"devkit/{_TEST_ANNOS}"),
  }
  if all(joined.values()):
    found, names = _joined(*joined.values(), most)
  elif all(divided.values()):
    found, names = _divided(*divided.values(), most)
  else:
    there = [{file: path is not None for file, path in f.items()} for f in (joined, divided)]
    raise official.missing_files("cars196", root, there)
  parts, rows = [], []
  for number, (folder, path, annotated) in enumerate(found):
    parts.append(official.open_part(path, folder, most))
    for file, label in annotated:
      if not 1 <= label <= len(names):
        where = f"the annotations give {folder}/{file} the class {label}"
        raise PrepareError(f"{where}, not in 1..{len(names)}")
      split = "train" if label <= _TRAIN_CLASSES else "test"
      rows.append(Row(split, f"{folder}/{file}", {"label": label - 1}, number, file))
  return Annotations({"label": names}, rows, parts)


def _joined(images: Path, annotations: Path, most: int) -> tuple[_Found, list[str]]:
  content = small_file(annotations, most)
  names, found = _class_names(annotations, content), []
  for path, label in _annotations(annotations, content, "relative_im_path"):
    folder, _, file = path.rpartition("/")
    if folder != "car_ims":
      raise PrepareError(f"{annotations} names {path!r}, where car_ims/NUMBER.jpg was expected")
    found.append((file, label))
  return [("car_ims", images, found)], names


def _divided(
  train: Path, test: Path, devkit: Path, test_annos: Path, most: int
) -> tuple[_Found, list[str]]:
  meta, train_annos = "cars_meta.mat", "cars_train_annos.mat"
  if devkit.name == train_annos:
    devkit = devkit.parent
  kit = official.open_part(devkit, "devkit", most, keep=(meta, train_annos))
  contents = {}
  for file in (meta, train_annos):
    if file not in kit.names:
      raise PrepareError(f"{devkit} holds no devkit/{file}: is it the devkit of Cars196?")
    contents[file] = kit.files.text(kit.names[file])
  names = _class_names(devkit / meta, contents[meta])
  of_train = _annotations(devkit / train_annos, contents[train_annos], "fname")
  of_test = _annotations(test_annos, small_file(test_annos, most), "fname")
  return [("cars_train", train, of_train), ("cars_test", test, of_test)], names


def _class_names(path: Path, content: bytes) -> list[str]:
  return [str(name) for name in np.atleast_1d(official.load_mat(path, content, "class_names"))]


def _annotations(path: Path, content: bytes, name_field: str) -> list[tuple[str, int]]:
  """Returns (file, class from 1 on) of each image."""
  table: Any = np.atleast_1d(official.load_mat(path, content, "annotations"))
  for field in (name_field, "class"):
    if field not in (table.dtype.names or ()):
      raise PrepareError(
        f"{path} has no {field!r} for its images (it has {table.dtype.names}): is it the right "
        "file? cars_test_annos.mat, without labels, is not enough"
      )
  columns = table[name_field], table["class"]
  try:
    return [(str(file), int(label)) for file, label in zip(*columns, strict=True)]
  except (TypeError, ValueError) as error:
    raise PrepareError(f"{path} has a class that is no number: {error}") from error


CARD = official.Card(
  name="cars196",
  version="3.0.0",  # TFDS's own, with the official splits, is 2.x.
  help="""\
16,185 photos of 196 car models.
Put into --source, as archives or extracted,
either  car_ims.tgz and cars_annos.mat
or      cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat.
Both give the same images and classes. Their first host, ai.stanford.edu, no longer serves
them; people have them from where torchvision's issue 7545 says, or as Kaggle's
"stanford-cars-dataset".
""",
  homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
  description="""\
Cars196 (Krause et al. 2013), divided by class: both official splits joined, classes 1 to 98 train,
99 to 196 test. Encoded images as in the archives; bounding boxes are not used.""",
  expected={"train": Count(8054, 98), "test": Count(8131, 98)},
  read=_read,
)
