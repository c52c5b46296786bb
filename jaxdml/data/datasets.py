"""Data sets for metric learning, and parts of them: labels in memory, images by random access."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxdml._labels import UNKNOWN
from jaxdml.data import bundled, catalog, records
from jaxdml.data.catalog import PUBLIC, DatasetNotPreparedError

# Column of a test split that is divided in queries (0) and the gallery they are ranked in (1).
GALLERY = "gallery"
"""The column that says which records of a split "test" are its gallery."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """One split: integer labels in memory, encoded images read on demand.

  It pickles without open files and opens them again where it is used, in worker processes too. The
  digest is of the split as it was loaded, whatever was selected of it since: another number of
  images or bytes, or another label, changes it; where it lies does not.
  """

  name: str  # as given to `load`
  split: str  # likewise
  labels: Mapping[str, np.ndarray] = dataclasses.field(repr=False)  # column -> int32 [n]
  default_label: str | None  # the column with the class to learn, None if the data set names none
  directory: str  # where TFDS keeps the data set
  tfds_split: str  # the TFDS splits the records come from, joined by "+"
  rows: np.ndarray = dataclasses.field(repr=False)  # int64 [n], each record's place in `tfds_split`
  image: str  # name of the image feature
  names: Mapping[str, Sequence[str] | None] = dataclasses.field(repr=False)  # column -> its values'
  digest: str  # 16 hexadecimal digits

  def __len__(self) -> int:
    return len(self.rows)

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @functools.cached_property
  def _source(self) -> Any:
    return records.open_records(self.directory, self.tfds_split)

  def column(self, label: str) -> np.ndarray:
    """Returns the label column, int32 [n]; ValueError if there is none of this name."""
    if label not in self.labels:
      missing = f"has no label column {label!r}; it has {sorted(self.labels)}"
      raise ValueError(f"data set {self.name!r} {missing}")
    return self.labels[label]

  def classes(self, label: str) -> np.ndarray:
    """Returns the distinct values of a label column in this split, int32 [c]; -1 is unknown."""
    values = np.unique(self.column(label))
    return values[values != UNKNOWN]

  def dense_labels(self, label: str) -> np.ndarray:
    """Returns the column as places in `classes(label)`: int32 [n] in 0..c-1; -1 where unknown."""
    column = self.column(label)
    places = np.searchsorted(self.classes(label), column).astype(np.int32)
    return np.where(column == UNKNOWN, np.int32(UNKNOWN), places)

  def label_names(self, label: str) -> list[str] | None:
    """Returns the names of the column's values 0, 1, 2..., or None if they have none."""
    self.column(label)
    names = self.names.get(label)
    return None if names is None else list(names)

  def __str__(self) -> str:
    return f"data set {self.name!r}, split {self.split!r}"

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the encoded images of the records `indices`, in that order.

    IndexError if one is outside 0..n-1.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if not indices.size:
      return []
    low, high = indices.min(), indices.max()
    if low < 0 or high >= len(self):
      raise IndexError(f"record index outside 0..{len(self) - 1} of {self}: got {low}..{high}")
    return records.read_bytes(self._source, self.rows[indices], self.image)

  def path(self, index: int) -> str | None:
    """Returns the file that a record was made from (its feature `path`), or None."""
    return records.read_text(self._source, self.rows[index], "path")

  @property
  def description(self) -> str:
    """Text that its preparation wrote down; of people's own photos, all that it remarked on."""
    return str(records.open_info(Path(self.directory)).description or "")

  def describe(self, index: int) -> str:
    """Returns where a record comes from, for messages: its file and its place in the data set."""
    path = self.path(index)
    file = f"file {path!r}, " if path else ""
    place = f"record {int(self.rows[index])} of {self.tfds_split!r} in {self.directory}"
    return f"record {index} of {self} ({file}{place})"

  def select(self, indices: Sequence[int] | np.ndarray) -> "Dataset":
    """Returns the data set of the given records (int [m], or bool [n]), in that order."""
    places = np.asarray(indices)
    chosen = np.arange(len(self))[places if places.size else places.astype(np.int64)]
    labels = {column: values[chosen] for column, values in self.labels.items()}
    return dataclasses.replace(self, labels=labels, rows=self.rows[chosen])


def names() -> list[str]:
  """Returns the names that `load` knows, apart from `image_folder/NAME` and `tfds:NAME`."""
  return [*bundled.BUNDLED, *sorted(PUBLIC)]


