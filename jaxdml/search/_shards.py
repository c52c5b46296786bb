"""The files of a store: Parquet shards with path, label and embedding, and two of JSON.

`_embeddings.json` is written first and names the model and the images; a shard appears whole or not
at all; `finished.json` says that all are there, with the digest of each, and which images could
not be read. Both have a seal, so that nothing is read that was not written. Whatever cannot be used
is a SearchError.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jaxdml import _files
from jaxdml._version import __version__
from jaxdml.search.index import SearchError

# Readers of Parquet data sets (pandas, Arrow, Spark) pass over names with a leading underscore.
SETTINGS, FINISHED = "_embeddings.json", "_finished.json"
SHARD_SIZE = 8192
"""Images a shard, by default."""

_FORMAT = 2


def shard(folder: pathlib.Path, number: int, count: int) -> pathlib.Path:
  """Returns the path of a shard."""
  return folder / f"shard-{number:05d}-of-{count:05d}.parquet"


def settings(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the origin of the embeddings: "model", "source", "images", "shards", "shard_size"."""
  path = folder / SETTINGS
  if not path.is_file():
    said = f"holds no embeddings: there is no {SETTINGS} in it"
    if not folder.is_dir():
      said = "is a file" if folder.exists() else "does not exist"
    elif (folder / SETTINGS[1:]).is_file():
      said += f"; {SETTINGS[1:]} is of another version of jaxdml: embed into another folder"
    raise SearchError(f"{folder} {said}; expected the --out of jaxdml embed")
  try:
    found = _files.read_sealed(path)
    if found["format"] == _FORMAT:
      return found
  except (KeyError, ValueError) as error:
    raise SearchError(f"{path} is damaged ({error}); embed into another folder") from error
  raise SearchError(f"{path} is of another version of jaxdml; embed into another folder")


def digests(folder: pathlib.Path) -> dict[str, str]:
  """Reads the digest of each shard of a finished store, by its name."""
  path = folder / FINISHED
  try:
    return _files.read_sealed(path)["sha256"]
  except (KeyError, ValueError) as error:
    raise SearchError(
      f"{path} is damaged ({error}); remove it and give the command of jaxdml embed again, which "
      "looks at all shards and writes it"
    ) from error


def metadata(path: pathlib.Path) -> tuple[dict[str, Any], int]:
  """Reads a shard's metadata, "model" and "skipped" (images left out), and its number of rows."""
  try:
    found = parquet.read_metadata(path)
    said = json.loads(found.metadata[b"jaxdml"])
    if not isinstance(said["model"], dict) or not isinstance(said["skipped"], list):
      raise ValueError("its metadata is not what was written")
    return said, found.num_rows
  except (KeyError, OSError, TypeError, ValueError, pa.ArrowException) as error:
    raise _damaged(path, error) from error


def check(path: pathlib.Path, model: Mapping[str, Any], digest: str) -> tuple[dict[str, Any], int]:
  """Returns the `metadata` of a shard that has to be of this model and as it was written."""
  said, rows = metadata(path)
  for name in ("fingerprint", "dimension"):
    theirs = said.get("model", {}).get(name, model[name])
    if theirs != model[name]:
      raise SearchError(
        f"{path} is of another model: its {name} is {theirs}, that of {SETTINGS} {model[name]}; "
        "remove it and give the command of jaxdml embed again"
      )
  if _files.sha256(path) != digest:
    raise _damaged(path, ValueError("its content is not what was written"))
  return said, rows


def read(path: pathlib.Path, model: Mapping[str, Any]) -> pa.Table:
  """Reads path, label and embedding of a shard that `check` let pass."""
  try:
    columns = ["path", "label", "embedding"]
    table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
    if table.schema.field("embedding").type.list_size != model["dimension"]:
      raise ValueError(f"its embeddings are {table.schema.field('embedding').type}")
    return table
  except (AttributeError, KeyError, OSError, ValueError, pa.ArrowException) as error:
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> SearchError:
  reason = str(error).strip().split("\n")[0][:200]
  return SearchError(
    f"{path} is damaged ({reason}); remove it and give the command of jaxdml embed "
    "again: it makes the missing shard"
  )


