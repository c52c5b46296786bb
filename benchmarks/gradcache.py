"""Time and memory of a step whose batch is encoded in chunks, beside all at once.

  python benchmarks/gradcache.py
  python benchmarks/gradcache.py --batch 4096 --chunks 0 64 --encoder vit_s16 --image_size 224

Forward and backward of an encoder and a multi-similarity loss over the whole batch; each row in a
process of its own, whose peak memory is taken. The gradients of all rows are compared.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import _machine
import _page
import numpy as np

TOLERANCE = 1e-4


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--encoder", default="convnet", help="an encoder's name")
  parser.add_argument("--batch", type=int, default=1024)
  parser.add_argument("--image_size", type=int, default=64)
  parser.add_argument("--chunks", type=int, nargs="+", default=[0, 256, 64], help="0: all at once")
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
  parser.add_argument("--gradient", help=argparse.SUPPRESS)
  return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
  """One chunk size in this process; prints a line of JSON and saves the gradient."""
  import jax
  import jax.numpy as jnp

  from jaxdml import losses, models
  from jaxdml.training.networks import encode_in_chunks

  encoder = models.create(args.encoder, frozen_bn=True)
  rng = np.random.default_rng(0)
  shape = (args.batch, args.image_size, args.image_size, 3)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  labels = jnp.arange(args.batch) // 4
  variables = jax.jit(lambda key: encoder.init(key, jnp.zeros((1, *shape[1:])), train=False))(
    jax.random.key(0)
  )
  base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  def loss(params, images):
    def encode(x):
      return encoder.apply(
        {**variables, "params": params}, x / 127.5 - 1.0, train=True, mutable=["batch_stats"]
      )

    features, _ = encode_in_chunks(encode, images, args.child)
    return losses.multi_similarity_loss(features, labels)

  step = jax.jit(jax.value_and_grad(loss)).lower(variables["params"], images).compile()
  value, gradient = jax.block_until_ready(step(variables["params"], images))
  start = time.perf_counter()
  jax.block_until_ready(step(variables["params"], images))
  seconds = time.perf_counter() - start
  np.save(args.gradient, np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)]))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(json.dumps({"loss": float(value), "seconds": seconds, "mb": (peak - base) / 1024}))


def main() -> None:
  """Measures every chunk size, prints the table and, if asked, writes it."""
  args = parse()
  if args.child is not None:
    return measure(args)
  lines = [
    "| images at a time | peak MB beyond model and images | s a step | gradient differs by |",
    "|---|---|---|---|",
  ]
  first = None
  for chunk in args.chunks:
    with tempfile.TemporaryDirectory() as folder:
      path = str(pathlib.Path(folder) / "gradient.npy")
      command = [sys.executable, __file__, *sys.argv[1:], f"--child={chunk}", f"--gradient={path}"]
      run = subprocess.run(command, capture_output=True, text=True, check=False)
      if run.returncode:
        raise SystemExit(f"{chunk} images at a time failed: {run.stderr[-2000:]}")
      figures, gradient = json.loads(run.stdout), np.load(path)
    first = gradient if first is None else first
    off = float(np.abs(gradient - first).max() / np.abs(first).max())
    if off > TOLERANCE:
      raise SystemExit(f"{chunk} images at a time: the gradient is off by {off:.1e}")
    lines.append(
      f"| {chunk or args.batch} | {figures['mb']:,.0f} | {figures['seconds']:.2f} | {off:.0e} |"
    )
    print(lines[-1], flush=True)
  lines.append(
    f"\n{args.encoder} with frozen BatchNorm, batch {args.batch:,}, {args.image_size} px, float32; "
    f"{_machine.describe()}."
  )
  print("\n".join(lines))
  if args.write:
    _page.write("gradcache", "\n".join(lines))


if __name__ == "__main__":
  main()
