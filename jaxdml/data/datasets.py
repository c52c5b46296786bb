"""Data sets for metric learning: labels in memory, encoded images by random access.

`load` knows the bundled data sets, which it builds on first use, the public ones with their
class-disjoint splits, and, as `tfds:NAME`, whatever TFDS has prepared as array_record.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxdml.data import prepare, storage


class DatasetNotPreparedError(Exception):
  """The data set is not on this machine; the message says where it was sought and what makes it."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a public data set is divided so that no test class is seen in training.

  Attributes:
    label: the feature with the fine label.
    train_classes: labels below this train, the rest test, over all official splits joined; None
      where the official splits have no class in common.
    archives: the files TFDS downloads, in case their host is gone.
    note: what to know about getting them.
  """

  label: str
  train_classes: int | None
  archives: tuple[str, ...]
  note: str = ""


PUBLIC: dict[str, Rule] = {
  "cars196": Rule(
    label="label",
    train_classes=98,
    archives=(
      "cars_train.tgz",
      "cars_test.tgz",
      "car_devkit.tgz",
      "cars_test_annos_withlabels.mat",
    ),
    note="The host that served Cars196 no longer does.",
  ),
  "caltech_birds2011": Rule(
    label="label", train_classes=100, archives=("CUB_200_2011.tgz", "segmentations.tgz")
  ),
  "stanford_online_products": Rule(
    label="class_id", train_classes=None, archives=("Stanford_Online_Products.zip",)
  ),
}
"""Public data sets, by their TFDS name, and the class-disjoint split that papers use."""

GALLERY = "gallery"
"""Column of a test split that is divided in queries (0) and the gallery they are ranked in (1)."""

_BUNDLED_LABEL = "label"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """One split: integer labels in memory, encoded images read on demand.

  It pickles without open files and opens them again where it is used, in worker processes too.

  Attributes:
    name: as given to `load`.
    split: as given to `load`.
    labels: column -> int32 [n], aligned with the records.
    default_label: the column with the class to learn, None if the data set names none.
    directory: where TFDS keeps the data set.
    tfds_split: the TFDS splits the records come from, joined by "+".
    rows: int64 [n], each record's place in `tfds_split`.
    image: name of the image feature.
    names: column -> names of its values, where it has any.
  """

  name: str
  split: str
  labels: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
  default_label: str | None
  directory: str
  tfds_split: str
  rows: np.ndarray = dataclasses.field(repr=False)
  image: str
  names: Mapping[str, Sequence[str] | None] = dataclasses.field(repr=False)

  def __len__(self) -> int:
    return len(self.rows)

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)

  @functools.cached_property
  def _source(self) -> Any:
    return storage.open_records(self.directory, self.tfds_split)

  def column(self, label: str) -> np.ndarray:
    """Returns the label column, int32 [n].

    Raises:
      ValueError: there is no such column.
    """
    if label not in self.labels:
      raise ValueError(
        f"data set {self.name!r} has no label column {label!r}; it has {sorted(self.labels)}"
      )
    return self.labels[label]

  def classes(self, label: str) -> np.ndarray:
    """Returns the distinct values of a label column in this split, int32 [c], ascending."""
    return np.unique(self.column(label))

  def dense_labels(self, label: str) -> np.ndarray:
    """Returns the column as places in `classes(label)`: int32 [n] in 0..c-1, for a softmax head."""
    return np.unique(self.column(label), return_inverse=True)[1].astype(np.int32)

  def label_names(self, label: str) -> list[str] | None:
    """Returns the names of the column's values 0, 1, 2..., or None if they have none."""
    self.column(label)
    names = self.names.get(label)
    return None if names is None else list(names)

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the encoded images of the records `indices` (0..n-1), in that order.

    Raises:
      IndexError: an index is outside 0..n-1.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if indices.size == 0:
      return []
    if indices.min() < 0 or indices.max() >= len(self):
      raise IndexError(
        f"record index outside 0..{len(self) - 1} of data set {self.name!r}, split {self.split!r}: "
        f"got {indices.min()}..{indices.max()}"
      )
    return storage.read_bytes(self._source, self.rows[indices], self.image)

  def path(self, index: int) -> str | None:
    """Returns the file that a record was made from (its feature `path`), or None."""
    return storage.read_text(self._source, self.rows[index], "path")

  def select(self, indices: Sequence[int] | np.ndarray) -> Dataset:
    """Returns the data set of the given records (int [m], or bool [n]), in that order."""
    places = np.asarray(indices)
    chosen = np.arange(len(self))[places if places.size else places.astype(np.int64)]
    labels = {column: values[chosen] for column, values in self.labels.items()}
    return dataclasses.replace(self, labels=labels, rows=self.rows[chosen])


