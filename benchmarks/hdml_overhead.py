"""What HDML adds to a plain N-pair training step: both steps in one process, in turns.

  python benchmarks/hdml_overhead.py
  python benchmarks/hdml_overhead.py --encoder googlenet --image-size 227 --batch 128

The whole step is timed: encoder forward and backward, losses, gradients of every group, Adam.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import machine
import numpy as np

from jaxdml.training import config as config_lib
from jaxdml.training import defaults, parallel, steps


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--encoder", default="resnet50", help="default: %(default)s")
  parser.add_argument("--image-size", type=int, default=112, help="default: %(default)s")
  parser.add_argument("--batch", type=int, default=32, help="default: %(default)s")
  parser.add_argument("--classes", type=int, default=98, help="default: %(default)s")
  parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (%(default)s)")
  parser.add_argument("--rounds", type=int, default=9, help="steps of each (default: %(default)s)")
  parser.add_argument("--limit", type=float, help="exit 1 if the median ratio is above this")
  return parser.parse_args()


def make_step(args: argparse.Namespace, hdml: bool):
  """(compiled step, replicated state) of the N-pair layout with or without HDML."""
  config = defaults.get_config()
  config.data.batch_size = args.batch
  config.data.image_size = args.image_size
  config.data.channels = 3
  config.data.sampler = "npair"
  config.data.images_per_class = 2
  config.encoder.name = args.encoder
  config.encoder.dtype = args.dtype
  config.loss.layout = "npair"
  config.hdml.enabled = hdml
  config_lib.check(config, jax.device_count())
  program = steps.build(
    config,
    num_classes=args.classes,
    total_steps=100,
    steps_per_epoch=100,
    axis_name=parallel.AXIS,
  )
  state = jax.jit(program.init)(jax.random.key(0))
  return parallel.compile_step(program.step), parallel.replicate(state)


def main() -> None:
  """Prints the times and their ratio."""
  args = parse()
  rng = np.random.default_rng(0)
  label = np.repeat(rng.permutation(args.classes)[: args.batch // 2], 2).astype(np.int32)
  shape = (args.batch, args.image_size, args.image_size, 3)
  batch = parallel.split({"image": rng.integers(0, 256, shape, np.uint8), "label": label})
  arms = {name: make_step(args, name == "HDML") for name in ("N-pair", "HDML")}
  times = {name: [] for name in arms}
  for turn in range(args.rounds + 2):
    for name, (step, state) in arms.items():
      begin = time.perf_counter()
      state, metrics = step(state, batch)
      jax.block_until_ready(metrics)
      arms[name] = (step, state)
      if turn >= 2:
        times[name].append(time.perf_counter() - begin)
  ratios = [h / n for h, n in zip(times["HDML"], times["N-pair"], strict=True)]
  print(machine.describe())
  print(f"{args.encoder}, {args.image_size} px, batch {args.batch}, {args.dtype}, seconds a step:")
  for name, values in times.items():
    low, high = min(values), max(values)
    print(f"  {name:7s} median {statistics.median(values):.3f}  (min {low:.3f}, max {high:.3f})")
  ratio = statistics.median(ratios)
  print(f"  HDML / N-pair, turn by turn: median {ratio:.3f}")
  if args.limit and ratio > args.limit:
    raise SystemExit(f"the ratio {ratio:.3f} is above the limit {args.limit}")


if __name__ == "__main__":
  main()
