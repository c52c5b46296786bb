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
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds

from jaxdml import _files
from jaxdml.data import storage
from jaxdml.prepare import shards
from jaxdml.prepare.build import SKIPPED_FILE as SKIPPED_FILE
from jaxdml.prepare.build import SOURCE_FILE as SOURCE_FILE
from jaxdml.prepare.build import Build, fingerprint
from jaxdml.prepare.shards import PrepareError as PrepareError


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


def is_current(source: Source, directory: Path, max_side: int | None = None) -> bool:
  """Says whether a finished data set is what `write` would make of the source as it is now."""
  made_from = _files.read_json(directory / SOURCE_FILE)
  return made_from is not None and made_from["fingerprint"] == fingerprint(source, max_side)


def write(
  source: Source,
  data_dir: str | os.PathLike[str],
  *,
  max_bad: float = 0.01,
  max_side: int | None = None,
  overwrite: bool = False,
) -> Path:
  """Writes a source as a TFDS data set; a second call goes on where the first was interrupted.

  Images that cannot be decoded are left out, counted, and listed in `SKIPPED_FILE`. Two processes
  may call it at once: the second waits for the first.

  Args:
    source: the images.
    data_dir: TFDS data directory.
    max_bad: share of the images that may be left out, in [0, 1].
    max_side: pictures with a longer side are written as JPEGs with this one (`shrink.shrink`); None
      writes the bytes as they are.
    overwrite: make a finished data set anew; the old one stays until the new one is whole.

  Returns:
    The directory of the data set, also if it was there already.

  Raises:
    PrepareError: too many bad images, a full or read-only disk, a source without images.
  """
  if not 0 <= max_bad <= 1:
    raise PrepareError(f"max_bad must be a share between 0 and 1, got {max_bad}")
  if max_side is not None and max_side < 1:
    raise PrepareError(f"max_side must be at least 1 pixel, got {max_side}")
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
    skipped = Build(source, work, max_bad, max_side).run()
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
  print(
    f"{len(skipped)} of {len(source.items)} images cannot be decoded and were left out "
    f"(listed in {directory / SKIPPED_FILE}):",
    *(f"  {entry['path']}: {entry['reason']}" for entry in skipped[:20]),
    *([f"  and {len(skipped) - 20} more"] if len(skipped) > 20 else []),
    f"{source.name} has {_counts(source, {entry['item'] for entry in skipped})}.",
    sep="\n",
    file=sys.stderr,
  )


def _counts(source: Source, bad: Collection[int]) -> str:
  labels = collections.defaultdict(list)
  for index, item in enumerate(source.items):
    if index not in bad:
      labels[item.split].append(item.values[source.supervised])
  classes = set().union(*labels.values())
  parts = [f"{split} {len(own)} of {len(set(own))} classes" for split, own in labels.items()]
  total = sum(map(len, labels.values()))
  return f"{total} images of {len(classes)} classes: {', '.join(parts)}"
