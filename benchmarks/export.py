"""Every encoder, exported in both formats: does it convert, and how far are its embeddings off?

python benchmarks/export.py [--encoder=NAME ...]      (needs the extra: pip install '.[export]')

Random weights and 8 images of random pixels; a small size of input, an open batch. Prints the table
of docs/export.md.
"""

import argparse
import json
import pathlib
import tempfile

import jax
import numpy as np
from tqdm import tqdm

from jaxdml import inference, models, training
from jaxdml.inference import exporting
from jaxdml.training import networks as networks_lib
from jaxdml.training.trained import fingerprint

SIZES = {"convnet": 32, "vit_s16": 64, "dinov2_s14": 56}  # pixels; the others 64


def untrained(name: str) -> inference.TrainedModel:
  """A model of random weights."""
  config = training.default_config()
  config.encoder.name = name
  config.data.image_size = SIZES.get(name, 64)
  if name != "convnet":
    config.data.channels, config.data.preprocess = 3, "standard"
  config = training.resolve(config)
  networks = networks_lib.build(config)
  keys = dict(zip(("encoder", "embedding"), jax.random.split(jax.random.key(0)), strict=True))
  parts = jax.tree.map(np.asarray, jax.jit(networks.init)(keys))
  variables = {
    kind: {part: v[kind] for part, v in parts.items() if kind in v}
    for kind in ("params", "batch_stats")
  }
  return inference.TrainedModel(
    workdir=pathlib.Path(),
    config=config,
    step=0,
    dimension=config.embedding.dim,
    fingerprint=fingerprint(config, variables),
    variables=variables,
    embed=networks.embed,
  )


def main() -> None:
  """Prints one row an encoder."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  small = [name for name in models.ENCODERS
           if name in SIZES or not isinstance(models.create(name), models.ViT)]  # fmt: skip
  parser.add_argument("--encoder", nargs="*", default=small)
  rows = []
  for name in tqdm(parser.parse_args().encoder, disable=None):
    trained, cells = untrained(name), []
    for form in exporting.FORMATS:
      with tempfile.TemporaryDirectory() as folder:
        try:
          card = inference.export(trained, pathlib.Path(folder) / "out", formats=[form])
        except inference.ExportError as error:
          cells.append(f"no: {error}")
          continue
        size = (pathlib.Path(folder) / "out" / exporting.FORMATS[form]).stat().st_size
      cells.append(f"{card['largest_difference'][form]:.1e} ({size / 1e6:.1f} MB)")
    rows.append(f"| `{name}` | {trained.image_shape[0]} | {' | '.join(cells)} |")
  print(f"| encoder | pixels | {' | '.join(exporting.FORMATS)} |")
  print(f"|---|---|{'---|' * len(exporting.FORMATS)}")
  print("\n".join(rows))
  versions = {k: v for k, v in card["versions"].items() if k != "jaxdml"}
  print(f"\n{json.dumps(versions)}")


if __name__ == "__main__":
  main()
