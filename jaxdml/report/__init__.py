"""What a model learned, to look at: one HTML page (`build`, `of_run`), or a picture (`gallery`)."""

from __future__ import annotations

from typing import Any

__all__ = ["Curve", "Setting", "build", "of_run", "write"]


def __getattr__(name: str) -> Any:
  # When asked for: JAX and Bokeh are slow to import, and `--help` needs neither.
  if name in ("of_run", "write"):
    from jaxdml.report import run

    return getattr(run, name)
  if name in __all__:
    from jaxdml.report import page

    return getattr(page, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
