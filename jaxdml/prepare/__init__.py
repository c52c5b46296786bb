"""Data sets written once: from public archives or folders of photos, as TFDS array_record.

`CARDS[name].source(directory)` reads a public data set's archives, `image_folder.source(directory,
name)` finds people's own photos, and `write(source, data_dir)` makes of either a data set that
`jaxdml.data.load` reads. Neither a network nor TensorFlow is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdml.prepare import image_folder as image_folder
  from jaxdml.prepare.sets import CARDS as CARDS
  from jaxdml.prepare.source import PrepareError as PrepareError
  from jaxdml.prepare.writing import is_current as is_current
  from jaxdml.prepare.writing import target as target
  from jaxdml.prepare.writing import write as write

__all__ = ["CARDS", "PrepareError", "image_folder", "is_current", "target", "write"]

_MODULES = {"CARDS": "sets", "PrepareError": "source"}


def __getattr__(name: str) -> Any:
  # When asked for: TFDS is slow to import.
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  if name == "image_folder":
    return importlib.import_module(f"{__name__}.image_folder")
  return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'writing')}"), name)


def __dir__() -> list[str]:
  return __all__
