"""Records and labels of the data sets that TFDS prepared, read without decoding or TensorFlow."""

import bisect
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.decode import DeserializeMethod
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from jaxdml import _files
from jaxdml._text import bar_options
from jaxdml.errors import JaxdmlError

# In the directory of a prepared data set: the labels of every split; and, if `jaxdml prepare` wrote
# it, what it was made from.
INDEX_FILE = "jaxdml-labels.npz"
SOURCE_FILE = "jaxdml-source.json"

_SEAL = "seal"
_CHUNK = 2048
_INT32 = np.iinfo(np.int32)


class DamagedDatasetError(JaxdmlError, ValueError):
  """Files of a prepared data set are not as they were written; the message says which."""


def find_version(root: Path, name: str) -> Path | None:
  """Returns `<root>/<name>/<version>` of the newest version that is prepared there, or None.

  The name may be `name/config`.
  """
  parent = root.joinpath(*name.split("/"))
  there = parent.iterdir() if parent.is_dir() else ()
  versions = [p for p in there if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and is_prepared(p)]
  return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def prepared(root: Path) -> list[str]:
  """Returns what `find_version` finds in a TFDS data directory, sorted: NAME or NAME/CONFIG."""
  found = set()
  for depth in ("*", "*/*"):
    for info in root.glob(f"{depth}/*.*.*/dataset_info.json"):
      name = info.parents[1].relative_to(root).as_posix()
      if not name.startswith(".") and "/." not in name and find_version(root, name):
        found.add(name)
  return sorted(found)


def is_prepared(directory: Path) -> bool:
  """Tells whether a data set in the directory is whole."""
  return (directory / "dataset_info.json").is_file()


def digests(directory: Path) -> dict[str, str]:
  """Returns the SHA-256 of each file that describes a prepared data set, by its name."""
  patterns = ("dataset_info.json", "features.json", "*.labels.txt")
  files = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def open_info(directory: Path) -> tfds.core.DatasetInfo:
  """Returns TFDS's description of a prepared data set.

  DamagedDatasetError if it cannot be read, or is not as `jaxdml prepare` wrote it.
  """
  made_from = _files.read_json(directory / SOURCE_FILE)
  if not isinstance(made_from, dict) and (directory / SOURCE_FILE).exists():
    raise _damaged(directory, f"{SOURCE_FILE} cannot be read")
  written = (made_from or {}).get("files")
  if isinstance(written, dict) and written != (found := digests(directory)):
    changed = ", ".join(sorted({name for name, _ in written.items() ^ found.items()}))
    renaming = "classes are renamed in the folders or the manifest, and prepared anew"
    raise _damaged(directory, f"{changed} changed since it was prepared ({renaming})")
  return _builder(directory).info


def _builder(directory: Path) -> tfds.core.DatasetBuilder:
  try:
    # Reading it imports the classes that it names.
    json.loads((directory / "features.json").read_bytes(), object_pairs_hook=_own_classes)
    builder = tfds.builder_from_directory(os.fspath(directory))
    builder.info  # noqa: B018, which is read when it is asked for
    return builder
  except Exception as error:  # Damage shows as any of a dozen exceptions.
    raise _damaged(directory, f"its description cannot be read: {error}") from error


def _own_classes(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns an object of a description; an error if it names a class that is none of TFDS's own."""
  for key, value in pairs:
    named = key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str)
    if named and not value.startswith("tensorflow_datasets."):
      raise ValueError(f"features.json names {value!r}, which is none of TFDS's own")
  return dict(pairs)


def _damaged(directory: Path, what: str) -> DamagedDatasetError:
  return DamagedDatasetError(
    f"the data set in {directory} is damaged: {what}. Prepare it anew (jaxdml prepare ... "
    "--overwrite), or copy it again from where it is whole"
  )


