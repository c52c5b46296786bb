"""Public data sets that are made from archives: a module each, with a `CARD` and how it is read.

A module that is put here is found by itself: the command line offers it, and `jaxdml.data.load`
takes it by its name once it is prepared.
"""

import importlib
import pkgutil

from jaxdml.prepare.official import Card

__all__ = ["CARDS"]

_MODULES = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
CARDS: dict[str, Card] = {module.CARD.name: module.CARD for module in _MODULES}
"""Name -> card, in the order of the names."""


def __dir__() -> list[str]:
  return __all__
