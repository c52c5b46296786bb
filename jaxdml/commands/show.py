"""`jaxdml show`: what the network receives, as a picture.

Training batches after augmentation, a row a class. They come from the same code as in training, and
their pixels are normalised as on the device, then turned back.
"""

import argparse
import functools
import pathlib
from typing import TYPE_CHECKING

from jaxdml._text import bar_options
from jaxdml.commands import _config, _options
from jaxdml.commands._cli import Command, Parser, tell

if TYPE_CHECKING:
  import numpy as np
  from matplotlib.figure import Figure
  from ml_collections import ConfigDict

  from jaxdml import data


def look(config: "ConfigDict", batches: int) -> "Figure":
  """Draws the first batches that a config trains on, all of the global batch on one host.

  Save it with `figure.savefig(path)`; errors are those of training.
  """
  import jax
  import numpy as np
  from tqdm import tqdm

  from jaxdml import data, drawing
  from jaxdml.training import setup

  config = config.copy_and_resolve_references()
  # The batches are the same without workers, which take long to start for a few, and without the
  # weights, which need not be there to see pictures, unless these are of their size.
  config.data.num_workers = 0
  if config.data.image_size:
    config.encoder.init = ""
  config = setup.resolve(config, jax.device_count())
  train = setup.load_splits(config).train
  draw = setup.sampler(config, train)
  normalize = data.preprocess.from_config(config.data, train=True).normalize
  name = functools.partial(_name, config, train)
  bad = data.BadImages(train, config.data.max_bad_images)
  blocks = {}
  with setup.train_batches(config, train, draw, start=0, stop=batches, bad_images=bad) as source:
    for step, batch in enumerate(tqdm(source, total=batches, desc="batches", **bar_options())):
      images = normalize.undo(normalize(batch["image"]))
      label = batch["label"]
      # In the order in which the batch has them.
      classes = label[np.sort(np.unique(label, return_index=True)[1])]
      blocks[f"batch {step}: {len(label)} images, {len(classes)} classes"] = [
        drawing.Row(name(batch["index"][own]), images[own], batch["replaced"][own])
        for own in (label == c for c in classes)
      ]
  keys = config.data
  note = f"{keys.preprocess}, {keys.image_size} px, seed {config.seed}"
  if len(bad):
    note += f". Framed: stands in for an image that cannot be decoded ({len(bad)} met)"
  title = f"{train.name} {train.split} by {keys.label}: what the network receives ({keys.sampler})"
  return drawing.draw_batches(blocks, title, note)


def _name(config: "ConfigDict", train: "data.Dataset", records: "np.ndarray") -> str:
  """The class of some records, and before it their group where the sampler draws groups."""
  grouped = config.data.sampler == "hierarchical"
  shown = []
  for label in [*([config.data.coarse_label] if grouped else []), config.data.label]:
    value, names = int(train.column(label)[records[0]]), train.label_names(label)
    shown.append(names[value] if names and 0 <= value < len(names) else str(value))
  return " / ".join(shown)


def _add_options(parser: Parser) -> None:
  _config.add_option(parser)
  _options.add(parser, "batches")
  _options.add(
    parser, "out", default=pathlib.Path("batch.png"), help=".png, .pdf or .svg (batch.png)"
  )
  parser.epilog = _config.EXPLAINED


def _run(args: argparse.Namespace) -> int:
  _options.check_file("out", args.out, _options.PICTURES)
  config = _config.read(args.config, args.overrides)
  from jaxdml.data import ImageDecodeError

  try:
    figure = look(config, args.batches)
  except ImageDecodeError as error:  # The command was right: its data are damaged.
    tell(f"error: {error}")
    return 1
  args.out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(args.out)
  print(f"wrote {args.out}")
  return 0


COMMAND = Command("Draws the training batches that the network will receive", _add_options, _run)