def load(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
  """Loads one split of a data set; bundled ones are built if they are not there.

  A data set with the splits query and gallery and no split test has the two joined as "test", with
  the column `GALLERY`.

  Args:
    name: one of `names()` or any that `jaxdml prepare` has made; `image_folder/NAME` for people's
      own photos; `tfds:NAME` (`tfds:NAME/CONFIG`) for a data set prepared by TFDS.
    split: "train" or "test"; for image folders and `tfds:NAME` one of their splits, or some joined
      by "+".
    data_dir: TFDS data directory; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

  ValueError for an unknown name or split, DatasetNotPreparedError if the data set is not there or
  not as array_record.
  """
  root = Path(data_dir or bundled.default_data_dir()).expanduser()
  tfds_name = name.removeprefix("tfds:")
  if name in bundled.BUNDLED:
    directory: Path | None = bundled.build(name, root)
  elif name in PUBLIC or (_has_own_splits(name) and tfds_name) or _made_here(name, root):
    directory = records.find_version(root, tfds_name)
  else:
    raise ValueError(
      f"unknown data set {name!r}; valid names are {', '.join(names())}, any other that jaxdml "
      "prepare has made, image_folder/NAME for your own photos, and tfds:NAME for any data set "
      "that TFDS has prepared as array_record. "
      f"Data directory: {root}. {catalog.what_there_is(name, _prepared(root), names())}"
    )
  if directory is None:
    raise DatasetNotPreparedError(catalog.how_to_prepare(name, root, _prepared(root)))
  info = records.open_info(directory)
  formats = {getattr(f, "value", f) for f in info.available_file_formats()}
  if "array_record" not in formats:
    raise DatasetNotPreparedError(catalog.how_to_convert(name, directory, sorted(formats)))
  return _divide(name, split, info, directory)


def _prepared(root: Path) -> list[str]:
  """Returns what `load` takes and finds in a data directory."""
  known, folder = names(), catalog.IMAGE_FOLDER
  own = lambda name: name in known or name.startswith(folder) or _made_here(name, root)
  return [name if own(name) else f"tfds:{name}" for name in records.prepared(root)]


def _made_here(name: str, root: Path) -> bool:
  """Tells whether `jaxdml prepare` made a data set of this name: its splits share no class then."""
  directory = records.find_version(root, name)
  return directory is not None and (directory / records.SOURCE_FILE).is_file()


def _has_own_splits(name: str) -> bool:
  return name.startswith(("tfds:", catalog.IMAGE_FOLDER))


def _parts(name: str, split: str, by_split: Mapping[str, Any]) -> list[str]:
  """Returns the TFDS splits that a split is made of."""
  joins = {"query", "gallery"} <= set(by_split) and "test" not in by_split
  joined = {"test": ["query", "gallery"]} if joins else {}
  own = _has_own_splits(name)
  valid = sorted({*by_split, *joined}) if own else ["train", "test"]
  parts = split.split("+") if own else [split]
  if any(part not in valid for part in parts):
    raise ValueError(f"data set {name!r} has no split {split!r}; it has {', '.join(valid)}")
  return [piece for part in parts for piece in joined.get(part, [part])]


def _divide(name: str, split: str, info: tfds.core.DatasetInfo, directory: Path) -> Dataset:
  """Applies the data set's split rule to its label columns."""
  rule = PUBLIC.get(name)
  by_split = records.read_labels(directory, info)
  parts = _parts(name, split, by_split)
  chosen: dict[str, np.ndarray] = {}
  if rule is not None and rule.train_classes is not None:
    for part in sorted(by_split, key=lambda part: (part != "train", part)):
      in_train = by_split[part][rule.label] < rule.train_classes
      rows = np.flatnonzero(in_train == (split == "train"))
      if rows.size:
        chosen[part] = rows
  elif set(parts) <= set(by_split):
    chosen = {part: np.arange(info.splits[part].num_examples) for part in parts}
  if not chosen:
    missing = f"was prepared without the records of the split {split!r}"
    raise ValueError(f"data set {name!r} in {directory} {missing}")
  columns = sorted(set.intersection(*(set(by_split[part]) for part in chosen)))
  labels = {
    c: np.concatenate([by_split[p][c][rows] for p, rows in chosen.items()]) for c in columns
  }
  if "gallery" in chosen and "query" in chosen:
    sizes = [len(rows) for rows in chosen.values()]
    labels[GALLERY] = np.repeat([np.int32(part == "gallery") for part in chosen], sizes)
  starts = np.cumsum([0, *(info.splits[part].num_examples for part in chosen)])
  rows = np.concatenate([s + rows for s, rows in zip(starts, chosen.values(), strict=False)])
  default = rule.label if rule is not None else (info.supervised_keys or ("", ""))[1]
  if rule is None and default not in labels:
    default = next(iter(labels)) if len(labels) == 1 else None
  return Dataset(
    name=name,
    split=split,
    labels=labels,
    default_label=default,
    directory=os.fspath(directory),
    tfds_split="+".join(chosen),
    rows=rows,
    image=records.image_feature(info),
    names=records.label_features(info),
    digest=_digest({part: info.splits[part].num_bytes for part in chosen}, rows, labels),
  )


def _digest(sizes: Mapping[str, int], rows: np.ndarray, labels: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256(repr(sorted(sizes.items())).encode())
  for name, values in [("", rows), *sorted(labels.items())]:
    digest.update(f"{name} {values.size} ".encode())
    digest.update(values.astype("<i8").tobytes())
  return digest.hexdigest()[:16]


def _part(dataset: Dataset, held_out: np.ndarray, name: str) -> tuple[Dataset, Dataset]:
  """Returns the rest, and the records that `held_out` marks, under a name of their own."""
  validation = dataclasses.replace(dataset.select(held_out), split=f"{dataset.split}:{name}")
  return dataset.select(~held_out), validation


def validation_split(
  dataset: Dataset, label: str, fraction: float, seed: int
) -> tuple[Dataset, Dataset]:
  """Sets aside some classes for validation: (train, validation), with no class in common.

  `fraction` is the share of the classes that validate, in (0, 1); at least two classes are on each
  side, for with one class every neighbour is right. A class of one image always trains: there it
  has nothing to find.

  ValueError if `fraction` is outside (0, 1), or there are fewer than four classes, or fewer than
  two of several images.
  """
  classes, sizes = np.unique(dataset.column(label), return_counts=True)
  if not 0 < fraction < 1:
    raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
  needed = f"a validation part needs 2 classes of {label!r}"
  if len(classes) < 4:
    needs = f"{needed} and training 2 others, and {dataset}, has {len(classes)}"
    raise ValueError(f"{needs}: set eval.validation_fraction=0")
  several = classes[sizes > 1]
  if len(several) < 2:
    needs = f"{needed} with more than one image, and {dataset}, has {len(several)}"
    raise ValueError(f"{needs}: set eval.validation_fraction=0")
  count = min(max(round(fraction * len(classes)), 2), len(classes) - 2)
  rng = np.random.Generator(np.random.PCG64(seed))
  held_out = np.isin(dataset.column(label), rng.permutation(several)[:count])
  return _part(dataset, held_out, "validation")


def cross_validation(
  dataset: Dataset, label: str, folds: int, seed: int | None = None
) -> list[tuple[Dataset, Dataset]]:
  """Divides the classes into folds, each of which validates once: (train, validation) a fold.

  By default the folds are consecutive ranges of the classes in the order of their numbers: the
  first fold validates on the first 1/folds of them, as in Musgrave et al. 2020 (arXiv 2003.08505,
  4 folds); with a seed, the classes are shuffled first. Sizes of folds differ by at most one class.

  ValueError for fewer than two folds, or than two classes in one, where every neighbour is right.
  """
  classes = dataset.classes(label)
  if folds < 2:
    raise ValueError(f"folds must be at least 2, got {folds}")
  if len(classes) < 2 * folds:
    needed = f"{folds} folds need at least {2 * folds} classes of {label!r}"
    raise ValueError(f"{needed}, and {dataset}, has {len(classes)}")
  if seed is not None:
    classes = np.random.Generator(np.random.PCG64(seed)).permutation(classes)
  column, parts = dataset.column(label), []
  for number, part in enumerate(np.array_split(classes, folds)):
    parts.append(_part(dataset, np.isin(column, part), f"fold{number}"))
    if np.unique(parts[-1][1].column(label), return_counts=True)[1].max() < 2:
      raise ValueError(f"fold {number} of {dataset}, has no two images of one class of {label!r}")
  return parts


def with_groups(dataset: Dataset, label: str) -> Dataset:
  """Adds the column `label` if it is "COLUMN//M": classes of COLUMN in groups of M, at random.

  Groups that mean nothing: what a coarse label does to a finer retrieval, at any coarseness. The
  same split gives the same groups; a last group of less than M classes joins the one before it. The
  name of any column changes nothing.

  ValueError for no such column, or an M that is no whole number from 1 to the number of classes.
  """
  column, slashes, size = label.partition("//")
  if not slashes or label in dataset.labels:
    return dataset
  classes = dataset.classes(column)
  if not size.isdecimal() or not 1 <= int(size) <= len(classes):
    most = f"{len(classes)}, the classes of {column!r} in {dataset}"
    raise ValueError(f"label column {label!r}: expected COLUMN//M with 1 <= M <= {most}")
  groups = len(classes) // int(size)
  place = np.random.Generator(np.random.PCG64(0)).permutation(len(classes))
  group = np.minimum(place // int(size), groups - 1).astype(np.int32)
  dense = dataset.dense_labels(column)
  labels = {**dataset.labels, label: np.where(dense == UNKNOWN, UNKNOWN, group[dense])}
  return dataclasses.replace(dataset, labels=labels)