class Records(Sequence[bytes]):
  """Random access to the serialized records of a split; its files are opened when they are read.

  TFDS's own source starts threads for each call, which takes longer than reading a photo does.
  """

  def __init__(self, instructions: Sequence[Any]):
    """Takes TFDS's `FileInstruction`s: which records of which files make the split."""
    taken = [i.examples_in_shard - i.skip if i.take < 0 else i.take for i in instructions]
    self._ends = np.cumsum(taken).tolist()
    # What is to be added to a row for its place in the file.
    both = zip(instructions, taken, self._ends, strict=True)
    self._offsets = [i.skip + count - end for i, count, end in both]
    self._paths = [os.fspath(i.filename) for i in instructions]
    self.directory = Path(os.path.dirname(self._paths[0])) if self._paths else Path()
    self._readers: dict[int, Any] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, row: int) -> bytes:
    return self.__getitems__([row])[0]

  def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
    """Returns the records `rows`, 0..n-1, in that order."""
    by_file: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
      if not 0 <= row < len(self):
        raise IndexError(f"record {row} is outside 0..{len(self) - 1}")
      by_file.setdefault(bisect.bisect_right(self._ends, row), []).append(place)
    records = [b""] * len(rows)
    with self._lock:
      for file, places in by_file.items():
        wanted = [int(rows[place]) + self._offsets[file] for place in places]
        try:
          for place, record in zip(places, self._reader(file).read(wanted), strict=True):
            records[place] = record
        except (RuntimeError, ValueError, IndexError) as error:
          name = os.path.basename(self._paths[file])
          raise _damaged(self.directory, f"{name} cannot be read: {error}") from error
    return records

  def _reader(self, file: int) -> Any:
    if file not in self._readers:
      options = "readahead_buffer_size:0"  # For random access.
      self._readers[file] = array_record_module.ArrayRecordReader(self._paths[file], options)
    return self._readers[file]


def open_records(directory: str | os.PathLike[str], split: str) -> Records:
  """Opens a split, or splits joined by "+", for random access to serialized records."""
  builder = _builder(Path(directory))
  # Chooses array_record where the data set is there in other formats, too.
  builder.as_data_source(split, deserialize_method=DeserializeMethod.RAW_BYTES)
  return Records(builder.info.splits[split].file_instructions)


def _example(record: bytes) -> Any:
  return tf_example_pb2.Example.FromString(record).features.feature


def read_bytes(source: Any, rows: Sequence[int], feature: str) -> list[bytes]:
  """Returns one bytes feature of the records `rows` of an open source, in that order."""
  records = source.__getitems__([int(row) for row in rows])
  found = [_example(record)[feature].bytes_list.value[:1] for record in records]
  if not all(found):
    raise _damaged(source.directory, f"a record has no {feature!r}")
  return [image for (image,) in found]


def read_text(source: Any, row: int, feature: str) -> str | None:
  """Returns one text feature of the record `row` of an open source; None if it has none."""
  values = _example(source.__getitems__([int(row)])[0])[feature].bytes_list.value
  return values[0].decode("utf-8", "backslashreplace") if values else None


def image_feature(info: tfds.core.DatasetInfo) -> str:
  """Returns the name of the data set's image feature: "image", or the only or first one."""
  names = [k for k, f in info.features.items() if isinstance(f, tfds.features.Image)]
  if not names:
    features = list(info.features)
    raise ValueError(f"data set {info.name!r} has no image among its features {features}")
  return "image" if "image" in names else names[0]


def label_features(info: tfds.core.DatasetInfo) -> dict[str, list[str] | None]:
  """Returns the integer scalar features: name -> the names of its values, where it has any."""
  columns: dict[str, list[str] | None] = {}
  for name, feature in info.features.items():
    if isinstance(feature, tfds.features.ClassLabel):
      columns[name] = list(feature.names) if feature.num_classes else None
    elif getattr(feature, "shape", None) == () and np.issubdtype(feature.np_dtype, np.integer):
      columns[name] = None
  return columns


