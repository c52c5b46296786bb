"""How a command ends when Ctrl-C ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["run"]


def run(main: Callable[[], int]) -> int:
  """The exit status of `main`; Ctrl-C is one line, and 130 as in shells."""
  try:
    return main()
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
