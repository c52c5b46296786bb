"""`jaxdml export`: a trained model as files that need no jaxdml."""

import argparse
import pathlib
from typing import Any

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, UsageError, left_out, note

_MOST = 64  # images to compare on
_FORMATS = ("stablehlo", "onnx")


def _batch(text: str) -> int | None:
  if text == "dynamic":
    return None
  try:
    return _options.count(text)
  except argparse.ArgumentTypeError as error:
    raise argparse.ArgumentTypeError(f"{error}; or dynamic") from error


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir", required=True)
  _options.add(parser, "out", required=True, metavar="DIR", help="the folder to write")
  _options.add(
    parser, "format", type=_options.one_of(_FORMATS), help=f"{' and '.join(_FORMATS)} (stablehlo)"
  )
  _options.add(
    parser, "batch_size", type=_batch, default=None, help="images a call, or dynamic (dynamic)"
  )
  _options.add(parser, "images",
               help=f"a folder; the first {_MOST} images of it are compared on (random pixels)"
               )  # fmt: skip
  _options.add(parser, "tolerance")
  parser.epilog = "The files have the normalisation inside and a card beside them, and are checked."


def _run(args: argparse.Namespace) -> None:
  from jaxdml import inference
  from jaxdml.inference import exporting

  trained = inference.load(args.workdir)
  note(*trained.remarks)
  images = None if args.images is None else _read(trained, args.images)
  card = inference.export(
    trained, args.out, formats=args.format or _FORMATS[:1], batch=args.batch_size, images=images,
    tolerance=args.tolerance,
  )  # fmt: skip
  for name, difference in card["largest_difference"].items():
    print(
      f"{args.out / exporting.FORMATS[name]}: largest difference {difference:.2g} "
      f"on {card['compared_on']}"
    )
  print(f"{args.out / exporting.CARD}: {card['encoder']}, step {card['step']}, "
        f"d = {card['dimension']}, fingerprint {card['fingerprint']}")  # fmt: skip


def _read(trained: Any, folder: pathlib.Path) -> Any:
  """The first images below a folder, preprocessed: uint8 [n, h, w, c]."""
  import numpy as np

  from jaxdml.data import ImageDecodeError
  from jaxdml.inference import FolderImages

  source = FolderImages.open(folder)
  images = []
  rows = range(min(len(source), _MOST))
  for row in rows:
    try:
      images.append(trained.preprocess(source.read([row])[0]))
    except ImageDecodeError as error:
      left_out([(source.file(row), str(error))])
  if not images:
    raise UsageError(f"--images: none of the first {len(rows)} in {folder} can be decoded")
  return np.stack(images)


COMMAND = Command("Writes a trained model as StableHLO or ONNX", _add_options, _run)
