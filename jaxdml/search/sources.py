"""Where images to embed come from: a folder, searched at any depth, or a prepared data set.

Both can be read like `data.Dataset`, by record number, so that `data.eval_batches` takes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdml import data
from jaxdml.data import picture_files
from jaxdml.search.errors import SearchError

__all__ = ["DatasetImages", "FolderImages", "open_source"]


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
  """Image files below a folder, in the order of their paths.

  Attributes:
    root: the folder, absolute.
    paths: of the files, below the folder, with "/" between their parts.
    labels: the class folder of each, None for files directly in the root.
  """

  root: str
  paths: Sequence[str]
  labels: Sequence[str | None]

  @classmethod
  def open(cls, root: str | os.PathLike[str]) -> FolderImages:
    """Lists the images of a folder: by suffix, at any depth; hidden files are left out.

    The label is the name of the folder below the root that a file is in. Where all folders there
    are splits (train, test, query, gallery), it is the one below those.

    Raises:
      SearchError: it is no folder, or there is no image in it.
    """
    folder = pathlib.Path(root).expanduser()
    if not folder.is_dir():
      what = "is a file" if folder.exists() else "does not exist"
      raise SearchError(f"{folder} {what}; expected a folder of images")
    try:
      paths = sorted(filter(picture_files.is_picture, picture_files.walk(folder, links=True)))
    except picture_files.FolderError as error:
      raise SearchError(str(error)) from error
    if not paths:
      raise SearchError(
        f"{folder} holds no image, at any depth; expected files that end in "
        f"{', '.join(picture_files.SUFFIXES)}"
      )
    tops = {path.split("/")[0].casefold() for path in paths if "/" in path}
    skip = 1 if tops and tops <= set(picture_files.SPLITS) else 0
    labels = [_label(path.split("/")[skip:]) for path in paths]
    return cls(os.fspath(folder.resolve()), tuple(paths), tuple(labels))

  def __len__(self) -> int:
    return len(self.paths)

  @property
  def name(self) -> str:
    """What the bars call it."""
    return pathlib.Path(self.root).name

  def settings(self) -> dict[str, Any]:
    """What names these images in a store; it changes with the name, size or time of any file."""
    digest = hashlib.sha256()
    for path in self.paths:
      try:
        status = os.stat(os.path.join(self.root, path))
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
      except OSError:
        digest.update(f"{path}\0\0".encode())
    listing = digest.hexdigest()[:16]
    return {"kind": "folder", "root": self.root, "images": len(self), "listing": listing}

  def file(self, index: int) -> str:
    """The path of a file."""
    return os.path.join(self.root, self.paths[index])

  def describe(self, index: int) -> str:
    """Names a file, for messages."""
    return self.file(index)

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the bytes of some files.

    Raises:
      ImageDecodeError: one cannot be read.
    """
    return [_read(self.file(int(index))) for index in indices]

  def columns(self, indices: np.ndarray) -> dict[str, list[Any]]:
    """Returns what a store keeps of some files beside their embeddings."""
    return {name: [values[i] for i in indices] for name, values in
            (("path", self.paths), ("label", self.labels))}  # fmt: skip

  def select(self, indices: np.ndarray) -> FolderImages:
    """Returns the given files, in that order."""
    return dataclasses.replace(self, **{
      name + "s": tuple(values) for name, values in self.columns(indices).items()
    })  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetImages:
  """One split of a prepared data set; `label` is the column that a store shows.

  A record's path is NAME/SPLIT/NUMBER; all label columns are kept, as label_COLUMN.
  """

  dataset: data.Dataset
  label: str | None
  data_dir: str | None = None

  @classmethod
  def open(
    cls, name: str, split: str, *, label: str | None = None, data_dir: str | None = None
  ) -> DatasetImages:
    """Opens a split of a data set.

    Args:
      name: as `data.load` takes it.
      split: likewise.
      label: the column shown; by default the data set's own.
      data_dir: the TFDS data directory.

    Raises:
      ValueError: no such data set, split or column.
      DatasetNotPreparedError: it is not there.
    """
    dataset = data.load(name, split, data_dir=data_dir)
    label = label or dataset.default_label
    if label is not None:
      dataset.column(label)
    return cls(dataset, label, data_dir)

  def __len__(self) -> int:
    return len(self.dataset)

  @property
  def name(self) -> str:
    """What the bars call it."""
    return f"{self.dataset.name} {self.dataset.split}"

  def settings(self) -> dict[str, Any]:
    """What names these images in a store."""
    return {
      "kind": "dataset",
      "name": self.dataset.name,
      "split": self.dataset.split,
      "label": self.label,
      "data_dir": self.data_dir,
      "images": len(self),
    }

  def file(self, index: int) -> str:
    """The name of a record, as it is in a store."""
    return f"{self.dataset.name}/{self.dataset.split}/{index}"

  def describe(self, index: int) -> str:
    """Names a record, for messages."""
    return self.dataset.describe(index)

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the encoded images of some records."""
    return self.dataset.read(indices)

  def columns(self, indices: np.ndarray) -> dict[str, Any]:
    """Returns what a store keeps of some records beside their embeddings."""
    whole, rows = self.dataset, np.asarray(indices)
    shown = [None] * len(rows) if self.label is None else self._names(rows)
    return {
      "path": [self.file(row) for row in rows],
      "label": shown,
      "index": rows.astype(np.int64),
      **{f"label_{name}": whole.column(name)[rows] for name in sorted(whole.labels)},
    }

  def select(self, indices: np.ndarray) -> DatasetImages:
    """Returns the given records, in that order."""
    return dataclasses.replace(self, dataset=self.dataset.select(indices))

  def _names(self, rows: np.ndarray) -> list[str]:
    names, values = self.dataset.label_names(self.label), self.dataset.column(self.label)[rows]
    return [names[v] if names and 0 <= v < len(names) else str(v) for v in values.tolist()]


def open_source(settings: dict[str, Any], paths: Sequence[str]) -> Any:
  """Opens the images that a store was made of, from what it says of them.

  Args:
    settings: as `settings()` gave it.
    paths: of the store's rows.

  Returns:
    An object whose `read([row])` gives the encoded image of a row of the store.

  Raises:
    DatasetNotPreparedError, ValueError: the data set is gone.
  """
  if settings["kind"] == "folder":
    return FolderImages(settings["root"], tuple(paths), (None,) * len(paths))
  whole = data.load(settings["name"], settings["split"], data_dir=settings["data_dir"])
  return whole.select(np.array([int(path.rpartition("/")[2]) for path in paths], np.int64))


def _label(parts: Sequence[str]) -> str | None:
  return picture_files.clean_name(parts[0]) if len(parts) > 1 else None


def _read(path: str) -> bytes:
  try:
    return picture_files.read(path)
  except OSError as error:
    raise data.ImageDecodeError(f"it cannot be read: {error.strerror}") from error
