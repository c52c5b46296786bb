"""Deep metric learning in JAX/Flax: losses and mining as pure functions, HDML, EPS, training.

The mathematics (`losses`, `mining`, `distances`, `refs`, `hdml`, `types`) needs jax and numpy
alone; the other rooms are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from jaxdml._version import __version__

if TYPE_CHECKING:
  from jaxdml import (
    data,
    distances,
    drawing,
    errors,
    evaluation,
    hdml,
    inference,
    losses,
    mining,
    models,
    prepare,
    pretrained,
    refs,
    report,
    search,
    training,
    types,
  )

__all__ = [
  "__version__", "data", "distances", "drawing", "errors", "evaluation", "hdml", "inference",
  "losses", "mining", "models", "prepare", "pretrained", "refs", "report", "search", "training",
  "types",
]  # fmt: skip


def __getattr__(name: str):
  if name in __all__:
    return importlib.import_module(f"jaxdml.{name}")
  raise AttributeError(f"module 'jaxdml' has no attribute {name!r}")


def __dir__() -> list[str]:
  return __all__
