"""Writes a data set as TFDS array_record from encoded images, and goes on after an interruption.

TFDS's own `download_and_prepare` starts over when it is interrupted. Here every shard is finished
by itself in a hidden directory, which becomes the data set only when it is whole; the description
is written with TFDS's classes, so `tfds.builder_from_directory` reads the result.

    <data_dir>/<name>/<version>/                       the data set, whole or not there
    <data_dir>/<name>/.incomplete-<version>/data/      finished shards
    <data_dir>/<name>/.incomplete-<version>/progress/  what is finished, and from which source
"""

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
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdml import _files
from jaxdml._text import few
from jaxdml.data import records
from jaxdml.data.decode import ImageDecodeError
from jaxdml.prepare import pictures, shards
from jaxdml.prepare.source import PrepareError, Source, said, summary

SKIPPED_FILE = "skipped.jsonl"
"""In the data set's directory: path and reason of every image that could not be decoded."""

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 8  # Images read ahead for each thread that checks them.
_LISTED = 50  # Bad files that the error lists: the search for more goes on until there are as many.


def target(name: str, version: str, data_dir: str | os.PathLike[str]) -> Path:
  """Returns the directory that `write` makes."""
  return Path(data_dir).expanduser().joinpath(*name.split("/"), version)


def is_current(source: Source, directory: Path, max_side: int | None = None) -> bool:
  """Tells whether a finished data set is what `write` would make of the source as it is now."""
  made_from = _files.read_json(directory / records.SOURCE_FILE)
  known = made_from.get("fingerprint") if isinstance(made_from, dict) else None
  return known == _fingerprint(source, max_side)


def write(
  source: Source,
  data_dir: str | os.PathLike[str],
  *,
  max_bad_images: float = 0.01,
  max_side: int | None = None,
  overwrite: bool = False,
) -> Path:
  """Writes a source as a TFDS data set; a second call goes on where the first was interrupted.

  Images that cannot be decoded are left out, counted, and listed in `SKIPPED_FILE`. Two processes
  may call it at once: the second waits for the first.

  Args:
    max_bad_images: share of the images that may be left out, in [0, 1].
    max_side: pictures with a longer side are written as JPEGs with this one (`pictures.shrink`).
    overwrite: make a finished data set anew; the old one stays until the new one is whole.

  Returns the directory of the data set, also if it was there already.
  """
  if not 0 <= max_bad_images <= 1:
    raise PrepareError(f"max_bad_images must be a share between 0 and 1, got {max_bad_images}")
  if max_side is not None and max_side < 1:
    raise PrepareError(f"max_side must be at least 1 pixel, got {max_side}")
  directory = target(source.name, source.version, data_dir)
  if records.is_prepared(directory) and not overwrite:
    return directory
  work = directory.parent / f".incomplete-{directory.name}"
  old = directory.parent / f".old-{directory.name}"
  with shards.explain_disk_errors(work), _lock(directory):
    if old.exists() and not directory.exists():
      os.replace(old, directory)  # A run ended between the two renames of `_publish`.
    if records.is_prepared(directory) and not overwrite:
      return directory  # The process that this one waited for made it.
    if directory.exists() and not records.is_prepared(directory):
      wrong = "exists but is not a data set (it has no dataset_info.json)"
      raise PrepareError(f"{directory} {wrong}: delete it or choose another data_dir")
    skipped = _Build(source, work, max_bad_images, max_side).run()
    _publish(work, directory, old)
  if skipped:
    _report(skipped, source, directory)
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


def _publish(work: Path, directory: Path, old: Path) -> None:
  """Puts the finished data set in place, and only then removes the one it replaces."""
  for path in (work / "data").iterdir():
    _files.flush(path)
  shutil.rmtree(old, ignore_errors=True)
  if directory.exists():
    os.replace(directory, old)
  os.replace(work / "data", directory)
  _files.flush(directory.parent)
  shutil.rmtree(old, ignore_errors=True)
  shutil.rmtree(work, ignore_errors=True)


