"""Draws what the network receives: training batches after augmentation, a row a class, as one PNG.

jaxdml show --config=configs/hdml_glyphs.py [--config.data.KEY=VALUE] [--batches=3]
[--out=batch.png]

The batches come from the same code as in training, and the pixels are normalised as on the device,
then turned back.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxdml import data, main
from jaxdml.drawing import batch as picture
from jaxdml.training import config as config_lib
from jaxdml.training import setup

__all__ = ["look"]

flags.declare_key_flag("config")
_BATCHES = flags.DEFINE_integer("batches", 3, "How many batches, from the first.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "batch.png", "The picture to write: .png, .pdf or .svg.")


def look(config: ConfigDict, batches: int) -> Figure:
  """Draws the first batches that a config trains on; save it with `figure.savefig(path)`.

  Args:
    config: every key of jaxdml/training/defaults.py.
    batches: how many, all of the global batch on one host.

  Raises:
    ConfigError: the config cannot run.
    DatasetNotPreparedError: the data set is not there.
    ImageDecodeError: too many images cannot be decoded.
    WorkerError: a process that prepares batches died.
  """
  config = config.copy_and_resolve_references()
  # The batches are the same without workers, which take long to start for a few, and without the
  # weights, which need not be there to see pictures.
  config.data.num_workers, config.encoder.init = 0, ""
  config = setup.resolve(config, jax.device_count())
  train = setup.load_splits(config).train
  draw = setup.sampler(config, train)
  normalize = data.preprocess.from_config(config.data, train=True).normalize
  name = functools.partial(_name, config, train)
  bad = data.BadImages(train, config.data.max_bad_images)
  blocks = {}
  with setup.train_batches(config, train, draw, start=0, stop=batches, bad_images=bad) as source:
    for step, batch in enumerate(tqdm(source, total=batches, desc="batches", disable=None)):
      images = normalize.undo(normalize(batch["image"]))
      label = batch["label"]
      # In the order in which the batch has them.
      classes = label[np.sort(np.unique(label, return_index=True)[1])]
      blocks[f"batch {step}: {len(label)} images, {len(classes)} classes"] = [
        picture.Row(name(batch["index"][own]), images[own], batch["replaced"][own])
        for own in (label == c for c in classes)
      ]
  keys = config.data
  note = f"{keys.preprocess}, {keys.image_size} px, seed {config.seed}"
  if len(bad):
    note += f". Framed: stands in for an image that cannot be decoded ({len(bad)} met)"
  title = f"{train.name} {train.split} by {keys.label}: what the network receives ({keys.sampler})"
  return picture.draw(blocks, title, note)


def _name(config: ConfigDict, train: data.Dataset, records: np.ndarray) -> str:
  """The class of some records, and before it their group where the sampler draws groups."""
  grouped = config.data.sampler == "hierarchical"
  shown = []
  for label in [*([config.data.coarse_label] if grouped else []), config.data.label]:
    value, names = int(train.column(label)[records[0]]), train.label_names(label)
    shown.append(names[value] if names and 0 <= value < len(names) else str(value))
  return " / ".join(shown)


def _main(argv: Sequence[str]) -> int:
  del argv
  out = pathlib.Path(_OUT.value)
  try:
    picture.check_suffix("--out", out)
  except ValueError as error:
    return main.fail(error, 2)
  try:
    figure = look(main.CONFIG.value, _BATCHES.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
  except (config_lib.ConfigError, data.DatasetNotPreparedError) as error:
    return main.fail(error, 2)
  except (data.ImageDecodeError, data.WorkerError) as error:
    return main.fail(error, 1)
  except (OSError, ValueError) as error:  # No such folder, or too large a picture.
    return main.fail(f"--out={out}: {error}", 2)
  print(f"wrote {out.resolve()}")
  return 0


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  parse = functools.partial(main.parse, required=("config",), command="jaxdml.commands.show")
  app.run(_main, flags_parser=parse)
