"""`jaxdml train`: one run, from a config to its results and report."""

import argparse
import functools
import pathlib
from typing import Any

from jaxdml.commands import _config, _options
from jaxdml.commands._cli import Command, Parser, tell

STOPPED = 143
"""The exit status of a run that SIGTERM ended early: as of any process that this signal ends."""


def _add_options(parser: Parser) -> None:
  _config.add_option(parser)
  _options.add(
    parser, "workdir", required=True,
    help="where checkpoints, metrics, results and report go; an unfinished run there is resumed",
  )  # fmt: skip
  _options.add(parser, "multihost")
  parser.epilog = _config.EXPLAINED


def _run(args: argparse.Namespace) -> int:
  config = _config.read(args.config, args.overrides)
  import jax

  if args.multihost:
    jax.distributed.initialize()
  from jaxdml.data import ImageDecodeError
  from jaxdml.training import loop

  report = functools.partial(_report, workdir=args.workdir) if config.train.report else None
  try:
    rows = loop.train_and_evaluate(config, args.workdir, finished=report)
  except ImageDecodeError as error:  # The command was right: its data are damaged.
    tell(f"error: {error}")
    return 1
  return STOPPED if rows is None else 0


def _report(run: Any, embedded: Any, workdir: pathlib.Path) -> None:
  """Writes report.html; the results are safe on disk, whatever becomes of it."""
  from jaxdml import report

  try:
    page = report.of_run(run, workdir=workdir, embedded=embedded)
    tell(f"wrote {report.write(page, workdir / 'report.html')}")
  except Exception as error:
    reason = " ".join(str(error).split())
    tell(
      f"no report was written: {type(error).__name__}: {reason}. The results are whole; "
      f"jaxdml report --workdir={workdir} tries again"
    )


COMMAND = Command(
  "Trains an encoder as a config says, or resumes it, and evaluates it", _add_options, _run,
  resumes="goes on from the last checkpoint",
  user_errors=(),  # A ValueError may come from a loss in the config's file: a traceback helps.
)  # fmt: skip
