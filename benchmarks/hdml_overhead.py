"""HDML's addition to a plain N-pair training step: both steps in one process, in turns.

  python benchmarks/hdml_overhead.py
  python benchmarks/hdml_overhead.py --encoder googlenet --image-size 227 --batch 128

The whole step is timed: encoder forward and backward, losses, gradients of every group, Adam.

  python benchmarks/hdml_overhead.py --after-encoder --limit-ms 60 --limit-mb 500

times what comes after the encoder instead: embedding, HDML with N-pair, head; the value and the
gradients of the features (1024-d) and of every parameter (d=512). Then EPS beside all positives, in
turns, in batches of 4 images a class with 16 partners synthesised for each anchor.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time

import _machine
import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import hdml, models, training
from jaxdml.training import defaults, parallel
from jaxdml.training import program as program_lib


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
  parser.add_argument("--after-encoder", action="store_true", help="time that alone, at batch 128")
  parser.add_argument("--limit-ms", type=float, help="exit 1 if its fastest call takes longer")
  parser.add_argument("--limit-mb", type=float, help="exit 1 if its peak memory is above this")
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
  program = program_lib.build(
    training.resolve(config, jax.device_count()),
    num_classes=args.classes,
    total_steps=100,
    steps_per_epoch=100,
    axis_name=parallel.AXIS,
  )
  state = jax.jit(program.init)(jax.random.key(0))
  return parallel.compile_step(program.step), parallel.replicate(state)


def peak_mb() -> float:
  """Peak resident set of this process so far, in MB (10^6 bytes)."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def after_encoder(classes: int, eps: bool | None = None, fold: bool = True):
  """(gradient function, arguments) of all that follows an encoder with 1024-d features.

  Args:
    classes: of the head.
    eps: None: N-pair's own layout; else all pairs of 4 images a class, with or without EPS.
    fold: as in training; else layer by layer, every synthetic feature made.
  """
  config = defaults.get_config()
  config.encoder.name = "googlenet"
  config.embedding.dim = 512
  config.data.image_size, config.data.channels, config.data.batch_size = 227, 3, 128
  config.loss.options = {"l2_reg": 3e-3}
  config.hdml.enabled = True
  per_class = 2 if eps is None else 4
  config.data.images_per_class = per_class
  if eps is None:
    config.loss.layout = config.data.sampler = "npair"
  else:
    config.mining.positive = "nearest_positive" if eps else "all_positives"
    config.hdml.slots = 16
  parts_of = {"num_classes": classes, "total_steps": 100, "steps_per_epoch": 100}
  program = program_lib.build(training.resolve(config), **parts_of)
  parts, shapes = program.parts, jax.eval_shape(program.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  normal = lambda a, scale=0.03: jnp.asarray(scale * rng.normal(size=a.shape), jnp.float32)
  names = ("embedding", "generator", "head")
  params = {name: jax.tree.map(normal, shapes.params[name]) for name in names}
  batch_stats = {n: jax.tree.map(normal, shapes.batch_stats[n]) for n in ("embedding", "generator")}
  # Windows in which negatives are pulled and synthetic tuples weigh as much as real ones.
  windows = hdml.HdmlState(hdml.init_window(130.0), hdml.init_window(1.4e4), jnp.float32(130.0))
  state = shapes._replace(batch_stats=batch_stats, hdml=windows)
  y = normal(np.empty((128, 1024)), 1.0)
  labels = jnp.asarray(np.repeat(np.arange(128 // per_class), per_class), jnp.int32)
  embedding = models.Embedding(config.embedding.dim)

  def total(params, y):
    variables = {"params": params["embedding"], "batch_stats": batch_stats["embedding"]}
    z, updates = embedding.apply(variables, y, train=True, mutable=["batch_stats"])
    stats = batch_stats | {"embedding": updates["batch_stats"]}
    networks = parts.networks(state, stats, y)
    return hdml.objective(
      networks if fold else networks._replace(layers=None),
      params,
      y,
      z,
      labels,
      windows,
      loss_fn=parts.metric.bind(params),
      distance_fn=parts.metric.distance_fn,
      reduce_fn=parts.metric.reduce_fn,
      additive=parts.metric.additive,
      layout=parts.metric.layout,
      config=parts.hdml,
      mining_fn=parts.metric.mining_fn,
      key=jax.random.key(1),
    )

  return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True)), (params, y)


def in_turns(calls: dict, rounds: int) -> dict[str, list[float]]:
  """Milliseconds of each call, one of each in turn."""
  times = {name: [] for name in calls}
  for turn in range(rounds + 2):
    for name, (fn, arguments) in calls.items():
      begin = time.perf_counter()
      jax.block_until_ready(fn(*arguments))
      if turn >= 2:
        times[name].append(1e3 * (time.perf_counter() - begin))
  return times


def measure_after_encoder(args: argparse.Namespace) -> None:
  """Prints time, memory and what EPS adds."""
  step, arguments = after_encoder(args.classes)
  base = peak_mb()
  compiled = step.lower(*arguments).compile()
  compiling = peak_mb() - base
  jax.block_until_ready(compiled(*arguments))
  memory = peak_mb() - base
  side = jnp.ones((4096, 512)), jnp.ones((512, 512))
  product = jax.jit(jnp.matmul)
  times = in_turns({"step": (compiled, arguments), "product": (product, side)}, 10 * args.rounds)
  fastest = {name: min(values) for name, values in times.items()}
  rate = 2 * 4096 * 512 * 512 / fastest["product"] / 1e6
  print(_machine.describe())
  print("after the encoder: HDML with N-pair, batch 128, d=512, 1024-d features, float32")
  median = statistics.median(times["step"])
  print(f"  forward and backward: min {fastest['step']:.1f} ms, median {median:.1f} ms")
  begin = time.process_time()
  for _ in range(args.rounds):
    jax.block_until_ready(compiled(*arguments))
  processor = 1e3 * (time.process_time() - begin) / args.rounds
  print(f"  processor time: {processor:.1f} ms over all cores, whatever else runs")
  print(f"  a product of 4096 x 512 by 512 x 512 meanwhile: {rate:.0f} GFLOP/s at best")
  print(f"  peak memory: {memory:.0f} MB with compilation, which alone takes {compiling:.0f} MB;")
  temporary = compiled.memory_analysis().temp_size_in_bytes / 1e6
  print(f"  {temporary:.0f} MB of temporary arrays a call")
  plain, arguments = after_encoder(args.classes, fold=False)
  plain = plain.lower(*arguments).compile()
  times = in_turns({"folded": (compiled, arguments), "plain": (plain, arguments)}, 3 * args.rounds)
  medians = {name: statistics.median(values) for name, values in times.items()}
  temporary = plain.memory_analysis().temp_size_in_bytes / 1e6
  print(
    f"  layer by layer, in turns with it: median {medians['plain']:.1f} ms to "
    f"{medians['folded']:.1f}, {temporary:.0f} MB of temporary arrays"
  )
  arms = {"all positives": False, "EPS": True}
  calls = {name: after_encoder(args.classes, eps) for name, eps in arms.items()}
  times = in_turns(calls, 10 * args.rounds)
  pairs = zip(times["EPS"], times["all positives"], strict=True)
  ratio = statistics.median(a / b for a, b in pairs)
  best = min(times["EPS"]) / min(times["all positives"])
  print(f"  EPS / all positives, 16 partners each: median {ratio:.3f}, of the fastest {best:.3f}")
  if args.limit_ms and fastest["step"] > args.limit_ms:
    raise SystemExit(f"{fastest['step']:.1f} ms is above the limit of {args.limit_ms}")
  if args.limit_mb and memory > args.limit_mb:
    raise SystemExit(f"{memory:.0f} MB is above the limit of {args.limit_mb}")


def main() -> None:
  """Prints the times and their ratio."""
  args = parse()
  if args.after_encoder:
    measure_after_encoder(args)
    return
  rng = np.random.default_rng(0)
  label = np.repeat(rng.permutation(args.classes)[: args.batch // 2], 2).astype(np.int32)
  shape = (args.batch, args.image_size, args.image_size, 3)
  batch = parallel.split(
    {"image": rng.integers(0, 256, shape, np.uint8), "label": label, "index": np.arange(args.batch)}
  )
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
  print(_machine.describe())
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
