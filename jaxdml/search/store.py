"""Vectors on disk: a folder of Parquet shards that any model or array fills, and its reader."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from jaxdml import data, distances
from jaxdml._labels import as_text
from jaxdml.inference.embedding import DatasetImages, FolderImages, embed_source
from jaxdml.search import _shards
from jaxdml.search.index import SearchError
from jaxdml.types import DistanceFn

if TYPE_CHECKING:
  from jaxdml.inference.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
  """Embeddings and the images that they are of, in memory."""

  directory: pathlib.Path  # the folder
  embeddings: np.ndarray  # float32 [n, d], as the model gave them
  paths: tuple[str, ...]  # [n], below the folder of the images; of a data set NAME/SPLIT/NUMBER
  labels: tuple[str | None, ...]  # [n], None where there is none
  # What made them: "fingerprint", "workdir", "dimension", "step", "normalized" (the model's
  # embeddings have length 1), "distance" (None where they are ranked by cosines).
  model: dict[str, Any]
  source: dict[str, Any]  # the images: "kind" (folder, dataset) and where they are
  skipped: tuple[tuple[str, str], ...]  # (file, reason) of the images that could not be read

  def __len__(self) -> int:
    return len(self.paths)

  @classmethod
  def open(cls, directory: str | os.PathLike[str], *, progress: bool = True) -> Self:
    """Reads a store.

    Args:
      directory: the --out of jaxdml embed, or that of `build_store` or `write_store`.
      progress: show a bar where it takes long.

    Raises:
      SearchError: it is none, not finished, empty, damaged, or its shards are of several models.
    """
    folder = pathlib.Path(directory).expanduser()
    settings = _shards.settings(folder)
    count, model = settings["shards"], settings["model"]
    shards = [_shards.shard(folder, i, count) for i in range(count)]
    there = sum(path.is_file() for path in shards)
    if there < count or not (folder / _shards.FINISHED).is_file():
      raise SearchError(
        f"{folder} is not finished: {there} of {count} shards are there; give the command of "
        "jaxdml embed that made it again, it goes on where it stopped"
      )
    digests = _shards.digests(folder)
    headers = [_shards.check(path, model, digests.get(path.name, "")) for path in shards]
    total = sum(rows for _, rows in headers)
    if not total:
      raise SearchError(
        f"{folder} is empty: none of the {settings['images']} images could be read; give "
        "jaxdml embed others, and another --out"
      )
    embeddings = np.empty((total, model["dimension"]), np.float32)
    paths, labels = [], []
    hidden = None if progress else True
    for path in tqdm(shards, desc="read", unit="shard", disable=hidden, delay=2, leave=False):
      table = _shards.read(path, model)
      column = table.column("embedding").combine_chunks()
      here = slice(len(paths), len(paths) + len(table))
      embeddings[here] = column.flatten().to_numpy().reshape(-1, model["dimension"])
      paths += table.column("path").to_pylist()
      labels += table.column("label").to_pylist()
    skipped = tuple(tuple(entry) for header, _ in headers for entry in header["skipped"])
    return cls(folder, embeddings, tuple(paths), tuple(labels), model, settings["source"], skipped)

  def image(self, row: int) -> bytes:
    """Returns the encoded image of a row, from where it was when it was embedded.

    ImageDecodeError says that the file is gone, DatasetNotPreparedError that the data set is.
    """
    return self._images.read([row])[0]

  def file(self, row: int) -> str | None:
    """Returns the file of a row; None for a data set's record."""
    if self.source["kind"] != "folder":
      return None
    return os.path.join(self.source["root"], self.paths[row])

  @property
  def distance_fn(self) -> DistanceFn | None:
    """Distance that the embeddings are ranked by; None is cosine similarity.

    Raises:
      SearchError: a distance of one's own that is not in `distances.DISTANCES` here.
    """
    if not (distance := self.model.get("distance")):
      return None
    try:
      return distances.create(distance["name"], **distance["options"])
    except (KeyError, TypeError, ValueError) as error:
      raise SearchError(f"{self.directory} is ranked by a distance that is not here: {error}"
                        ) from error  # fmt: skip

  @functools.cached_property
  def _images(self) -> FolderImages | data.Dataset:
    """The images of the rows, by number."""
    source = self.source
    if source["kind"] == "folder":
      return FolderImages(source["root"], self.paths, (None,) * len(self))
    whole = data.load(source["name"], source["split"], data_dir=source["data_dir"])
    return whole.select(np.array([int(path.rpartition("/")[2]) for path in self.paths], np.int64))


class Summary(NamedTuple):
  """The outcome of `build_store`."""

  shards: int  # how many are in the store when it is finished
  written: int  # those that this call wrote; the others were there, or are another host's
  finished: bool  # all are there
  skipped: list[list[str]]  # (file, reason) of the images that could not be read


