"""Converts published weights: jaxdml convert --arch A --src FILE --out DIR."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxdml import models, pretrained
from jaxdml.commands import errors as command


def _parser() -> argparse.ArgumentParser:
  lines = ["what each --arch is made from:"]
  for arch, published in models.published_encoders().items():
    text = f"  {arch}: {published.file}"
    lines += textwrap.wrap(text, 90, subsequent_indent="    ", break_on_hyphens=False)
  lines += [
    "",
    "torchvision, timm and the others publish these files; an installed torchvision or timm",
    "downloads one when it makes the model with its weights. A .npz of Caffe's blobs comes from",
    "  numpy.savez(FILE, **{f'{layer}/{kind}': blob.data for layer, blobs in net.params.items()",
    "                       for kind, blob in zip(('weights', 'biases'), blobs)})",
    "in pycaffe, or of ONNX's model from its graph.initializer by name.",
  ]
  parser = argparse.ArgumentParser(
    prog="jaxdml convert",
    description="Turns a published file of weights into an Orbax checkpoint with a card (source, "
    "hash, preprocessing), every name and shape checked. Nothing in the file is run.",
    epilog="\n".join(lines),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  archs = list(models.published_encoders())
  parser.add_argument("--arch", required=True, choices=archs, help="the encoder")
  parser.add_argument(
    "--src", required=True, type=Path, metavar="FILE", help=".pth, .pt, .bin, .safetensors or .npz"
  )
  parser.add_argument(
    "--out", required=True, type=Path, metavar="DIR", help="made; config.encoder.init takes it"
  )
  parser.add_argument("--overwrite", action="store_true", help="replace weights that are in DIR")
  parser.add_argument(
    "--model-config",
    type=Path,
    metavar="FILE",
    help="timm's config.json, which says how pixels are prepared (default: config.json beside "
    "--src, if it is timm's; else as the arch's authors did)",
  )
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Converts one file; returns the exit status: 0, or 2 with one message on stderr."""
  args = _parser().parse_args(argv)
  try:
    pretrained.check_free(args.out, args.overwrite)
    weights, card = pretrained.convert(args.arch, args.src, model_config=args.model_config)
    pretrained.save(args.out, weights, card, overwrite=args.overwrite)
  except pretrained.ConvertError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  arrays = jax.tree.leaves({k: weights[k] for k in ("params", "batch_stats")})
  size = sum(array.size for array in jax.tree.leaves(weights["params"]))
  classifier = f"a classifier of {card.classes} classes" if card.classes else "no classifier"
  print(
    f"{card.arch}: {len(arrays)} arrays, {size:,} parameters, and {classifier}\n"
    f"from {card.source}, sha256 {card.sha256}\n"
    f"pixels: {card.preprocessing}\n"
    f"written to {args.out}; train with --config.encoder.name={card.arch} "
    f"--config.encoder.init={args.out}"
  )
  return 0


if __name__ == "__main__":
  sys.exit(command.run(main))
