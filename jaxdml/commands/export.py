"""Writes a trained model as files that need no jaxdml.

jaxdml export --workdir=runs/glyphs --out=exported --format=stablehlo,onnx
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxdml.commands import errors as command

__all__ = ["main"]

_MOST = 64  # images to compare on


def main(argv: Sequence[str] | None = None) -> int:
  """Exports a model; returns the exit status, 1 where a file differs from the model."""
  parser = argparse.ArgumentParser(
    prog="jaxdml export",
    description="Writes a trained model, with its normalisation and a card, as StableHLO or ONNX, "
    "and checks that the files give the model's embeddings.",
  )
  parser.add_argument("--workdir", required=True, help="of a run of python -m jaxdml.main")
  parser.add_argument("--out", required=True, help="the folder to write")
  parser.add_argument(
    "--format", default="stablehlo", help="stablehlo, onnx, or both with a comma (stablehlo)"
  )
  parser.add_argument("--batch", default="dynamic", help="images a call, or dynamic (dynamic)")
  parser.add_argument(
    "--images",
    default=None,
    help=f"folder; the first {_MOST} of it are compared on (random pixels)",
  )
  parser.add_argument(
    "--tolerance", type=float, default=1e-4, help="largest difference of a unit embedding (1e-4)"
  )
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import inference
  from jaxdml.data import ImageDecodeError
  from jaxdml.inference import exporting
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  try:
    if args.batch != "dynamic" and not args.batch.isdecimal():
      raise ValueError(f"--batch: expected a number or dynamic; got {args.batch!r}")
    trained = inference.load(args.workdir)
    for remark in trained.remarks:
      print(f"note: {remark}", file=sys.stderr)
    images = None if args.images is None else _read(trained, pathlib.Path(args.images))
    card = inference.export(
      trained,
      args.out,
      formats=args.format.split(","),
      batch=None if args.batch == "dynamic" else int(args.batch),
      images=images,
      tolerance=args.tolerance,
    )
  except inference.MismatchError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, inference.ExportError, ImageDecodeError,
    OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  for name, difference in card["largest_difference"].items():
    print(
      f"{pathlib.Path(args.out) / exporting.FORMATS[name]}: largest difference {difference:.2g} "
      f"on {card['compared_on']}"
    )
  print(f"{pathlib.Path(args.out) / exporting.CARD}: {card['encoder']}, step {card['step']}, "
        f"d = {card['dimension']}, fingerprint {card['fingerprint']}")  # fmt: skip
  return 0


def _read(trained: Any, folder: pathlib.Path) -> Any:
  """The first images below a folder, preprocessed: uint8 [n, h, w, c]."""
  import numpy as np

  from jaxdml.data import ImageDecodeError
  from jaxdml.data.picture_files import SUFFIXES, is_picture, walk

  if not folder.is_dir():
    raise ValueError(f"--images: expected a folder; there is none at {folder}")
  paths = [folder / path for path in sorted(filter(is_picture, walk(folder, links=True)))[:_MOST]]
  if not paths:
    raise ValueError(f"--images: expected images ({', '.join(SUFFIXES)}); none in {folder}")
  images = []
  for path in paths:
    try:
      images.append(trained.preprocess(path))
    except (ImageDecodeError, OSError) as error:
      print(f"left out: {path}: {error}", file=sys.stderr)
  if not images:
    raise ValueError(f"--images: none of the {len(paths)} in {folder} can be decoded")
  return np.stack(images)


if __name__ == "__main__":
  sys.exit(command.run(main))
