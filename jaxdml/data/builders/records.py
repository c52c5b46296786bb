"""Writes a data set as TFDS array_record from encoded images, and goes on after an interruption.

TFDS's own `download_and_prepare` starts over when it is interrupted. Here every shard is finished
by itself in a hidden directory, which becomes the data set only when it is whole; the description
is written with TFDS's classes, so `tfds.builder_from_directory` reads the result.

    <data_dir>/<name>/<version>/                       the data set, whole or not there
    <data_dir>/<name>/.incomplete-<version>/data/      finished shards
    <data_dir>/<name>/.incomplete-<version>/progress/  what is finished, and from which source
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxdml.data import storage
from jaxdml.data.builders import shards
from jaxdml.data.builders.shards import PrepareError as PrepareError

SKIPPED_FILE = "skipped.jsonl"
"""In the data set's directory: path and reason of every image that could not be decoded."""

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 8  # Images read ahead for each thread that checks them.
_NAMED = 5  # Files that a message names.


class Item(NamedTuple):
  """One image of a source.

  Attributes:
    split: "train", "test", "query", "gallery".
    path: relative path inside the archive or folder, unique; kept as the feature "path".
    values: every other feature except "image".
  """

  split: str
  path: str
  values: Mapping[str, Any]


class Source(Protocol):
  """Images with labels that `write` makes a data set of.

  Attributes:
    name: of the data set, "NAME" or "NAME/CONFIG".
    version: "1.0.0".
    description: what it is and what its splits are.
    homepage: where it comes from, or "".
    features: with "image" (tfds.features.Image) and "path" (tfds.features.Text).
    supervised: the default label column.
    items: in the order in which `read` yields them; splits may be interleaved.
    fingerprint: of annotations, member lists, sizes: what was written from another is not kept.
  """

  name: str
  version: str
  description: str
  homepage: str
  features: tfds.features.FeaturesDict
  supervised: str
  items: Sequence[Item]
  fingerprint: str

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order and unchanged."""
    ...


def target(name: str, version: str, data_dir: str | os.PathLike[str]) -> Path:
  """Returns the directory that `write` makes."""
  return Path(data_dir).expanduser().joinpath(*name.split("/"), version)


def write(
  source: Source,
  data_dir: str | os.PathLike[str],
  *,
  max_bad: float = 0.01,
  overwrite: bool = False,
) -> Path:
  """Writes a source as a TFDS data set; a second call goes on where the first was interrupted.

  Images that cannot be decoded are left out, counted, and listed in `SKIPPED_FILE`. Two processes
  may call it at once: the second waits for the first.

  Args:
    source: the images.
    data_dir: TFDS data directory.
    max_bad: share of the images that may be left out, in [0, 1].
    overwrite: make a finished data set anew; the old one stays until the new one is whole.

  Returns:
    The directory of the data set, also if it was there already.

  Raises:
    PrepareError: too many bad images, a full or read-only disk, a source without images.
  """
  if not 0 <= max_bad <= 1:
    raise PrepareError(f"max_bad must be a share between 0 and 1, got {max_bad}")
  directory = target(source.name, source.version, data_dir)
  if storage.is_prepared(directory) and not overwrite:
    return directory
  work = directory.parent / f".incomplete-{directory.name}"
  old = directory.parent / f".old-{directory.name}"
  with shards.explain_disk_errors(work), _lock(directory):
    if old.exists() and not directory.exists():
      os.replace(old, directory)  # A run ended between the two renames of `_publish`.
    if storage.is_prepared(directory) and not overwrite:
      return directory  # The process that this one waited for made it.
    if directory.exists() and not storage.is_prepared(directory):
      raise PrepareError(
        f"{directory} exists but is not a data set (it has no dataset_info.json): "
        "delete it or choose another data_dir"
      )
    skipped = _Build(source, work, max_bad).run()
    _publish(work, directory, old)
  _report(skipped, len(source.items), directory)
  return directory


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
  """Lets one process at a time write a data set; the lock goes with the process that holds it."""
  directory.parent.mkdir(parents=True, exist_ok=True)
  with (directory.parent / f".lock-{directory.name}").open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"Another process is writing {directory}; waiting for it.", file=sys.stderr, flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


class _Build:
  """The making of one data set: which shards there are, which are finished, writing the rest."""

  def __init__(self, source: Source, work: Path, max_bad: float):
    self._source = source
    self._items = source.items
    self._allowed = int(max_bad * len(self._items))
    self._data, self._progress = work / "data", work / "progress"
    self._work = work
    if not self._items:
      raise PrepareError(f"data set {source.name!r} has no images")
    paths = collections.Counter(item.path for item in self._items)
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
      raise PrepareError(
        f"data set {source.name!r} names {len(twice)} images more than once: {_few(twice)}"
      )
    self._plan = shards.Plan(source.name.split("/")[0], [item.split for item in self._items])
    self._serialize = shards.serializer(source.features)
    self._skipped: list[dict[str, Any]] = []

  def run(self) -> list[dict[str, Any]]:
    """Writes what is missing; returns the images left out, in the order of the items."""
    self._start_over_if_changed()
    done = self._finished()
    self._skipped = [entry for result in done.values() for entry in result["skipped"]]
    self._check_skipped()
    todo = [i for i, key in enumerate(self._plan.keys) if key not in done]
    with tqdm(
      total=len(self._items),
      initial=len(self._items) - len(todo),
      desc=f"{self._source.name}: writing",
      unit=" images",
      mininterval=0.5,
    ) as bar:
      self._write(todo, done, bar)
    self._skipped.sort(key=lambda entry: entry["item"])
    self._describe(done)
    return self._skipped

  def _start_over_if_changed(self) -> None:
    state = {
      "fingerprint": self._source.fingerprint,
      "images": len(self._items),
      "shards": self._plan.names(),
    }
    path = self._progress / "source.json"
    before = shards.read_json(path)
    if before != state:
      if before is not None:
        print(
          f"The source of {self._source.name!r} is another one than that of the interrupted run: "
          "starting over.",
          file=sys.stderr,
        )
      shutil.rmtree(self._work, ignore_errors=True)
      self._progress.mkdir(parents=True)
      shards.write_json(path, state)
    self._data.mkdir(exist_ok=True)
    names = {f"{name}{end}" for name in self._plan.names() for end in ("", ".json")}
    for directory in (self._data, self._progress):
      for leftover in directory.iterdir():
        if leftover.name not in names and leftover != path:
          leftover.unlink()

  def _finished(self) -> dict[shards.Key, dict[str, Any]]:
    found = {}
    for key in self._plan.sizes:
      name = self._plan.name(key)
      result = shards.read_json(self._progress / f"{name}.json")
      shard = self._data / name
      if result is not None and shard.is_file() and shard.stat().st_size == result["file_bytes"]:
        found[key] = result
    return found

  def _write(self, todo: list[int], done: dict[shards.Key, dict[str, Any]], bar: tqdm) -> None:
    """Writes the items `todo` and notes every shard that they finish in `done`."""
    left = collections.Counter(self._plan.keys[i] for i in todo)
    open_shards: dict[shards.Key, shards.Shard] = {}
    try:
      with contextlib.closing(self._checked(todo)) as checked:
        for index, encoded, reason in checked:
          key, item = self._plan.keys[index], self._items[index]
          if key not in open_shards:
            open_shards[key] = shards.Shard(self._data / self._plan.name(key))
          if reason is None:
            record = self._serialize({**item.values, "path": item.path, "image": encoded})
            open_shards[key].add(record)
          else:
            entry = {"item": index, "path": item.path, "reason": reason}
            open_shards[key].skipped.append(entry)
            self._skipped.append(entry)
            self._check_skipped()
          left[key] -= 1
          if not left[key]:
            done[key] = open_shards[key].finish(self._progress)
            del open_shards[key]
          bar.update()
    finally:
      for shard in open_shards.values():
        shard.abandon()

  def _checked(self, todo: list[int]) -> Iterator[tuple[int, bytes, str | None]]:
    """Yields (item, bytes, why it cannot be decoded or None); threads decode, the order stays."""
    pool = futures.ThreadPoolExecutor(_THREADS)
    ahead: collections.deque = collections.deque()
    try:
      for index, encoded in self._read(todo):
        ahead.append((index, encoded, pool.submit(_problem, encoded)))
        if len(ahead) > _THREADS * _AHEAD:
          first, image, problem = ahead.popleft()
          yield first, image, problem.result()
      for index, encoded, problem in ahead:
        yield index, encoded, problem.result()
    finally:
      pool.shutdown(cancel_futures=True)

  def _read(self, todo: list[int]) -> Iterator[tuple[int, bytes]]:
    if not todo:
      return
    images = self._source.read(todo[0])
    wanted = set(todo)
    for index in range(todo[0], todo[-1] + 1):
      try:
        encoded = next(images)
      except OSError as error:
        raise PrepareError(
          f"cannot read {self._items[index].path} of {self._source.name!r}: {error}"
        ) from error
      except StopIteration:
        raise PrepareError(
          f"the source of {self._source.name!r} ended before {self._items[index].path}, "
          f"image {index + 1} of {len(self._items)}: did it change?"
        ) from None
      if index in wanted:
        yield index, encoded

  def _check_skipped(self) -> None:
    if len(self._skipped) > self._allowed:
      raise PrepareError(
        f"{len(self._skipped)} of the {len(self._items)} images of {self._source.name!r} cannot be "
        f"decoded, and max_bad allows {self._allowed}: "
        f"{_named(self._skipped)}. "
        "Repair or remove them, or raise max_bad (--max_bad, a share); what is finished is kept"
      )

  def _describe(self, done: dict[shards.Key, dict[str, Any]]) -> None:
    """Writes all that is not records: TFDS's description, the labels, the images left out."""
    results = {
      split: [done[key] for key in self._plan.of_split(split)] for split in self._plan.splits
    }
    for split, parts in results.items():
      if not sum(part["records"] for part in parts):
        raise PrepareError(
          f"no image of the split {split!r} of {self._source.name!r} can be decoded: "
          f"{_named(self._skipped)}"
        )
    info = shards.write_description(self._source, self._data, results)
    bad = {entry["item"] for entry in self._skipped}
    labels = {}
    for column in storage.label_features(info):
      encode = self._source.features[column].encode_example
      for split in self._plan.splits:
        values = [
          encode(item.values[column])
          for index, item in enumerate(self._items)
          if item.split == split and index not in bad
        ]
        labels[f"{split}/{column}"] = np.asarray(values, np.int64)
    storage.write_labels(self._data, labels)
    with (self._data / SKIPPED_FILE).open("w", encoding="utf-8") as file:
      for entry in self._skipped:
        line = {"path": entry["path"], "reason": entry["reason"]}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _problem(encoded: bytes) -> str | None:
  """Returns why an image cannot be decoded, or None."""
  from jaxdml.data.decode import ImageDecodeError
  from jaxdml.data.verify import check_image

  try:
    check_image(encoded)
  except ImageDecodeError as error:
    return str(error)
  return None


