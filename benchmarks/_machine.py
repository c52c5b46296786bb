"""The machine and the versions, to print beside every figure."""

import importlib.util

from jaxdml.training.machine import describe as describe


def installed(*packages: str) -> bool:
  """Returns whether all are there, by the names that pip knows."""
  modules = [name.replace("-", "_") for name in packages]
  return all(importlib.util.find_spec(module) is not None for module in modules)
