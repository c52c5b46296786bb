"""Times on the device that is here, beside what `jaxdml plan` says of it; at most 8 minutes.

  python benchmarks/accelerator.py [--minutes 8] [--tiny]

For one GPU, TPU or the CPU: training steps of ResNet-50 and ViT-S/16 with margin loss and EPS, and
of GoogLeNet with and without HDML (compile time, step time, peak memory, and the least time that
the chip's published limits allow); losses of 1,024 to 32,768 embeddings, beside
pytorch-metric-learning where torch sees the device, too; Recall@K of 200,000 embeddings; images a
second of the input pipeline. What no longer fits the time is left out, and named. --tiny is for a
CPU, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import _configs
import _machine
import input_pipeline
import jax
import numpy as np

from jaxdml import data, evaluation, planning, training
from jaxdml.planning import program_cost
from jaxdml.planning.targets import per_second
from jaxdml.prepare import writing
from jaxdml.training import parallel, setup
from jaxdml.training import program as program_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSSES = ("multi_similarity", "margin", "triplet, EPS + semihard", "ntxent")
STEPS = {
  "margin, EPS, ResNet-50": ("margin,eps,cars,fair", {}),
  "margin, EPS, ViT-S/16": (
    "margin,eps,cars,fair",
    {"encoder.name": "vit_s16", "encoder.frozen_bn": False, "data.image_size": 224},
  ),
  "N-pair, GoogLeNet": ("npair,cars", {}),
  "N-pair with HDML, GoogLeNet": ("npair,hdml,cars", {}),
}


def chip_of(device: Any) -> planning.Chip | None:
  """The published limits of a device; None for one that is not among `planning.CHIPS`."""
  name = planning.name_of(device)
  return planning.CHIPS[name] if name else None


def seconds_of(call: Callable[[], Any], budget: float) -> float:
  """The median of as many calls as fit the budget, at least three, after one that warms up."""
  jax.block_until_ready(call())
  times = []
  while len(times) < 3 or sum(times) < budget:
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return float(np.median(times))


def step(names: str, changes: dict[str, Any], images: int, tiny: bool) -> str:
  """A row of the table of steps."""
  config = _configs.read(f"grid.py:{names}", {**changes, "data.batch_size": images})
  if tiny:
    config.data.image_size = 32
    if config.encoder.name == "vit_s16":
      config.encoder.options = {"depth": 1, "grid": 2}
    else:
      config.encoder.name = "convnet"
  resolved = training.resolve(config)
  program = program_lib.build(
    resolved, num_classes=98, total_steps=1000, steps_per_epoch=1000, axis_name=parallel.AXIS
  )
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), (parallel.AXIS,))
  abstract = jax.eval_shape(program.init, jax.random.key(0))
  batch = setup.abstract_batch(resolved, images)
  traced = parallel.trace_step_for(program.step, abstract, batch, mesh)
  lowered = traced.lower()
  start = time.perf_counter()
  compiled = lowered.compile()
  compile_seconds = time.perf_counter() - start
  device = jax.local_devices()[0]
  put = lambda tree: jax.device_put(jax.tree.map(lambda x: np.asarray(x)[None], tree), device)
  state = put(jax.jit(program.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(images // 2), 2)[:images] % 98
  arrays = put(
    {
      "image": rng.integers(0, 256, batch["image"].shape, np.uint8),
      "label": labels.astype(np.int32),
      "index": np.arange(images, dtype=np.int32),
    }
  )

  def call() -> Any:
    nonlocal state
    state, metrics = compiled(state, arrays)
    return metrics

  seconds = seconds_of(call, 0.1 if tiny else 5.0)
  peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
  chip, least, share = chip_of(device), "", ""
  if chip is not None:
    cost = program_cost.cost_of(compiled, traced.jaxpr, chip.platform)
    operations, bandwidth, _ = per_second(chip)
    arithmetic = sum(chip.passes[kind] * n for kind, n in cost.flops.items()) / operations
    bound = max(arithmetic, cost.traffic / bandwidth)
    least, share = f"{1e3 * bound:.1f}", f"{bound / seconds:.2f}"
  memory = compiled.memory_analysis()
  planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return (
    f"{images} | {compile_seconds:.0f} | {1e3 * seconds:.1f} | {images / seconds:,.0f} | "
    f"{'' if peak is None else f'{peak / 1e9:.2f}'} | {planned / 1e9:.2f} | {least} | {share} |"
  )


def loss(name: str, size: int) -> str:
  """A row of the table of losses, each library in a process of its own."""

  def measure(library: str) -> dict[str, Any] | None:
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    script = str(ROOT / "benchmarks" / "_losses_measure.py")
    done = subprocess.run(
      [sys.executable, script, library, name, str(size)],
      capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None

  ours = measure("jaxdml")
  theirs = measure("peer") if _machine.installed("torch", "pytorch_metric_learning") else None
  if ours is None:
    return "does not run here | | |"
  beside = ""
  if theirs is not None and (theirs["device"] == "cuda") == (ours["device"] in ("gpu", "cuda")):
    beside = f"{1e3 * theirs['seconds']:.2f} | {theirs['seconds'] / ours['seconds']:.1f}x"
  return f"{1e3 * ours['seconds']:.2f} | {ours['compile_seconds']:.1f} | {beside or ' | '} |"


def recall(items: int) -> str:
  """A line on searching embeddings of 512 among themselves."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(items, 512)).astype(np.float32)
  labels = np.arange(items) // 10
  start = time.perf_counter()
  evaluation.retrieval_metrics(x, labels, ks=(1, 10))
  return f"Recall@K and MAP@R of {items:,} x 512: {time.perf_counter() - start:.1f} s"