def _report(skipped: Sequence[Mapping[str, Any]], source: Source, directory: Path) -> None:
  """Names what was left out, and counts what is there: the source's counts are of what it found."""
  bad = {entry["item"] for entry in skipped}
  kept = [item for index, item in enumerate(source.items) if index not in bad]
  there = summary("images", [(item.split, item.values[source.supervised]) for item in kept])
  shown = [said(f"  {entry['path']}: {entry['reason']}") for entry in skipped[:20]]
  shown += [f"  and {len(skipped) - 20} more"] if len(skipped) > 20 else []
  what = f"{len(skipped)} of {len(source.items)} images cannot be decoded and were left out"
  lines = [f"{what} (listed in {directory / SKIPPED_FILE}):", *shown, f"{source.name} has {there}."]
  print(*lines, sep="\n", file=sys.stderr)


class _Build:
  """The making of one data set: which shards there are, which are finished, writing the rest."""

  def __init__(self, source: Source, work: Path, max_bad_images: float, max_side: int | None):
    self._source, self._max_side = source, max_side
    self._fingerprint = _fingerprint(source, max_side)
    self._items = source.items
    self._allowed = int(max_bad_images * len(self._items) + 1e-6)  # 0.29 of 100 is 28.999...
    self._work, self._data, self._progress = work, work / "data", work / "progress"
    if not self._items:
      raise PrepareError(f"data set {source.name!r} has no images")
    paths = collections.Counter(item.path for item in self._items)
    if twice := [path for path, count in paths.items() if count > 1]:
      what = f"{len(twice)} images more than once: {few(twice)}"
      raise PrepareError(f"data set {source.name!r} names {what}")
    self._plan = shards.Plan(source.name.split("/")[0], [item.split for item in self._items])
    self._serialize = shards.serializer(source.features)
    self._skipped: list[dict[str, Any]] = []

  def run(self) -> list[dict[str, Any]]:
    """Writes what is missing; returns the images left out, in the order of the items."""
    self._start_over_if_changed()
    done = self._finished()
    self._skipped = [entry for result in done.values() for entry in result["skipped"]]
    todo = [i for i, key in enumerate(self._plan.keys) if key not in done]
    total, options = len(self._items), {"unit": " images", "mininterval": 0.5}
    what, before = f"{self._source.name}: writing", total - len(todo)
    with tqdm(total=total, initial=before, desc=what, **options) as bar:
      self._write(todo, done, bar)
    self._check_skipped(whole=len(done) == len(self._plan.names))
    self._skipped.sort(key=lambda entry: entry["item"])
    self._describe(done)
    return self._skipped

  def _start_over_if_changed(self) -> None:
    images, names = len(self._items), list(self._plan.names.values())
    state = {"fingerprint": self._fingerprint, "images": images, "shards": names}
    path = self._progress / "source.json"
    before = _files.read_json(path)
    if before != state:
      if before is not None:
        what = f"The source of {self._source.name!r} is another one than that"
        print(f"{what} of the interrupted run: starting over.", file=sys.stderr)
      shutil.rmtree(self._work, ignore_errors=True)
      self._progress.mkdir(parents=True)
      _files.write_json(path, state)
    self._data.mkdir(exist_ok=True)
    kept = {f"{name}{end}" for name in names for end in ("", ".json")}
    for directory in (self._data, self._progress):
      for leftover in directory.iterdir():
        if leftover.name not in kept and leftover != path:
          leftover.unlink()

  def _finished(self) -> dict[shards.Key, dict[str, Any]]:
    found = {}
    for key, name in self._plan.names.items():
      result = _files.read_json(self._progress / f"{name}.json")
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
            open_shards[key] = shards.Shard(self._data / self._plan.names[key])
          if reason is None:
            values = {**item.values, "path": item.path, "image": encoded}
            open_shards[key].add(self._serialize(values))
          else:
            entry = {"item": index, "path": item.path, "reason": reason}
            open_shards[key].skipped.append(entry)
            self._skipped.append(entry)
          left[key] -= 1
          if not left[key]:
            done[key] = open_shards[key].finish(self._progress)
            del open_shards[key]
          bar.update()
          # Mending takes the names of all, and what is written until then is kept.
          if len(self._skipped) > max(self._allowed, _LISTED - 1):
            break
    finally:
      for shard in open_shards.values():
        shard.abandon()

  def _checked(self, todo: list[int]) -> Iterator[tuple[int, bytes, str | None]]:
    """Yields (item, bytes to write, why it cannot be decoded or None), in order, from threads."""
    pool = futures.ThreadPoolExecutor(_THREADS)
    ahead: collections.deque = collections.deque()
    try:
      for index, encoded in self._read(todo):
        ahead.append((index, pool.submit(_checked, encoded, self._max_side)))
        if len(ahead) > _THREADS * _AHEAD:
          first, image = ahead.popleft()
          yield first, *image.result()
      for index, image in ahead:
        yield index, *image.result()
    finally:
      pool.shutdown(cancel_futures=True)

  def _read(self, todo: list[int]) -> Iterator[tuple[int, bytes]]:
    if not todo:
      return
    images = self._source.read(todo[0])
    wanted = set(todo)
    for index in range(todo[0], todo[-1] + 1):
      path, name = self._items[index].path, self._source.name
      try:
        encoded = next(images)
      except OSError as error:
        raise PrepareError(f"cannot read {path} of {name!r}: {error}") from error
      except StopIteration:
        place = f"image {index + 1} of {len(self._items)}: did it change?"
        raise PrepareError(f"the source of {name!r} ended before {path}, {place}") from None
      if index in wanted:
        yield index, encoded

  def _check_skipped(self, whole: bool) -> None:
    """Raises if too many are bad; `whole` says whether all the images were looked at."""
    bad, total = len(self._skipped), len(self._items)
    if bad <= self._allowed:
      return
    listed = [f"  {entry['path']} ({entry['reason']})" for entry in self._skipped[:_LISTED]]
    if bad > _LISTED:
      listed.append(f"  and {bad - _LISTED} more")
    least, more = ("", "") if whole else ("at least ", " or more")
    lines = [
      f"{least}{bad} of the {total} images of {self._source.name!r} cannot be decoded, and "
      f"max_bad_images allows {self._allowed}:",
      *listed,
      "Repair or remove them, or leave them out with "
      f"--max_bad_images={_share(bad, total)}{more}; what is finished is kept",
    ]
    raise PrepareError("\n".join(lines))

  def _describe(self, done: dict[shards.Key, dict[str, Any]]) -> None:
    """Writes all that is not records: TFDS's description, the labels, the images left out."""
    plan = self._plan
    results = {split: [done[key] for key in plan.of_split(split)] for split in plan.splits}
    for split, parts in results.items():
      if not sum(part["records"] for part in parts):
        bad = [f"{entry['path']} ({entry['reason']})" for entry in self._skipped]
        what = f"no image of the split {split!r} of {self._source.name!r} can be decoded"
        raise PrepareError(f"{what}: {few(bad, separator='; ')}")
    info = shards.write_description(self._source, self._data, results)
    bad = {entry["item"] for entry in self._skipped}
    kept = [item for index, item in enumerate(self._items) if index not in bad]
    labels = {}
    for column in records.label_features(info):
      encode = self._source.features[column].encode_example
      for split in plan.splits:
        values = [encode(item.values[column]) for item in kept if item.split == split]
        labels[f"{split}/{column}"] = np.asarray(values, np.int64)
    records.write_labels(self._data, labels)
    made_from = {
      "fingerprint": self._fingerprint,
      "images": len(self._items),
      "skipped": len(self._skipped),
      "files": records.digests(self._data),
    }
    _files.write_json(self._data / records.SOURCE_FILE, made_from)
    with (self._data / SKIPPED_FILE).open("w", encoding="utf-8") as file:
      for entry in self._skipped:
        line = {"path": entry["path"], "reason": entry["reason"]}
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _fingerprint(source: Source, max_side: int | None) -> str:
  """Returns what changes with what is written: the source, the size its pictures are reduced to."""
  return source.fingerprint if max_side is None else f"{source.fingerprint} max_side={max_side}"


def _checked(encoded: bytes, max_side: int | None) -> tuple[bytes, str | None]:
  """Returns the bytes to write, and why the image cannot be decoded or None."""
  try:
    pictures.check_image(encoded)
    return encoded if max_side is None else pictures.shrink(encoded, max_side), None
  except ImageDecodeError as error:
    return encoded, str(error)


def _share(count: int, total: int) -> str:
  """The least share, with as many digits as it takes, that allows `count` of `total`.

  >>> _share(3, 131), _share(1, 48), _share(4, 4), _share(1201, 120_053)
  ('0.023', '0.021', '1', '0.010004')
  """
  digits = max(3, len(str(total)))
  least = -(-count * 10**digits // total)
  return f"{least / 10**digits:.{digits}f}".rstrip("0").rstrip(".")
