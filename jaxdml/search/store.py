"""Reads a folder of embeddings: `Store.open(folder)`."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from jaxdml.search import layout, sources
from jaxdml.search.errors import SearchError

__all__ = ["Store"]


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
  """Embeddings and what they are of, in memory.

  Attributes:
    directory: the folder.
    embeddings: float32 [n, d], as the model gave them.
    paths: [n], below the folder of the images; of a data set NAME/SPLIT/NUMBER.
    labels: [n], None where there is none.
    model: what made them: "fingerprint", "workdir", "dimension", "step", "normalized" (whether the
      model's embeddings have length 1).
    source: the images: "kind" (folder, dataset) and where they are.
    skipped: (file, reason) of the images that could not be read.
  """

  directory: pathlib.Path
  embeddings: np.ndarray
  paths: tuple[str, ...]
  labels: tuple[str | None, ...]
  model: dict[str, Any]
  source: dict[str, Any]
  skipped: tuple[tuple[str, str], ...]

  def __len__(self) -> int:
    return len(self.paths)

  @classmethod
  def open(cls, directory: str | os.PathLike[str], *, progress: bool = True) -> Store:
    """Reads a store.

    Args:
      directory: the --out of jaxdml embed, or what `write` wrote.
      progress: show a bar where it takes long.

    Raises:
      SearchError: it is none, not finished, empty, damaged, or its shards are of several models.
    """
    folder = pathlib.Path(directory).expanduser()
    settings = layout.read_settings(folder)
    count, model = settings["shards"], settings["model"]
    shards = [layout.shard(folder, i, count) for i in range(count)]
    there = sum(path.is_file() for path in shards)
    if there < count or not (folder / layout.FINISHED).is_file():
      raise SearchError(
        f"{folder} is not finished: {there} of {count} shards are there; give the command of "
        "jaxdml embed that made it again, it goes on where it stopped"
      )
    total = sum(layout.rows(path) for path in shards)
    if not total:
      raise SearchError(
        f"{folder} is empty: none of the {settings['images']} images could be read; give "
        "jaxdml embed others, and another --out"
      )
    embeddings = np.empty((total, model["dimension"]), np.float32)
    paths, labels, skipped = [], [], []
    hidden = None if progress else True
    for path in tqdm(shards, desc="read", unit="shard", disable=hidden, delay=2, leave=False):
      table = _read_shard(path, model)
      column = table.column("embedding").combine_chunks()
      here = slice(len(paths), len(paths) + len(table))
      embeddings[here] = column.flatten().to_numpy().reshape(-1, model["dimension"])
      paths += table.column("path").to_pylist()
      labels += table.column("label").to_pylist()
      skipped += map(tuple, layout.metadata(path)["skipped"])
    source = settings["source"]
    return cls(folder, embeddings, tuple(paths), tuple(labels), model, source, tuple(skipped))

  def image(self, row: int) -> bytes:
    """The encoded image of a row, from where it was when it was embedded.

    Raises:
      ImageDecodeError: the file is gone.
      DatasetNotPreparedError: the data set is.
    """
    return self._images.read([row])[0]

  def file(self, row: int) -> str | None:
    """The file of a row; None for a data set's record."""
    if self.source["kind"] != "folder":
      return None
    return os.path.join(self.source["root"], self.paths[row])

  @functools.cached_property
  def _images(self) -> Any:
    return sources.open_source(self.source, self.paths)


def _read_shard(path: pathlib.Path, model: Mapping[str, Any]) -> pa.Table:
  made_by = layout.metadata(path)["model"]
  for name in ("fingerprint", "dimension"):
    if made_by[name] != model[name]:
      raise SearchError(
        f"{path} is of another model: its {name} is {made_by[name]}, that of {layout.SETTINGS} "
        f"{model[name]}; remove it and give the command of jaxdml embed again"
      )
  try:
    columns = ["path", "label", "embedding"]
    table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
    if table.schema.field("embedding").type.list_size != model["dimension"]:
      raise ValueError(f"its embeddings are {table.schema.field('embedding').type}")
    return table
  except (AttributeError, KeyError, OSError, ValueError, pa.ArrowException) as error:
    raise layout.damaged(path, error) from error