def pipeline(images: int, seconds: float) -> str:
  """A line on the batches that this machine's cores make."""
  workers = min(8, os.cpu_count() or 1)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    encoded = input_pipeline.photos(images, (640, 480))
    writing.write(input_pipeline.Source("image_folder/bench", encoded, images // 4), root)
    train = data.load("tfds:image_folder/bench", "train", data_dir=str(root))
    sampler = data.sampling.create("pk", train.column("label"), 32, 4)
    preprocess = data.preprocess.create("standard", 224, True, 3)
    options = {"label": "label", "seed": 0, "num_workers": workers}
    with data.train_batches(train, sampler, preprocess, **options) as batches:
      iterator = iter(batches)
      next(iterator)
      start, count = time.perf_counter(), 0
      while time.perf_counter() - start < seconds:
        count += len(next(iterator)["index"])
      rate = count / (time.perf_counter() - start)
  return f"input pipeline, 640 x 480 JPEGs to 224 pixels, {workers} workers: {rate:,.0f} images/s"


def main() -> None:
  """Measures one thing after another while there is time, and prints each as it comes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--minutes", type=float, default=8.0, help="(8)")
  parser.add_argument("--tiny", action="store_true", help="small sizes, for a CPU")
  args = parser.parse_args()
  end = time.perf_counter() + 60 * args.minutes
  left_out: list[str] = []
  tiny = args.tiny

  def row(name: str, make: Callable[[], str]) -> None:
    if time.perf_counter() > end:
      left_out.append(name)
      return
    print(f"{name}{make()}", flush=True)

  device = jax.local_devices()[0]
  chip = chip_of(device)
  limits = f"limits of {chip.name}" if chip else "no published limits known"
  print(f"{device.device_kind}, {limits}. {_machine.describe()}.\n")
  print(
    "| step | images | compile s | step ms | images/s | peak GB | planned GB | at least ms | "
    "share of that |\n|---|---|---|---|---|---|---|---|---|"
  )
  for name, (names, changes) in list(STEPS.items())[-1 if tiny else 0 :]:
    images = 8 if tiny else 128
    row(f"| {name} | ", lambda n=names, c=changes, i=images: step(n, c, i, tiny))
  row("\n", lambda: pipeline(*((64, 0.5) if tiny else (512, 10.0))))
  row("", lambda: recall(2000 if tiny else 200_000))
  print(
    "\n| loss, d=128 | batch | ms | compile s | pytorch-metric-learning ms | ours is |\n"
    "|---|---|---|---|---|---|"
  )
  for size in (64,) if tiny else (1024, 4096, 16384, 32768):
    for name in LOSSES[:1] if tiny else LOSSES:
      row(f"| {name} | {size:,} | ", lambda n=name, s=size: loss(n, s))
  if left_out:
    names = "; ".join(name.strip(" |\n") or "input pipeline or Recall@K" for name in left_out)
    print(f"\nLeft out after {args.minutes:g} minutes: {names}")


if __name__ == "__main__":
  main()
