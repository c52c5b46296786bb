"""Flags only: python -m jaxdml.main --config=configs/hdml_glyphs.py --workdir=runs/glyphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
from jaxdml.training import loop
from jaxdml.training.checkpoints import CheckpointError
from jaxdml.training.config import ConfigError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file in configs/; override keys as --config.KEY=VALUE.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints, metrics and results go; an unfinished run there is resumed."
)

_USER_ERRORS = (ConfigError, DatasetNotPreparedError, CheckpointError)


def _main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  try:
    loop.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
  except _USER_ERRORS as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except (loop.NonFiniteError, ImageDecodeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def _parse(argv: Sequence[str]) -> list[str]:
  flags.mark_flags_as_required(["config", "workdir"])
  try:
    return flags.FLAGS(list(argv))
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # ml_collections raises AttributeError or KeyError for a key that the config does not have.
    reason = str(error).replace("\\n", " ").replace("\\'", "'").strip("'\"")
    print(f"error: {reason}\nsee python -m jaxdml.main --help", file=sys.stderr)
    sys.exit(2)


def run() -> None:
  """The console script."""
  logging.set_verbosity(logging.WARNING)
  app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
  run()
