"""Builds the bundled data sets, which need no archives, into the TFDS data directory."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from jaxdml.data import storage

BUNDLED = {"glyphs": "Glyphs", "digits": "Digits"}
"""Data sets that `build` makes: name -> builder class in `jaxdml.prepare.<name>`."""


def default_data_dir() -> Path:
  """Returns where TFDS keeps data sets: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
  """Silences TFDS's own bars and notes; the builders show a bar with an ETA, on stderr."""
  from tensorflow_datasets.core.utils import tqdm_utils

  was_active = getattr(tqdm_utils, "_active", True)
  logger = logging.getLogger("absl")
  level = logger.level
  tfds.disable_progress_bar()
  logger.setLevel(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
    if was_active:
      tfds.enable_progress_bar()


def build(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
  """Builds a bundled data set if it is not there, without network and without TensorFlow.

  TFDS writes to a temporary directory and renames it, so an interrupted build leaves nothing that
  reads as a data set, and of two builds at once the first to finish is kept.

  Args:
    name: one of `BUNDLED`.
    data_dir: TFDS data directory; by default `default_data_dir()`.

  Returns:
    The directory of the prepared data set.

  Raises:
    ValueError: no such bundled data set.
  """
  if name not in BUNDLED:
    raise ValueError(f"no bundled data set {name!r}; there are {sorted(BUNDLED)}")
  module = importlib.import_module(f"jaxdml.prepare.{name}")
  builder_class = getattr(module, BUNDLED[name])
  root = Path(data_dir or default_data_dir()).expanduser()
  with quiet_tfds():
    builder = builder_class(data_dir=os.fspath(root), file_format="array_record")
    directory = Path(builder.data_dir)
    if directory.exists():
      if not storage.is_prepared(directory):
        raise FileExistsError(
          f"{directory} exists but is not a data set (it has no dataset_info.json); "
          "delete it, and it is built anew"
        )
      return directory
    print(f"Building the data set {name!r} in {directory} (once).", file=sys.stderr)
    try:
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except PermissionError as error:
      raise PermissionError(
        f"cannot build the data set {name!r} in {root}: {error}. Give a directory that can be "
        "written, as data_dir or in the environment variable TFDS_DATA_DIR"
      ) from error
    except OSError:
      # Another process renamed its finished build into place first; ours is discarded.
      if not storage.is_prepared(directory):
        raise
  return directory
