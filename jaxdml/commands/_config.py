"""The config of a run from the command line: --config=FILE[:ARGUMENT] and --config.KEY=VALUE.

In place of the FILE stands the name of one of the configs that come with the package.
"""

import ast
import contextlib
import difflib
import importlib.util
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

from jaxdml.commands._cli import Parser, UsageError, nearest
from jaxdml.errors import JaxdmlError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# The folder configs/ of a clone stands beside the package, that of a wheel inside it (setup.py).
SHIPPED = next((x for x in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if x.is_dir()), None)
NAMES = sorted(path.stem for path in SHIPPED.glob("[a-z]*.py")) if SHIPPED else []
"""The configs that need no file of one's own, by name."""

EXPLAINED = f"""\
FILE is a file of Python with a function get_config(), or, where there is no such file, the name of
a config that comes with jaxdml, as in --config=hdml_glyphs or --config=finetune_photos:garden:
{textwrap.fill(", ".join(NAMES), 98, initial_indent="  ", subsequent_indent="  ")}.

Any key of the config is an option: --config.optimizer.learning_rate=5e-4. A tuple is given as
--config.eval.ks='(1, 10)' or --config.eval.ks=1 --config.eval.ks=10, and a loss's, miner's or
encoder's own hyperparameters as --config.loss.options.margin=0.3. jaxdml/training/defaults.py has
all keys, the configs above what their methods set.
"""
# Sections whose keys are those of whatever they are given to.
_FREE = ("options", "init_options", "distance_options")
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def add_option(parser: Parser) -> None:
  """Makes a parser take --config and its overrides."""
  parser.overrides = True
  parser.add_argument(
    "--config", required=True, metavar="FILE[:ARGUMENT]",
    help="a config by its file or name, with a variant after a colon, as in hdml_glyphs or "
    "configs/grid.py:triplet,cub; --config.KEY=VALUE overrides a key",
  )  # fmt: skip


def read(given: str, overrides: Sequence[tuple[str, str]]) -> "ConfigDict":
  """Reads the config of FILE or FILE:ARGUMENT and puts (KEY, VALUE) into it; it is locked then.

  Raises:
    UsageError: no such file or name, an argument that it does not take, a key that it does not
      have, or a value of another type.
  """
  config = _load(given)
  joined: dict[str, list[str]] = {}
  for key, text in overrides:
    joined.setdefault(key, []).append(text)
  for key, texts in joined.items():
    _set(config, key, texts)
  return config


class _Configs:
  """Finds `configs` and `configs.NAME`, of which one config imports another, in some folders."""

  def __init__(self, folders: Sequence[str]):
    self._folders = folders

  def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
    if name == "configs":
      spec = ModuleSpec(name, None, is_package=True)
      spec.submodule_search_locations = list(self._folders)
      return spec
    return PathFinder.find_spec(name, self._folders) if name.startswith("configs.") else None


@contextlib.contextmanager
def _imports_of(file: pathlib.Path, shipped: bool) -> Iterator[None]:
  """Lets a config import others as `configs.NAME`, wherever it lies.

  One of ours means ours. A file of one's own means what Python finds by that name, as anywhere;
  then what lies beside it; then ours, so that a copy of one of our files works alone.
  """
  ours = [str(SHIPPED)] if SHIPPED else []
  finder: Any = _Configs(ours if shipped else [str(file.parent), *ours])
  sys.meta_path.insert(0 if shipped else len(sys.meta_path), finder)
  if not shipped:  # Its own folder is a package to it, whatever the working directory.
    sys.path.append(str(file.parent.parent))
  try:
    yield
  finally:
    sys.meta_path.remove(finder)


def _find(name: str) -> tuple[pathlib.Path, bool]:
  """The file of a config, and whether it is one of ours, by its name; a file wins."""
  if os.path.isfile(name):
    return pathlib.Path(os.path.abspath(name)), False
  if SHIPPED and name in NAMES:
    return SHIPPED / f"{name}.py", True
  stem = pathlib.PurePath(name).stem
  if stem in NAMES:
    raise UsageError(f"--config={name}: no such file; --config={stem} is jaxdml's own of this name")
  raise UsageError(
    f"--config={name}: no such file, and none of jaxdml's own by name: {', '.join(NAMES)}"
    f"{nearest(stem, NAMES)}"
  )


def _load(given: str) -> "ConfigDict":
  name, colon, argument = given.partition(":")
  path, shipped = _find(name)
  spec = importlib.util.spec_from_file_location("config_file", path)
  if spec is None or spec.loader is None:
    raise UsageError(f"--config={name}: expected a file of Python")
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  try:
    with _imports_of(path, shipped):
      spec.loader.exec_module(module)
      if not hasattr(module, "get_config"):
        raise UsageError(f"{name} has no get_config()")
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
