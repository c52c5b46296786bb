"""`jaxdml gallery`: neighbours of unseen images before and after training, as a picture."""

import argparse

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir", required=True)
  _options.add(parser, "out", required=True, help="the picture to write: .png, .pdf or .svg")
  _options.add(parser, "data_dir")
  _options.add(parser, "queries", help="query images, one a class (8, or as there are)")
  _options.add(parser, "k", help="neighbours of each (8, or as classes have)")
  _options.add(parser, "seed", help="draws the queries (0)")


def _run(args: argparse.Namespace) -> None:
  _options.check_file("out", args.out, _options.PICTURES)
  from jaxdml import drawing, training

  run = training.restore(args.workdir, data_dir=args.data_dir)
  figure = drawing.gallery_of_run(run, queries=args.queries, k=args.k, seed=args.seed)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(args.out)
  print(f"wrote {args.out}")


COMMAND = Command("Draws neighbours of unseen images before and after training", _add_options, _run)
