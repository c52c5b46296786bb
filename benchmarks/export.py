"""Encoders, exported in both formats: do they convert, and how far are embeddings off?

python benchmarks/export.py [--encoder=NAME ...]      (needs the extra: pip install '.[export]')

Random weights and 8 images of random pixels; a small size of input, an open batch. Also how many
nodes the ONNX graph has, and the milliseconds of one core that the 8 images take ONNX Runtime and
JAX, in one process in turns (the least of 9, of all threads together, so that others on the machine
count for little). Prints the table of docs/export.md.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdml import inference, training
from jaxdml.inference import exporting
from jaxdml.training import networks as networks_lib
from jaxdml.training.trained import fingerprint

SMALL = (
  "convnet", "googlenet", "googlenet_bn", "bn_inception", "resnet18", "resnet50",
  "efficientnet_lite0", "convnext_tiny", "vit_s16", "dinov2_s14",
)  # fmt: skip
"""The smallest ones of each family."""
SIZES = {"convnet": 32, "vit_s16": 64, "dinov2_s14": 56}  # pixels; the others 64


def untrained(name: str, image_size: int | None = None) -> inference.TrainedModel:
  """A model of random weights."""
  config = training.default_config()
  config.encoder.name = name
  config.data.image_size = image_size or SIZES.get(name, 64)
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


def nodes_and_times(trained: inference.TrainedModel, path: pathlib.Path) -> str:
  """The cell of an ONNX file: its nodes; ONNX Runtime's time, JAX's."""
  import onnx
  import onnxruntime

  options = onnxruntime.SessionOptions()
  # Its threads wait in a loop for work, which would count.
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
  images = np.random.default_rng(0).integers(0, 256, (8, *trained.image_shape), dtype=np.uint8)
  runs = lambda: session.run(None, {"images": images}), lambda: trained.embed_batch(images)
  times = np.min([[_cpu_time(run) for run in runs] for _ in range(9)], axis=0)
  count = len(onnx.load(path).graph.node)
  return f"{count} | {' | '.join(f'{1e3 * seconds:.0f}' for seconds in times)}"


def _cpu_time(run: Callable[[], Any]) -> float:
  start = time.process_time()
  run()
  return time.process_time() - start


def main() -> None:
  """Prints one row an encoder."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--encoder", nargs="*", default=SMALL)
  parser.add_argument("--image_size", type=int, help="pixels, in place of each one's small size")
  rows = []
  args = parser.parse_args()
  for name in tqdm(args.encoder, disable=None):
    trained, cells = untrained(name, args.image_size), []
    for form in exporting.FORMATS:
      with tempfile.TemporaryDirectory() as folder:
        try:
          card = inference.export(trained, pathlib.Path(folder) / "out", formats=[form])
        except inference.ExportError as error:
          cells.append(f"no: {error}")
          continue
        path = pathlib.Path(folder) / "out" / exporting.FORMATS[form]
        size = path.stat().st_size
        cells.append(f"{card['largest_difference'][form]:.1e} ({size / 1e6:.1f} MB)")
        if form == "onnx":
          cells.append(nodes_and_times(trained, path))
    rows.append(f"| `{name}` | {trained.image_shape[0]} | {' | '.join(cells)} |")
  print("| encoder | pixels | stablehlo | onnx | nodes | ONNX Runtime, ms | JAX, ms |")
  print(f"|{'---|' * 7}")
  print("\n".join(rows))
  versions = {k: v for k, v in card["versions"].items() if k != "jaxdml"}
  print(f"\n{json.dumps(versions)}")


if __name__ == "__main__":
  main()
