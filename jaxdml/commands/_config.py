"""The config of a run from the command line: --config=FILE[:ARGUMENT] and --config.KEY=VALUE."""

import ast
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxdml.commands._cli import Parser, UsageError
from jaxdml.errors import JaxdmlError

if TYPE_CHECKING:
  from ml_collections import ConfigDict


EXPLAINED = """\
Any key of the config is an option: --config.optimizer.learning_rate=5e-4. A tuple is given as
--config.eval.ks='(1, 10)' or --config.eval.ks=1 --config.eval.ks=10, and a loss's, miner's or
encoder's own hyperparameters as --config.loss.options.margin=0.3. jaxdml/training/defaults.py has
all keys, the files in configs/ what their methods set.
"""
# Sections whose keys are those of whatever they are given to.
_FREE = ("options", "init_options", "distance_options")
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def add_option(parser: Parser) -> None:
  """Makes a parser take --config and its overrides."""
  parser.overrides = True
  parser.add_argument(
    "--config", required=True, metavar="FILE[:ARGUMENT]",
    help="a file in configs/, with a variant after a colon; --config.KEY=VALUE overrides a key",
  )  # fmt: skip


def read(given: str, overrides: Sequence[tuple[str, str]]) -> "ConfigDict":
  """Reads the config of FILE or FILE:ARGUMENT and puts (KEY, VALUE) into it; it is locked then.

  Raises:
    UsageError: no such file, an argument that it does not take, a key that it does not have, or a
      value of another type.
  """
  config = _load(given)
  joined: dict[str, list[str]] = {}
  for key, text in overrides:
    joined.setdefault(key, []).append(text)
  for key, texts in joined.items():
    _set(config, key, texts)
  return config


def _load(given: str) -> "ConfigDict":
  path, colon, argument = given.partition(":")
  if not os.path.isfile(path):
    raise UsageError(f"--config={path}: no such file; see configs/")
  # One config may import another of its folder, whatever the working directory.
  sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(path))))
  spec = importlib.util.spec_from_file_location("config_file", path)
  if spec is None or spec.loader is None:
    raise UsageError(f"--config={path}: expected a file of Python")
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise UsageError(f"{path} has no get_config()")
    config = module.get_config(*([argument] if colon else []))
  except JaxdmlError as error:
    raise UsageError(f"--config: {error}") from error
  except TypeError as error:
    if not str(error).startswith("get_config() takes"):
      raise  # A fault in the file: there the traceback helps.
    raise UsageError(f"--config={given}: {error}") from error
  return config.lock()


def _section(config: "ConfigDict", key: str, given: str) -> "ConfigDict":
  """The section whose last name a key is; UsageError if there is none."""
  *sections, last = key.split(".")
  node: Any = config
  for depth, name in enumerate([*sections, last]):
    valid = list(node) if hasattr(node, "keys") else []
    free = name == last and depth and sections[-1] in _FREE and hasattr(node, "keys")
    if name not in valid and not free:
      known = ".".join(["config", *sections[:depth]])
      near = difflib.get_close_matches(name, valid, n=1)
      guess = f"; did you mean {near[0]!r}?" if near else "."
      raise UsageError(
        f"{given}: {known} has no key {name!r}{guess} It takes: {', '.join(valid) or 'none'}"
      )
    if depth < len(sections):
      node = node[name]
  return node


def _set(config: "ConfigDict", key: str, texts: Sequence[str]) -> None:
  """Sets a key to the last text given for it; a tuple also to all of them."""
  given = f"--config.{key}={texts[-1]}"
  section = _section(config, key, given)
  *sections, name = key.split(".")
  free = bool(sections) and sections[-1] in _FREE
  kind = None if free else section.get_type(name)
  try:
    value = _value(kind, texts)
  except (SyntaxError, TypeError, ValueError) as error:
    expected = "a whole number" if kind is int else "True or False" if kind is bool else "a "
    expected += getattr(kind, "__name__", "value") if expected == "a " else ""
    raise UsageError(f"{given}: expected {expected}") from error
  with config.unlocked():
    try:
      section[name] = value
    except (TypeError, ValueError) as error:
      raise UsageError(f"{given}: {error}") from error


def _value(kind: type | None, texts: Sequence[str]) -> Any:
  """The last text as a value of some type; None is a type that is not known."""
  text = texts[-1]
  if kind is str:
    return text
  if kind is bool:
    if text.lower() not in _BOOLEANS:
      raise ValueError(text)
    return _BOOLEANS[text.lower()]
  if kind in (int, float):
    return kind(text)
  if kind is tuple and len(texts) > 1:
    return tuple(map(_literal, texts))
  value = _literal(text)
  if kind is tuple:
    if isinstance(value, str) and value[:1] in "([":
      raise ValueError(text)
    return tuple(value) if isinstance(value, tuple | list) else (value,)
  # Of several types: checked with the whole config, as a number or "auto" is.
  if kind not in (None, object) and not isinstance(value, dict):  # A section of the config.
    raise TypeError(text)
  return value


def _literal(text: str) -> Any:
  """A text as Python writes the value, or else itself."""
  if text in ("true", "false"):
    return text == "true"
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text
