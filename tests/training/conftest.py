"""Digits, built once for all workers and tests."""

import pytest

from jaxdml.data import bundled


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  # pytest-xdist gives each worker a subfolder; the parent is shared, and building twice is safe.
  root = tmp_path_factory.getbasetemp()
  if root.name.startswith("popen-"):
    root = root.parent
  directory = root / "tfds"
  bundled.build("digits", directory)
  return str(directory)
