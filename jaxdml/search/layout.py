"""The files of a store, and what is read of each: shared by who writes and who reads.

`embeddings.json` is written first and names the model and the images; a shard appears whole or not
at all; `finished.json` says that all are there, and which images could not be read.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from jaxdml.search.errors import SearchError

SETTINGS, FINISHED = "embeddings.json", "finished.json"
FORMAT = 1


def shard(folder: pathlib.Path, number: int, count: int) -> pathlib.Path:
  """The path of a shard."""
  return folder / f"shard-{number:05d}-of-{count:05d}.parquet"


def read_settings(folder: pathlib.Path) -> dict[str, Any]:
  """What made the embeddings: "model", "source", "images", "shards", "shard_size".

  Raises:
    SearchError: the folder is none of embeddings.
  """
  path = folder / SETTINGS
  if not path.is_file():
    what = f"holds no embeddings: there is no {SETTINGS} in it" if folder.is_dir() else (
      "is a file" if folder.exists() else "does not exist"
    )  # fmt: skip
    raise SearchError(f"{folder} {what}; expected the --out of jaxdml embed")
  try:
    settings = json.loads(path.read_text())
    known = settings["format"] == FORMAT
    fields = settings["model"]["dimension"], settings["model"]["fingerprint"], settings["source"]
    known = known and None not in fields and settings["shards"] == int(settings["shards"])
  except (KeyError, TypeError, ValueError) as error:
    raise SearchError(
      f"{path} is damaged ({type(error).__name__}: {error}); embed into another folder"
    ) from error
  if not known:
    raise SearchError(f"{path} is of another version of jaxdml; embed into another folder")
  return settings


def metadata(path: pathlib.Path) -> dict[str, Any]:
  """What a shard says of itself: "model", and "skipped", the images that it leaves out.

  Raises:
    SearchError: it is damaged.
  """
  try:
    return json.loads(parquet.read_schema(path).metadata[b"jaxdml"])
  except (KeyError, OSError, TypeError, ValueError, pa.ArrowException) as error:
    raise damaged(path, error) from error


def rows(path: pathlib.Path) -> int:
  """How many embeddings a shard holds.

  Raises:
    SearchError: it is damaged.
  """
  try:
    return parquet.read_metadata(path).num_rows
  except (OSError, ValueError, pa.ArrowException) as error:
    raise damaged(path, error) from error


def damaged(path: pathlib.Path, error: Exception) -> SearchError:
  """The error that says so."""
  reason = str(error).strip().split("\n")[0][:200]
  return SearchError(
    f"{path} is damaged ({reason}); remove it and give the command of jaxdml embed "
    "again: it makes the missing shard"
  )