def _fingerprint(directory: Path) -> str:
  """Returns a digest of the shards' names and sizes and of TFDS's description."""
  digest = hashlib.sha256((directory / "dataset_info.json").read_bytes())
  for path in sorted(directory.glob("*.array_record*")):
    digest.update(f"{path.name} {path.stat().st_size}\n".encode())
  return digest.hexdigest()


def _scan(directory: Path, info: tfds.core.DatasetInfo) -> dict[str, np.ndarray]:
  columns = label_features(info)
  arrays: dict[str, np.ndarray] = {}
  total = sum(s.num_examples for s in info.splits.values())
  what = f"{info.name}: reading labels (once)"
  # Only large data sets take long enough to show a bar.
  with tqdm(total=total, desc=what, unit=" records", delay=2, **bar_options()) as bar:
    for split in info.splits:
      source = open_records(directory, split)
      values: dict[str, list[int]] = {c: [] for c in columns}
      for start in range(0, len(source), _CHUNK):
        records = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
        for example in map(_example, records):
          for column, into in values.items():
            into += example[column].int64_list.value[:1]
        bar.update(len(records))
      if short := [c for c, into in values.items() if len(into) < len(source)]:
        raise _damaged(directory, f"records of the split {split!r} have no {short[0]!r}")
      arrays |= {f"{split}/{c}": np.asarray(into, np.int64) for c, into in values.items()}
  return _as_int32(arrays)


def _as_int32(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Leaves out the columns whose values do not fit."""
  kept = {}
  for name, array in arrays.items():
    if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
      logging.getLogger(__name__).info("column %r is not int32 and is left out", name)
    else:
      kept[name] = array.astype(np.int32)
  return kept


def write_labels(directory: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes the side file of a data set whose labels are known: "split/column" -> integers [n].

  Call it after the records and the description, whose state it notes.
  """
  _store_index(directory / INDEX_FILE, _fingerprint(directory), _as_int32(arrays))


def read_labels(directory: Path, info: tfds.core.DatasetInfo) -> dict[str, dict[str, np.ndarray]]:
  """Returns split -> column -> int32 [n], from the side file.

  It is written from the records if it is missing, stale or damaged, and appears whole or not at
  all; where it cannot be written, the labels are only returned.
  """
  path = directory / INDEX_FILE
  fingerprint = _fingerprint(directory)
  total = sum(s.num_examples for s in info.splits.values())
  arrays = _load_index(path, fingerprint, (4 * total + 2**16) * (len(info.features) + 1))
  if arrays is None:
    arrays = _scan(directory, info)
    try:
      _store_index(path, fingerprint, arrays)
    except OSError as error:
      logging.getLogger(__name__).info("labels are kept in memory only: %s", error)
  labels: dict[str, dict[str, np.ndarray]] = {split: {} for split in info.splits}
  for key, array in arrays.items():
    split, column = key.split("/", 1)
    labels[split][column] = array
  return labels


def _load_index(path: Path, fingerprint: str, most: int) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a side file if it is whole, of this state and of at most `most` bytes."""
  try:
    # Opened here: np.load leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
      if sum(member.file_size for member in stored.zip.infolist()) > most:
        return None
      arrays = {key: stored[key] for key in stored.files}
    sealed = str(arrays.pop(_SEAL))
  except Exception:  # Missing, or damaged, which shows as any of a dozen exceptions.
    return None
  return arrays if sealed == _seal(fingerprint, arrays) else None


def _seal(fingerprint: str, arrays: Mapping[str, np.ndarray]) -> str:
  """Returns a digest of the data set's state and of its labels."""
  digest = hashlib.sha256(fingerprint.encode())
  for name, array in sorted(arrays.items()):
    digest.update(f" {name} {array.dtype} {array.shape} ".encode() + array.tobytes())
  return digest.hexdigest()


def _store_index(path: Path, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
  seal = np.asarray(_seal(fingerprint, arrays))
  with _files.replacing(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **{_SEAL: seal}, **arrays)