def build_store(
  model: "TrainedModel", source: FolderImages | DatasetImages, out: str | os.PathLike[str], *,
  shard_size: int = _shards.SHARD_SIZE, batch_size: int = 256, num_workers: int = 0,
  max_bad_images: float = data.MAX_BAD_IMAGES, process_index: int = 0, process_count: int = 1,
) -> Summary:  # fmt: skip
  """Embeds the images of a source whose shards are missing in `out`: killed, it goes on.

  Args:
    out: the store's folder; it may be shared by several hosts.
    shard_size: images a shard: what a killed command has to do again, at most.
    batch_size: images a batch, on all devices of this host.
    num_workers: processes that decode; 0 for a thread of this one.
    max_bad_images: share of the images that may be unreadable.
    process_index: this host, of `process_count`: it writes every `process_count`-th shard.

  Raises:
    SearchError: `out` holds something else, the embeddings of another model or of other images.
    ImageDecodeError: more images than `max_bad_images` cannot be read.
    WorkerError: a process that decodes died.
    ValueError: sizes below 1, embeddings that are not finite.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
  made_by = {
    "fingerprint": model.fingerprint, "workdir": os.path.abspath(model.workdir),
    "dimension": model.dimension, "step": model.step,
    "normalized": bool(model.config.embedding.unit_norm), "distance": None,
  }  # fmt: skip
  if model.distance_fn is not None:
    loss = model.config.loss
    made_by["distance"] = {"name": loss.distance, "options": dict(loss.distance_options)}
  writer = _shards.Writer(
    out, model=made_by, source=source.settings(), total=len(source), shard_size=shard_size
  )
  missing = writer.missing()
  mine = [shard for shard in missing if shard % process_count == process_index]
  if len(missing) < writer.count:
    there = writer.count - len(missing)
    tqdm.write(f"{there} of {writer.count} shards are in {out} already", file=sys.stderr)
  bad = data.BadImages(source, max_bad_images)
  # Those of the shards that are there count too; in this run images have numbers from 0.
  bad.reasons.update({-1 - i: ": ".join(entry) for i, entry in enumerate(writer.skipped())})
  if mine:
    _fill(writer, mine, model, source, bad, batch_size, num_workers)
  return Summary(writer.count, len(mine), writer.finish(), writer.skipped())


def _fill(
  writer: _shards.Writer, shards: Sequence[int], model: "TrainedModel",
  source: FolderImages | DatasetImages, bad: data.BadImages, batch_size: int, num_workers: int,
) -> None:  # fmt: skip
  """Embeds the images of some shards in one stream; each is written as its last image is done."""
  rows = np.concatenate([np.asarray(writer.rows(shard)) for shard in shards])
  ends = np.cumsum([len(writer.rows(shard)) for shard in shards]).tolist()
  waiting = list(zip(shards, ends, strict=True))
  chosen = source.select(rows)
  start, places, vectors = 0, np.zeros(0, np.int64), np.zeros((0, model.dimension), np.float32)
  stream = embed_source(model, chosen, batch_size=batch_size, num_workers=num_workers, bad=bad)
  with contextlib.closing(stream):
    for done, some_places, some_vectors in stream:
      places = np.concatenate([places, some_places])
      vectors = np.concatenate([vectors, some_vectors])
      while waiting and done >= waiting[0][1]:
        shard, end = waiting.pop(0)
        count = int((places < end).sum())
        skipped = [
          [source.file(rows[place]), bad.reasons[place].removeprefix(f"{chosen.describe(place)}: ")]
          for place in range(start, end)
          if place in bad.reasons
        ]
        writer.write(shard, vectors[:count], source.columns(rows[places[:count]]), skipped)
        places, vectors, start = places[count:], vectors[count:], end


def write_store(
  out: str | os.PathLike[str], embeddings: Any, paths: Sequence[str],
  labels: Sequence[str | None] | None = None, *, model: Mapping[str, Any] | None = None,
  root: str | os.PathLike[str] = "", shard_size: int = _shards.SHARD_SIZE,
) -> Store:  # fmt: skip
  """Writes a store of embeddings that are there already, whoever made them.

  Args:
    out: a new folder.
    embeddings: [n, d].
    paths: of the images, [n], below `root`.
    labels: their classes, [n], text or integers; None or -1 where there is none.
    model: what made them, e.g. {"fingerprint": ..., "workdir": ...}.
    root: the folder of the images.
    shard_size: images a shard.

  Raises:
    ValueError: lengths that do not fit, no rows, NaN.
    SearchError: `out` holds something else.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as tmp:
  ...   vectors, paths = [[1.0, 0.0], [0.0, 2.0]], ["a.png", "b.png"]
  ...   store = write_store(f"{tmp}/store", vectors, paths, ["a", None])
  >>> store.embeddings.shape, store.paths, store.labels
  ((2, 2), ('a.png', 'b.png'), ('a', None))
  """
  array = np.asarray(embeddings, np.float32)
  labels = [None] * len(paths) if labels is None else as_text("labels", labels)
  if array.ndim != 2 or not array.size or not len(array) == len(paths) == len(labels):
    raise ValueError(
      f"expected embeddings [n, d] with n paths and labels, got shape {array.shape}, "
      f"{len(paths)} paths and {len(labels)} labels"
    )
  images = FolderImages(os.path.abspath(root), tuple(paths), tuple(labels))
  made_by = {"fingerprint": "", "workdir": "", "step": None, "normalized": False}
  made_by |= {**(model or {}), "dimension": array.shape[1]}
  writer = _shards.Writer(
    out, model=made_by, source=images.settings(), total=len(array), shard_size=shard_size
  )
  for shard in writer.missing():
    rows = writer.rows(shard)
    writer.write(shard, array[rows.start : rows.stop], images.columns(rows))
  writer.finish()
  return Store.open(out)