def _publish(work: Path, directory: Path, old: Path) -> None:
  """Puts the finished data set in place, and only then removes the one it replaces."""
  for path in (work / "data").iterdir():
    shards.flush(path)
  shutil.rmtree(old, ignore_errors=True)
  if directory.exists():
    os.replace(directory, old)
  os.replace(work / "data", directory)
  shards.flush(directory.parent)
  shutil.rmtree(old, ignore_errors=True)
  shutil.rmtree(work, ignore_errors=True)


def _named(skipped: Sequence[Mapping[str, Any]]) -> str:
  return _few([f"{entry['path']} ({entry['reason']})" for entry in skipped], "; ")


def _few(names: Sequence[str], separator: str = ", ") -> str:
  more = len(names) - _NAMED
  return separator.join(names[:_NAMED]) + (f"{separator}and {more} more" if more > 0 else "")


def _report(skipped: Sequence[Mapping[str, Any]], total: int, directory: Path) -> None:
  if skipped:
    print(
      f"{len(skipped)} of {total} images cannot be decoded and were left out "
      f"(listed in {directory / SKIPPED_FILE}):",
      *(f"  {entry['path']}: {entry['reason']}" for entry in skipped[:20]),
      *([f"  and {len(skipped) - 20} more"] if len(skipped) > 20 else []),
      sep="\n",
      file=sys.stderr,
    )
