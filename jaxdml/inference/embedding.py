"""Images to vectors: a few images at hand, or all of a folder or data set, batch by batch.

A source is images by number: those of a folder (`FolderImages`) or of a prepared data set
(`DatasetImages`). Both are read as a `data.Dataset` is, so that `data.eval_batches` takes them.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm import tqdm

from jaxdml import data
from jaxdml._text import bar_options, printable
from jaxdml.data import picture_files
from jaxdml.errors import JaxdmlError

if TYPE_CHECKING:
  from jaxdml.inference.trained_model import TrainedModel


class EmbeddingError(JaxdmlError, ValueError):
  """A model whose embeddings are of no use, such as NaN."""


def embed_images(model: "TrainedModel", images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
  """Embeds a few images as they are at hand, queries for one: float32 [n, d].

  Args:
    images: each a path, the bytes of a file, a PIL image or uint8 [h, w, 3], RGB, as
      `data.picture_files.encoded` takes them.
    batch_size: images a batch, on all devices of this host.

  Raises:
    TypeError, ImageDecodeError, OSError: one is none of these, or cannot be decoded or read.
    EmbeddingError: the model gives NaN.
  """
  if isinstance(images, str | bytes | os.PathLike):
    raise TypeError(f"images: expected a list of images, got one {type(images).__name__}: [it]")
  rng = np.random.default_rng(0)  # Nothing is drawn.
  parts = [np.zeros((0, model.dimension), np.float32)]
  for start in range(0, len(images), batch_size):
    batch = [
      model.preprocessing(data.picture_files.encoded(images[i], f"images[{i}]"), rng)
      for i in range(start, min(start + batch_size, len(images)))
    ]
    parts.append(model.embed_batch(np.stack(batch)))
  embeddings = np.concatenate(parts)
  if not np.isfinite(embeddings).all():
    raise EmbeddingError(f"the model in {model.workdir} gives NaN: its training has diverged")
  return embeddings


def embed_source(
  model: "TrainedModel", source: "FolderImages | DatasetImages", *, batch_size: int = 256,
  num_workers: int = 0, bad: data.BadImages | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:  # fmt: skip
  """Embeds all images of a source, in its order, and shows a bar.

  Yields, a batch at a time: how many images are done, the numbers [b] of those of the batch that
  could be read, and their embeddings [b, d].

  Args:
    batch_size: images a batch, on all devices of this host.
    num_workers: processes that decode; 0 for a thread of this one.
    bad: takes note of the images that cannot be read, up to a share; by default that of
      `data.BadImages`.

  Raises:
    ImageDecodeError: more images cannot be read than `bad` allows.
    WorkerError: a process that decodes died.
  """
  if bad is None:
    bad = data.BadImages(source, data.MAX_BAD_IMAGES)
  batches = data.eval_batches(source, model.preprocessing, batch_size, num_workers, bad)
  what = f"embed {printable(source.name)}"
  bar = tqdm(total=len(source), desc=what, unit="image", **bar_options())
  done = 0
  with batches, bar:
    try:
      for batch in batches:
        embedded, good = model.embed_batch(batch["image"]), batch["mask"]
        done = min(done + batch_size, len(source))
        yield done, batch["index"][good], embedded[good]
        bar.update(done - bar.n)
    except data.ImageDecodeError as error:
      # Here the share is an argument, not a key of a config.
      said = str(error).replace("data.max_bad_images", "max_bad_images")
      raise data.ImageDecodeError(said) from error


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
  """Image files below a folder, in the order of their paths."""

  root: str  # the folder, absolute
  paths: Sequence[str]  # below the folder, with "/" between their parts
  labels: Sequence[str | None]  # the class folder of each, None for files directly in the root

  @classmethod
  def open(cls, root: str | os.PathLike[str]) -> Self:
    """Lists the images of a folder: by suffix, at any depth; hidden files are left out.

    The label is the name of the folder below the root that a file is in. Where all folders there
    are splits (train, test, query, gallery), it is the one below those.

    Raises:
      FolderError: it is no folder, or there is no image in it.
    """
    folder = pathlib.Path(root).expanduser()
    if not folder.is_dir():
      said = "is a file" if folder.exists() else "does not exist"
      raise picture_files.FolderError(f"{folder} {said}; expected a folder of images")
    paths = sorted(filter(picture_files.is_picture, picture_files.walk(folder, links=True)))
    if not paths:
      raise picture_files.FolderError(
        f"{folder} holds no image, at any depth; expected files that end in "
        f"{', '.join(picture_files.SUFFIXES)}"
      )
    tops = {path.split("/")[0].casefold() for path in paths if "/" in path}
    skip = 1 if tops and tops <= set(picture_files.SPLITS) else 0
    parts = [path.split("/")[skip:] for path in paths]
    labels = [picture_files.clean_name(part[0]) if len(part) > 1 else None for part in parts]
    return cls(os.fspath(folder.resolve()), tuple(paths), tuple(labels))

  def __len__(self) -> int:
    return len(self.paths)

  @property
  def name(self) -> str:
    """The folder's name, for bars."""
    return pathlib.Path(self.root).name

  def settings(self) -> dict[str, Any]:
    """Returns the identity of these images; it changes with the name, size or time of any file."""
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
    """Returns the path of a file."""
    return os.path.join(self.root, self.paths[index])

  describe = file  # The name of an image in messages.

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the bytes of some files; ImageDecodeError where one cannot be read."""
    try:
      return [picture_files.read(self.file(int(index))) for index in indices]
    except OSError as error:
      raise data.ImageDecodeError(f"it cannot be read: {error.strerror}") from error

  def columns(self, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
    """Returns paths and labels of some files, which a store keeps beside their embeddings."""
    return {"path": [self.paths[i] for i in indices], "label": [self.labels[i] for i in indices]}

  def select(self, indices: np.ndarray) -> "FolderImages":
    """Returns the given files, in that order."""
    columns = self.columns(indices)
    return FolderImages(self.root, tuple(columns["path"]), tuple(columns["label"]))


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetImages:
  """One split of a prepared data set.

  A record's path is NAME/SPLIT/NUMBER; all label columns are kept, as label_COLUMN, and `label` is
  the one whose values are the images' labels, None for none.
  """

  dataset: data.Dataset
  label: str | None
  data_dir: str | None = None

  @classmethod
  def open(
    cls, name: str, split: str, *, label: str | None = None, data_dir: str | None = None
  ) -> Self:
    """Opens a split of a data set, as `data.load`; the label is by default the data set's own.

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
    """The data set and its split, for bars."""
    return f"{self.dataset.name} {self.dataset.split}"

  def settings(self) -> dict[str, Any]:
    """Returns the identity of these images."""
    return {
      "kind": "dataset", "name": self.dataset.name, "split": self.dataset.split,
      "label": self.label, "data_dir": self.data_dir, "images": len(self),
    }  # fmt: skip

  def file(self, index: int) -> str:
    """Returns the name of a record, as it is in a store."""
    return f"{self.dataset.name}/{self.dataset.split}/{index}"

  def describe(self, index: int) -> str:
    """Returns the name of a record in messages."""
    return self.dataset.describe(index)

  def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
    """Returns the encoded images of some records."""
    return self.dataset.read(indices)

  def columns(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Returns names and labels of some records, which a store keeps beside their embeddings."""
    whole, rows = self.dataset, np.asarray(indices)
    shown = [None] * len(rows) if self.label is None else self._names(rows)
    return {
      "path": [self.file(row) for row in rows],
      "label": shown,
      "index": rows.astype(np.int64),
      **{f"label_{name}": whole.column(name)[rows] for name in sorted(whole.labels)},
    }

  def select(self, indices: np.ndarray) -> Self:
    """Returns the given records, in that order."""
    return dataclasses.replace(self, dataset=self.dataset.select(indices))

  def _names(self, rows: np.ndarray) -> list[str]:
    names, values = self.dataset.label_names(self.label), self.dataset.column(self.label)[rows]
    return [names[v] if names and 0 <= v < len(names) else str(v) for v in values.tolist()]
