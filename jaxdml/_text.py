"""Text for people: names that may hold anything, and lists of them that may be long."""

import itertools
import sys
from collections.abc import Callable, Collection
from typing import Any


def printable(text: str, drawn: Callable[[str], object] = bool) -> str:
  r"""Returns a text in which what cannot be shown stands as its code point.

  So no name of a file or class can steer a terminal, break a line or leave a blank in a picture.

  Args:
    text: any, also with halves of surrogate pairs, as file names may have.
    drawn: tells of a character that Python can print whether a font has it; by default all are.

  >>> printable("a\x1b[31m\n")
  'a[U+001B][31m[U+000A]'
  """
  return "".join(c if c.isprintable() and drawn(c) else f"[U+{ord(c):04X}]" for c in text)


def few(names: Collection[str], most: int = 5, *, separator: str = ", ") -> str:
  """Returns the first few names, and how many more there are.

  >>> few(["a", "b", "c"], 2)
  'a, b and 1 more'
  """
  more = len(names) - most
  shown = separator.join(itertools.islice(names, most))
  return f"{shown} and {more:,} more" if more > 0 else shown


def bar_options() -> dict[str, Any]:
  """Returns options of tqdm by which bars go to a terminal or a notebook, not into log files."""
  if "ipykernel" not in sys.modules:
    return {"disable": None}
  # A notebook goes back to a line's start like a terminal, and says that it is none. It keeps all
  # that was ever written there.
  return {"disable": False, "mininterval": 1.0}
