"""A report: one HTML file that shows what a model learned, of a run or of any embeddings."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdml.report._page import build as build
  from jaxdml.report._run import of_run as of_run
  from jaxdml.report._run import write as write
  from jaxdml.report._sections import Curve as Curve
  from jaxdml.report._sections import Setting as Setting

__all__ = ["Curve", "Setting", "build", "of_run", "write"]

_PLACES = {"Curve": "_sections", "Setting": "_sections", "build": "_page", "of_run": "_run",
           "write": "_run"}  # fmt: skip


def __getattr__(name: str) -> Any:
  # When asked for: JAX and Bokeh are slow to import.
  if name not in _PLACES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
  return __all__
