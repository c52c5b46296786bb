"""Flags only: python -m jaxdml.main --config=configs/hdml_glyphs.py --workdir=runs/glyphs."""

from __future__ import annotations

import ast
import difflib
import os
import runpy
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdml.data import DatasetNotPreparedError, ImageDecodeError, WorkerError
from jaxdml.training import loop
from jaxdml.training.checkpoints import CheckpointError
from jaxdml.training.config import ConfigError

# What the config's overrides are read from: the arguments that `parse` leaves.
_ARGV: list[str] = []
CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "A file in configs/; FILE:triplet,eps for a variant; override keys as --config.KEY=VALUE.",
  lock_config=True,
  sys_argv=_ARGV,
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints, metrics and results go; an unfinished run there is resumed."
)

_OPTIONS = (
  "encoder.options", "loss.distance_options", "loss.init_options", "loss.options", "mining.options",
)  # fmt: skip
_MULTIHOST = flags.DEFINE_bool(
  "multihost", False, "Join the other hosts first (TPU pods, Slurm): jax.distributed.initialize()."
)


def fail(message: object, code: int) -> int:
  """Prints an error; returns the exit status."""
  print(f"error: {message}", file=sys.stderr)
  return code


def _main(argv: Sequence[str]) -> int:
  del argv
  if _MULTIHOST.value:
    jax.distributed.initialize()
  try:
    loop.train_and_evaluate(CONFIG.value, _WORKDIR.value)
  except (ConfigError, DatasetNotPreparedError, CheckpointError) as error:
    return fail(error, 2)
  except (loop.NonFiniteError, ImageDecodeError, WorkerError) as error:
    return fail(error, 1)
  except OSError as error:  # A full disk, a --workdir that is a file, a folder of someone else.
    return fail(f"--workdir={_WORKDIR.value}: {type(error).__name__}: {error}", 1)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    return 130
  return 0


def _config_path(argv: Sequence[str]) -> str:
  """The value of --config, "" without one."""
  for arg, following in zip(argv, [*argv[1:], ""], strict=True):
    name, equals, value = arg.partition("=")
    if name.lstrip("-") == "config":
      return (value if equals else following).partition(":")[0]
  return ""


def _unknown_key(argv: Sequence[str]) -> str | None:
  """What is wrong with the first override whose key the config does not have."""
  config = runpy.run_path(_config_path(argv))["get_config"]()
  for arg in argv:
    if not arg.lstrip("-").startswith("config."):
      continue
    node, known = config, "config"
    for key in arg.lstrip("-").partition("=")[0].split(".")[1:]:
      if not isinstance(node, ConfigDict) or key not in node:
        valid = list(node) if isinstance(node, ConfigDict) else []
        near = difflib.get_close_matches(key, valid, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else "."
        return f"{arg}: {known} has no key {key!r}{guess} It takes: {', '.join(valid) or 'none'}"
      node, known = node[key], f"{known}.{key}"
  return None


def _into_options(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
  """argv without --config.mining.options.k=2 and its like, and those: {"mining.options.k": "2"}.

  The dictionaries of options are empty in most configs, so their keys are not the config's.
  """
  rest, found, skip = [], {}, False
  for arg, following in zip(argv, [*argv[1:], None], strict=True):
    key, equals, value = arg.lstrip("-").partition("=")
    section, _, name = key.removeprefix("config.").rpartition(".")
    if skip:
      skip = False
    elif not (arg.startswith("-") and key.startswith("config.") and section in _OPTIONS and name):
      rest.append(arg)
    elif equals or following is not None:
      found[f"{section}.{name}"], skip = (value if equals else following), not equals
  return rest, found


def _set_options(config: ConfigDict, found: dict[str, str]) -> None:
  for key, text in found.items():
    section, _, name = key.rpartition(".")
    options = config
    for part in section.split("."):
      options = options[part]
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      value = text
    with config.unlocked():
      try:
        options[name] = value
      except TypeError as error:
        raise SystemExit(fail(f"--config.{key}={text}: {error}", 2)) from error


def _wrong_argument(error: BaseException | None) -> str | None:
  """What a config file said of its argument, without the traceback that ml_collections wraps it in.

  None for any other error, a bug in the file for one: there the traceback helps.
  """
  innermost = error
  while error is not None:
    innermost, error = error, error.__cause__ or error.__context__
  message = str(innermost)
  ours = isinstance(innermost, ConfigError) or message.startswith("get_config() takes")
  return f"--config: {message}" if ours else None


def parse(
  argv: Sequence[str],
  required: Sequence[str] = ("config", "workdir"),
  command: str = "jaxdml.main",
) -> list[str]:
  """Parses the flags of a command that takes --config; mistakes end it with one line."""
  path = _config_path(argv)
  if path and not os.path.isfile(path):
    raise SystemExit(fail(f"--config={path}: no such file; see configs/", 2))
  if path:
    # So that one config can import another of its folder, whatever the working directory.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(path))))
  flags.mark_flags_as_required(required)
  argv, options = _into_options(argv)
  _ARGV[:] = argv
  try:
    rest = flags.FLAGS(list(argv))
  except (AttributeError, KeyError) as error:
    # How ml_collections says that the config lacks a key.
    message = _unknown_key(argv)
    if message is None:
      raise
    raise SystemExit(fail(message, 2)) from error
  except (flags.Error, TypeError, ValueError) as error:
    message = _wrong_argument(error) or error
    raise SystemExit(fail(f"{message}\nsee python -m {command} --help", 2)) from error
  if len(rest) > 1:
    raise SystemExit(fail(f"unknown arguments: {' '.join(rest[1:])}", 2))
  if options:
    _set_options(CONFIG.value, options)
  return rest


def run() -> None:
  """The console script."""
  logging.set_verbosity(logging.WARNING)
  app.run(_main, flags_parser=parse)


if __name__ == "__main__":
  run()
