"""Shards of a data set, their plan and their description; `writing.write` puts them together."""

import collections
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import dataset_info, example_serializer, file_adapters, naming

from jaxdml import _files
from jaxdml.prepare.source import PrepareError

# Items in a shard; more if a split would have over `MAX_SHARDS`, as each keeps a file open.
MIN_ITEMS = 1024
MAX_SHARDS = 128
Key = tuple[str, int]  # A shard: its split and its number.


class Plan:
  """The shard of each item: a function of the items alone, not of what can be decoded."""

  def __init__(self, dataset: str, splits: Sequence[str]):
    totals = collections.Counter(splits)
    self.splits = list(totals)
    per_shard = {split: max(MIN_ITEMS, -(-n // MAX_SHARDS)) for split, n in totals.items()}
    counts = {split: -(-n // per_shard[split]) for split, n in totals.items()}
    self.names = {  # TFDS's, of the files, in the order of the splits
      (split, number): f"{dataset}-{split}.array_record-{number:05d}-of-{count:05d}"
      for split, count in counts.items()
      for number in range(count)
    }
    self.keys: list[Key] = []
    seen: collections.Counter = collections.Counter()
    for split in splits:
      self.keys.append((split, seen[split] // per_shard[split]))
      seen[split] += 1

  def of_split(self, split: str) -> list[Key]:
    """Returns the shards of a split, in order."""
    return [key for key in self.names if key[0] == split]


class Shard:
  """One shard in the making, under a temporary name until `finish`."""

  def __init__(self, path: Path):
    self._path = path
    self._temporary = path.with_name(f".{path.name}.tmp")
    # One record a group: random access reads no other record.
    self._writer = array_record_module.ArrayRecordWriter(str(self._temporary), "group_size:1")
    self._records = 0
    self._bytes = 0
    self.skipped: list[dict[str, Any]] = []

  def add(self, record: bytes) -> None:
    """Appends a record."""
    self._writer.write(record)
    self._records += 1
    self._bytes += len(record)

  def finish(self, progress: Path) -> dict[str, Any]:
    """Gives the shard its name and notes beside it, in `progress`, what is in it.

    OSError if the disk is full or refuses; the shard is not there then.
    """
    try:
      self._writer.close()
    except RuntimeError as error:  # The writer speaks up only here.
      raise OSError(str(error)) from error
    _files.flush(self._temporary)
    file_bytes = self._temporary.stat().st_size
    result = {"records": self._records, "record_bytes": self._bytes, "file_bytes": file_bytes}
    result["skipped"] = self.skipped
    os.replace(self._temporary, self._path)
    _files.write_json(progress / f"{self._path.name}.json", result)
    return result

  def abandon(self) -> None:
    """Removes an unfinished shard."""
    with contextlib.suppress(RuntimeError):  # What failed to be written is removed anyway.
      if self._writer.is_open():
        self._writer.close()
    self._temporary.unlink(missing_ok=True)


def serializer(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
  """Returns values -> tf.Example bytes, the same bytes in every process."""
  to_example = example_serializer.ExampleSerializer(features.get_serialized_info())

  def serialize(values: Mapping[str, Any]) -> bytes:
    # Protobuf's maps have another order in every process unless told.
    example = to_example.get_tf_example(features.encode_example(values))
    return example.SerializeToString(deterministic=True)

  return serialize


def write_description(
  source: Any, directory: Path, results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tfds.core.DatasetInfo:
  """Writes dataset_info.json and features.json; `results` are what `Shard.finish` returned."""
  name, _, config = source.name.partition("/")
  identity = dataset_info.DatasetIdentity(
    name=name,
    version=tfds.core.utils.Version(source.version),
    data_dir=os.fspath(directory),
    module_name="",
    config_name=config or None,
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    description=source.description,
    features=source.features,
    supervised_keys=("image", source.supervised),
    homepage=source.homepage,
  )
  info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
  template = naming.ShardedFileTemplate(
    data_dir=directory, dataset_name=name, filetype_suffix="array_record"
  )
  splits = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[part["records"] for part in parts],
      num_bytes=sum(part["record_bytes"] for part in parts),
      filename_template=template.replace(split=split),
    )
    for split, parts in results.items()
  ]
  info.set_splits(tfds.core.splits.SplitDict(splits))
  info.write_to_directory(directory)
  return info


@contextlib.contextmanager
def explain_disk_errors(work: Path) -> Iterator[None]:
  """Turns an error of the disk into one message that says what is kept and what to do."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error)
    raise PrepareError(
      f"cannot write the data set in {work.parent}: {reason}. Nothing there reads as a data set; "
      f"finished parts are kept in {work.name}. Free space or give a directory that can be written "
      "(--data_dir or the environment variable TFDS_DATA_DIR) and run the same command again: it "
      "goes on from there"
    ) from error
