"""`jaxdml report`: what a run's model learned, as one HTML file."""

import argparse

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir", required=True)
  _options.add(parser, "out", help="the file to write (WORKDIR/report.html)")
  _options.add(parser, "data_dir")
  _options.add(parser, "queries", default=8, help="lines of each gallery (8)")
  _options.add(parser, "k", default=8, help="neighbours of each query (8)")
  _options.add(parser, "max_points", "seed")
  parser.epilog = "The run may still be training, or stopped: nothing of it is changed."


def _run(args: argparse.Namespace) -> None:
  out = args.out or args.workdir / "report.html"
  _options.check_file("out", out, (".html", ".htm"))
  from jaxdml import report, training

  run = training.restore(args.workdir, data_dir=args.data_dir)
  page = report.of_run(run, workdir=args.workdir, queries=args.queries, k=args.k,
                       max_points=args.max_points, seed=args.seed)  # fmt: skip
  out = report.write(page, out)
  print(
    f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB; all classes, and what each is taken for, are "
    f"in {out.stem}_classes.csv and {out.stem}_confusions.csv beside it"
  )


COMMAND = Command("Writes what a run's model learned as one HTML file", _add_options, _run)
