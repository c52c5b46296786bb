"""Writes a folder of embeddings: Parquet shards with path, label and embedding."""

from __future__ import annotations

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
from jaxdml.search import layout, sources
from jaxdml.search.errors import SearchError
from jaxdml.search.store import Store

__all__ = ["SHARD_SIZE", "Writer", "write"]

SHARD_SIZE = 8192
"""Images a shard, by default."""


class Writer:
  """Writes the shards of a store, those that are missing; several hosts may share the folder.

  Args:
    out: the folder, made if needed.
    model: what made the embeddings: at least `dimension`, and `fingerprint`, which tells models
      apart.
    source: the images' `settings()`.
    total: how many images.
    shard_size: images a shard.

  Raises:
    SearchError: the folder holds something else, or another model's or other images' embeddings.
  """

  def __init__(
    self,
    out: str | os.PathLike[str],
    *,
    model: Mapping[str, Any],
    source: Mapping[str, Any],
    total: int,
    shard_size: int = SHARD_SIZE,
  ):
    if shard_size < 1:
      raise ValueError(f"shard_size: expected at least 1 image a shard, got {shard_size}")
    self.out = pathlib.Path(out).expanduser()
    self.count = -(-total // shard_size)
    self._settings = {
      "format": layout.FORMAT,
      "jaxdml": __version__,
      "model": dict(model),
      "source": dict(source),
      "images": total,
      "shard_size": shard_size,
      "shards": self.count,
    }
    self._total, self._size = total, shard_size
    # Looked at once: of several hosts another may be about to write the settings.
    there = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
    if layout.SETTINGS in there:
      _check_same(self.out, layout.read_settings(self.out), self._settings)
      return
    if any(not name.startswith(".") for name in there) or self.out.is_file():
      raise SearchError(
        f"{self.out} is no folder of embeddings and not empty; give a new folder for them"
      )
    self.out.mkdir(parents=True, exist_ok=True)
    _files.write_json(self.out / layout.SETTINGS, self._settings)

  def missing(self) -> list[int]:
    """The numbers of the shards that are not there yet."""
    return [i for i in range(self.count) if not self._path(i).is_file()]

  def rows(self, shard: int) -> range:
    """The images of a shard, by number; those that cannot be read are not in it."""
    return range(shard * self._size, min((shard + 1) * self._size, self._total))

  def skipped(self) -> list[list[str]]:
    """[file, reason] of the images that the shards that are there leave out."""
    there = [self._path(i) for i in range(self.count)]
    return [entry for path in there if path.is_file() for entry in layout.metadata(path)["skipped"]]

  def write(
    self,
    shard: int,
    embeddings: np.ndarray,
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    skipped: Sequence[Sequence[str]] = (),
  ) -> None:
    """Writes one shard.

    Args:
      shard: its number.
      embeddings: [n, d].
      columns: "path", "label" (text or None) and others, [n].
      skipped: (file, reason) of the images that it leaves out.

    Raises:
      ValueError: embeddings of another dimension, or not finite.
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
    metadata = {"jaxdml": json.dumps({"model": model, "skipped": list(skipped)})}
    table = pa.table(arrays).replace_schema_metadata(metadata)
    with _files.replacing(self._path(shard)) as temporary:
      parquet.write_table(table, temporary, write_page_checksum=True)

  def finish(self) -> bool:
    """Marks the folder as finished if every shard is there; whether it is."""
    if self.missing():
      return False
    rows = sum(layout.rows(self._path(i)) for i in range(self.count))
    _files.write_json(self.out / layout.FINISHED, {"embedded": rows, "skipped": self.skipped()})
    # Of runs that were killed while they wrote a shard.
    for left in self.out.glob(".shard-*.tmp"):
      left.unlink(missing_ok=True)
    return True

  def _path(self, shard: int) -> pathlib.Path:
    return layout.shard(self.out, shard, self.count)


def write(
  out: str | os.PathLike[str],
  embeddings: Any,
  paths: Sequence[str],
  labels: Sequence[str | None] | None = None,
  *,
  model: Mapping[str, Any] | None = None,
  root: str | os.PathLike[str] = "",
  shard_size: int = SHARD_SIZE,
) -> Store:
  """Writes a store of embeddings that are there already, whoever made them.

  Args:
    out: a new folder.
    embeddings: [n, d].
    paths: of the images, [n], below `root`.
    labels: their classes, [n], None where there is none.
    model: what made them, e.g. {"fingerprint": ..., "workdir": ...}.
    root: the folder of the images.
    shard_size: images a shard.

  Raises:
    ValueError: lengths that do not fit, no rows, NaN.
    SearchError: `out` holds something else.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   store = write(f"{folder}/store", [[1.0, 0.0], [0.0, 2.0]], ["a.png", "b.png"], ["a", None])
  >>> store.embeddings.shape, store.paths, store.labels
  ((2, 2), ('a.png', 'b.png'), ('a', None))
  """
  array = np.asarray(embeddings, np.float32)
  labels = [None] * len(paths) if labels is None else list(labels)
  if array.ndim != 2 or not array.size or not len(array) == len(paths) == len(labels):
    raise ValueError(
      f"expected embeddings [n, d] with n paths and labels, got shape {array.shape}, "
      f"{len(paths)} paths and {len(labels)} labels"
    )
  images = sources.FolderImages(os.path.abspath(root), tuple(paths), tuple(labels))
  made_by = {"fingerprint": "", "workdir": "", "step": None, "normalized": False}
  made_by |= {**(model or {}), "dimension": array.shape[1]}
  writer = Writer(
    out, model=made_by, source=images.settings(), total=len(array), shard_size=shard_size
  )
  for shard in writer.missing():
    rows = writer.rows(shard)
    writer.write(shard, array[rows.start : rows.stop], images.columns(rows))
  writer.finish()
  return Store.open(out)


def _check_same(folder: pathlib.Path, there: dict[str, Any], ours: dict[str, Any]) -> None:
  """Refuses to go on with what another command began."""
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