def names() -> list[str]:
  """Returns what `load` accepts, apart from `tfds:NAME`."""
  return [*sorted(prepare.BUNDLED), *sorted(PUBLIC)]


def load(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
  """Loads one split of a data set; bundled ones are built if they are not there.

  Args:
    name: one of `names()`, or `tfds:NAME` (`tfds:NAME/CONFIG`) for a data set prepared by TFDS.
    split: "train" or "test"; for `tfds:NAME` one of its splits, or some joined by "+".
    data_dir: TFDS data directory; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    ValueError: unknown name or split.
    DatasetNotPreparedError: the data set is not there, or not as array_record.
  """
  root = Path(data_dir or prepare.default_data_dir()).expanduser()
  tfds_name = name.removeprefix("tfds:")
  if name in prepare.BUNDLED:
    directory: Path | None = prepare.build(name, root)
  elif name in PUBLIC or (name.startswith("tfds:") and tfds_name):
    directory = storage.find_version(root, tfds_name)
  else:
    raise ValueError(
      f"unknown data set {name!r}; valid names are {', '.join(names())}, and tfds:NAME for any "
      "data set that TFDS has prepared as array_record"
    )
  if directory is None:
    raise DatasetNotPreparedError(_how_to_prepare(name, tfds_name, root))
  info = tfds.builder_from_directory(os.fspath(directory)).info
  formats = {getattr(f, "value", f) for f in info.available_file_formats()}
  if "array_record" not in formats:
    raise DatasetNotPreparedError(
      f"Data set {tfds_name!r} is in {directory}, but as {', '.join(sorted(formats))}, which gives "
      "no random access. Convert it, on a machine with TensorFlow, with: tfds convert_format "
      f"--dataset_version_dir={directory} --out_file_format=array_record"
    )
  return _divide(name, split, info, directory)


def _divide(name: str, split: str, info: tfds.core.DatasetInfo, directory: Path) -> Dataset:
  """Applies the data set's split rule to its label columns."""
  rule = PUBLIC.get(name)
  by_split = storage.read_labels(directory, info)
  valid = sorted(by_split) if name.startswith("tfds:") else ["train", "test"]
  parts = split.split("+") if name.startswith("tfds:") else [split]
  if any(part not in valid for part in parts):
    raise ValueError(f"data set {name!r} has no split {split!r}; it has {', '.join(valid)}")
  if rule is not None and rule.train_classes is not None:
    parts = sorted(by_split, key=lambda part: (part != "train", part))
  columns = set.intersection(*(set(by_split[part]) for part in parts))
  labels = {c: np.concatenate([by_split[part][c] for part in parts]) for c in sorted(columns)}
  rows = np.arange(sum(info.splits[part].num_examples for part in parts))
  if rule is not None and rule.train_classes is not None:
    rows = np.flatnonzero((labels[rule.label] < rule.train_classes) == (split == "train"))
    labels = {c: values[rows] for c, values in labels.items()}
  return Dataset(
    name=name,
    split=split,
    labels=labels,
    default_label=_default_label(name, info, labels),
    directory=os.fspath(directory),
    tfds_split="+".join(parts),
    rows=rows,
    image=storage.image_feature(info),
    names=storage.label_features(info),
  )


def _default_label(
  name: str, info: tfds.core.DatasetInfo, labels: Mapping[str, np.ndarray]
) -> str | None:
  if name in PUBLIC:
    return PUBLIC[name].label
  if name in prepare.BUNDLED:
    return _BUNDLED_LABEL
  supervised = info.supervised_keys
  if supervised and supervised[1] in labels:
    return supervised[1]
  return next(iter(labels)) if len(labels) == 1 else None


def _how_to_prepare(name: str, tfds_name: str, root: Path) -> str:
  command = f"tfds build {tfds_name} --file_format=array_record --data_dir={root}"
  text = (
    f"Data set {tfds_name!r} is not prepared in {root} (no {tfds_name}/<version>/dataset_info.json "
    "there). Another place is chosen by data_dir or the environment variable TFDS_DATA_DIR. "
    "To prepare it, run on any machine with TensorFlow (pip install tensorflow "
    f"tensorflow-datasets) and a network, then copy the directory: {command}"
  )
  rule = PUBLIC.get(name)
  if rule is not None:
    text += (
      f"\n{rule.note or 'If its host no longer serves it:'} "
      f"{'Get' if rule.note else 'get'} the archives ({', '.join(rule.archives)}) elsewhere, put "
      "them unchanged in a directory, and add --manual_dir=THAT_DIRECTORY to the command: TFDS "
      "takes them from there and checks their checksums."
    )
  return text
