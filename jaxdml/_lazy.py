"""Names that are imported when they are first asked for: of package faces, and of strings."""

import importlib
from collections.abc import Callable
from typing import Any


def face(
  package: str, public: list[str], **modules: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """`__getattr__` and `__dir__` of a package with the names `public`.

  Each keyword is a module of the package and the names that it gives, `public=own` where the
  package calls one otherwise. A public name that no module gives is a module itself.
  """
  places = {name: (name, "") for name in public}
  for module, names in modules.items():
    for name in names.split():
      ours, _, own = name.partition("=")
      places[ours] = (module, own or ours)

  def get(name: str) -> Any:
    if name not in places:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module, own = places[name]
    found = importlib.import_module(f"{package}.{module}")
    return getattr(found, own) if own else found

  return get, lambda: public


def imported(name: str) -> Any:
  """Returns what "package.module:attribute" names; ValueError where that cannot be imported.

  >>> imported("math:pi")
  3.141592653589793
  """
  module, _, attribute = name.partition(":")
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f"cannot import {name!r}: {error}") from error