class Writer:
  """Writes the shards of a store that are missing; several hosts may share the folder.

  Args:
    out: the folder, made if needed; SearchError if it holds anything but these embeddings.
    model: what made them: at least `dimension`, and `fingerprint`, which tells models apart.
    source: the images' `settings()`.
    total: how many images.
    shard_size: images a shard.
  """

  def __init__(
    self, out: str | os.PathLike[str], *, model: Mapping[str, Any], source: Mapping[str, Any],
    total: int, shard_size: int,
  ):  # fmt: skip
    if shard_size < 1:
      raise ValueError(f"shard_size: expected at least 1 image a shard, got {shard_size}")
    self.out = pathlib.Path(out).expanduser()
    self.count = -(-total // shard_size)
    self._written: dict[str, str] = {}  # digest of each shard that this one wrote
    self._settings = {
      "format": _FORMAT, "jaxdml": __version__, "model": dict(model), "source": dict(source),
      "images": total, "shard_size": shard_size, "shards": self.count,
    }  # fmt: skip
    # Looked at once: of several hosts another may be about to write the settings.
    there = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
    if SETTINGS in there:
      _check_same(self.out, settings(self.out), self._settings)
      return
    if any(not name.startswith(".") for name in there) or self.out.is_file():
      raise SearchError(
        f"{self.out} is no folder of embeddings and not empty; give a new folder for them"
      )
    _files.write_json(self.out / SETTINGS, _files.seal(self._settings))

  def missing(self) -> list[int]:
    """Returns the numbers of the shards that are not there yet."""
    return [i for i in range(self.count) if not self._path(i).is_file()]

  def rows(self, number: int) -> range:
    """Returns the images of a shard, by number; those that cannot be read are not in it."""
    size = self._settings["shard_size"]
    return range(number * size, min((number + 1) * size, self._settings["images"]))

  def skipped(self) -> list[list[str]]:
    """Returns [file, reason] of the images that the shards that are there leave out."""
    there = [self._path(i) for i in range(self.count)]
    return [entry for path in there if path.is_file() for entry in metadata(path)[0]["skipped"]]

  def write(
    self, number: int, embeddings: np.ndarray, columns: Mapping[str, Sequence[Any] | np.ndarray],
    skipped: Sequence[Sequence[str]] = (),
  ) -> None:  # fmt: skip
    """Writes one shard; ValueError for embeddings of another dimension, or not finite.

    Args:
      number: which.
      embeddings: [n, d].
      columns: "path", "label" (text or None) and others, [n].
      skipped: (file, reason) of the images that it leaves out.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    dimension = self._settings["model"]["dimension"]
    if embeddings.ndim != 2 or embeddings.shape[1] != dimension:
      raise ValueError(f"embeddings: expected [n, {dimension}], got shape {embeddings.shape}")
    if not np.isfinite(embeddings).all():
      raise ValueError("embeddings: expected finite values, got NaN or infinity: has the model "
                       "diverged?")  # fmt: skip
    text = {"path": pa.string(), "label": pa.string()}
    arrays = {name: pa.array(values, text.get(name)) for name, values in columns.items()}
    flat = pa.array(embeddings.reshape(-1))
    arrays["embedding"] = pa.FixedSizeListArray.from_arrays(flat, dimension)
    model = {**self._settings["model"], "jaxdml": __version__}
    said = {"jaxdml": json.dumps({"model": model, "skipped": list(skipped)})}
    table = pa.table(arrays).replace_schema_metadata(said)
    with _files.replacing(self._path(number)) as temporary:
      parquet.write_table(table, temporary, write_page_checksum=True)
      self._written[self._path(number).name] = _files.sha256(temporary)

  def finish(self) -> bool:
    """Marks the folder as finished if every shard is there, and says whether it is."""
    if self.missing():
      return False
    known = self._written
    if (self.out / FINISHED).is_file():  # A shard that was damaged since then is not to pass.
      known = {**digests(self.out), **known}
    paths = [self._path(i) for i in range(self.count)]
    found = {path.name: known.get(path.name) or _files.sha256(path) for path in paths}
    rows = sum(metadata(path)[1] for path in paths)
    finished = {"embedded": rows, "skipped": self.skipped(), "sha256": found}
    _files.write_json(self.out / FINISHED, _files.seal(finished))
    # Runs that were killed while they wrote a shard leave these.
    for left in self.out.glob(".shard-*.tmp"):
      left.unlink(missing_ok=True)
    return True

  def _path(self, number: int) -> pathlib.Path:
    return shard(self.out, number, self.count)


def _check_same(folder: pathlib.Path, there: dict[str, Any], ours: dict[str, Any]) -> None:
  """Refuses to go on with a store that another command began."""
  different = None
  names = ("fingerprint", "dimension")
  if any(there["model"][name] != ours["model"][name] for name in names):
    one, other = (
      f"{m['fingerprint']} of {m.get('workdir')}, {m['dimension']} dimensions"
      for m in (there["model"], ours["model"])
    )
    different = f"embeddings of another model: {one}; yours is {other}"
  elif there["source"] != ours["source"]:
    changed = [
      f"{name} {there['source'].get(name)!r} then, {value!r} now"
      for name, value in ours["source"].items()
      if there["source"].get(name) != value
    ]
    different = f"embeddings of other images, or these have changed since: {'; '.join(changed)}"
  elif there["shard_size"] != ours["shard_size"]:
    different = f"shards of {there['shard_size']} images; yours would have {ours['shard_size']}"
  if different:
    raise SearchError(f"{folder} holds {different}. Give another --out, or remove that folder")
