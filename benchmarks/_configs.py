"""The files in configs/, which are no part of the package."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxdml.commands import _config

_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"


def read(name: str, changes: Mapping[str, Any] | None = None) -> Any:
  """The config of "FILE.py" or "FILE.py:ARGUMENT", with {"section.key": value} put into it."""
  config = _config.read(str(_FOLDER / name), []).unlock()
  config.update_from_flattened_dict(dict(changes or {}))
  return config
