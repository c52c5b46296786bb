"""`jaxdml convert`: published weights to a checkpoint that `encoder.init` takes."""

import argparse
import dataclasses
import textwrap

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser


def _add_options(parser: Parser) -> None:
  from jaxdml import models

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
    "in pycaffe, or of ONNX's model from its graph.initializer by name. Every name and shape is",
    "checked, and nothing in the file is run.",
  ]
  parser.epilog = "\n".join(lines)
  one = _options.one_of(list(models.published_encoders()))
  parser.add_argument("--arch", type=one, help="the encoder (the one that the names are of)")
  _options.add(parser, "source", required=True, metavar="FILE", type=str,
               help="the published file: .pth, .pt, .bin, .safetensors or .npz; a folder with one; "
               "or hf:ORG/NAME[@REVISION]")  # fmt: skip
  _options.add(parser, "out", required=True, metavar="DIR",
               help="made; config.encoder.init takes it")  # fmt: skip
  _options.add(parser, "overwrite", help="replace weights that are in DIR")
  _options.add(parser, "model_config")


def _run(args: argparse.Namespace) -> None:
  import jax

  from jaxdml import pretrained
  from jaxdml.pretrained import hub

  pretrained.check_free(args.out, args.overwrite)
  found = hub.locate(args.source, args.arch or "")
  arch = args.arch or hub.arch_of(args.source, found)
  weights, card = pretrained.convert(arch, found.path, model_config=args.model_config)
  card = dataclasses.replace(card, source=found.name)
  pretrained.save(args.out, weights, card, overwrite=args.overwrite)
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


COMMAND = Command(
  "Converts a published file of weights into a checkpoint to start from", _add_options, _run
)
