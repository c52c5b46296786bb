"""Steps and losses compiled for TPUs and GPUs, for benchmarks/compiled.py: each figure a file."""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import _configs
import _plain_steps
import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining, planning
from jaxdml.training import parallel

TARGETS = ("v5e:2x2", "v6e:2x2", "v5p:2x2x1", "h100")
SLICES = ("v5e:2x2", "v5e:4x4", "v5e:16x16")
SIZES = (4096, 16384, 65536)
DIM = 512
PRECISIONS = ("default", "high", "highest")

_VIT = {"encoder.frozen_bn": False, "data.image_size": 224}

# Name -> ((config, changes), classes, the network of `_plain_steps` to compare with, images that a
# TPU chip and a GPU has).
CONFIGS: dict[str, tuple[tuple[str, dict[str, Any]], int, str, tuple[int, int]]] = {
  "hdml_glyphs": (("hdml_glyphs.py", {}), 787, "", (32, 128)),
  "hdml_cars": (("hdml_cars.py", {}), 98, "googlenet", (32, 128)),
  "npair cars, the same without HDML": (("grid.py:npair,cars", {}), 98, "googlenet", (32, 128)),
  "margin, EPS, cars, fair: ResNet-50": (
    ("grid.py:margin,eps,cars,fair", {}), 98, "resnet50", (32, 128),
  ),
  "multi-similarity, SOP, 4,096 images by chunks of 128": (
    ("grid.py:multisimilarity,sop,fair", {"encoder.chunk_size": 128}), 11318, "", (1024, 4096),
  ),
  "multi-similarity, EPS, ViT-S/16": (
    ("grid.py:multisimilarity,eps,cars,fair", _VIT | {"encoder.name": "vit_s16"}),
    98, "vit_s16", (32, 128),
  ),
  "multi-similarity, EPS, DINOv2 ViT-S/14": (
    ("grid.py:multisimilarity,eps,cars,fair", _VIT | {"encoder.name": "dinov2_s14"}),
    98, "dinov2_s14", (32, 128),
  ),
  "finetune_photos: EfficientNet-Lite0, 128 px": (("finetune_photos.py", {}), 100, "", (32, 128)),
}  # fmt: skip

LOSSES: dict[str, Callable[..., Any]] = {
  "multi-similarity": losses.multi_similarity_loss,
  "margin, EPS, distance-weighted negative": functools.partial(
    losses.margin_loss,
    mining_fn=mining.chain(mining.nearest_positive, mining.distance_weighted_negative(dim=DIM)),
    key=jax.random.key(0),
  ),
  "triplet, EPS, semihard": functools.partial(
    losses.triplet_loss, mining_fn=mining.chain(mining.nearest_positive, mining.semihard_negative)
  ),
  "NT-Xent": losses.ntxent_loss,
}


def plain_loss(embeddings: jax.Array, labels: jax.Array, *, precision: str) -> jax.Array:
  """Multi-similarity with its miner in ten lines."""
  x = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
  s = jax.lax.dot_general(x, x, (((1,), (1,)), ((), ())), precision=precision)
  same = labels[:, None] == labels
  positive, negative = same & ~jnp.eye(len(x), dtype=bool), ~same
  least = jnp.where(positive, s, jnp.inf).min(1, keepdims=True) - 0.1
  most = jnp.where(negative, s, -jnp.inf).max(1, keepdims=True) + 0.1
  of_positives = jnp.where(positive & (s < most), jnp.exp(-2 * (s - 0.5)), 0).sum(1)
  of_negatives = jnp.where(negative & (s > least), jnp.exp(50 * (s - 0.5)), 0).sum(1)
  return (jnp.log1p(of_positives) / 2 + jnp.log1p(of_negatives) / 50).mean()


class Cells:
  """Figures by name, each a file of JSON that is made once."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    folder.mkdir(parents=True, exist_ok=True)

  def get(self, name: str) -> Any:
    """A figure that is there, or None."""
    path = self._path(name)
    return json.loads(path.read_text()) if path.exists() else None

  def make(self, name: str, make: Callable[[], Any]) -> None:
    """Makes a figure unless it is there."""
    if self._path(name).exists():
      return
    print(f"{name} ...", flush=True)
    start = time.perf_counter()
    figure = make()
    self._path(name).write_text(json.dumps(figure))
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)

  def _path(self, name: str) -> pathlib.Path:
    plain = "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
    return self.folder / f"{plain}.json"


def _count(compiled: jax.stages.Compiled, traced: jax.stages.Traced, target: Any) -> dict[str, Any]:
  """What this script keeps of a compiled program."""
  cost = planning.cost_of(compiled, traced.jaxpr, target.chip.platform)
  memory = compiled.memory_analysis()
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new
  return {
    "traffic": cost.traffic,
    "flops": sum(cost.flops.values()),
    "temp": memory.temp_size_in_bytes,
    "peak": peak + memory.generated_code_size_in_bytes,
  }


def plain_step(network: str, side: int, images: int, target: Any) -> dict[str, Any]:
  """A plain step's figures."""
  init, step = _plain_steps.step_of(network, "bfloat16", side, parallel.AXIS)
  state = jax.eval_shape(init, jax.random.key(0))
  batch = {
    "image": jax.ShapeDtypeStruct((images, side, side, 3), np.uint8),
    "label": jax.ShapeDtypeStruct((images,), np.int32),
  }
  traced = parallel.trace_step_for(step, state, batch, target.mesh(parallel.AXIS))
  return _count(target.compile(traced.lower()), traced, target)


def our_step(config: Any, classes: int, images: int, target: Any, largest: bool) -> dict[str, Any]:
  """A plan's figures."""
  plan = planning.plan(config, target, num_classes=classes, images_per_chip=images, search=largest)
  return plan.as_json()


def a_loss(fn: Callable[..., Any], size: int, target: Any) -> dict[str, Any]:
  """Value and gradient of a loss of `size` embeddings on one chip."""
  mesh = jax.sharding.Mesh(np.array(target.devices[:1]), ("chip",))
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  embeddings = jax.ShapeDtypeStruct((size, DIM), np.float32, sharding=here)
  labels = jax.ShapeDtypeStruct((size,), np.int32, sharding=here)
  traced = jax.jit(jax.value_and_grad(fn)).trace(embeddings, labels)
  lowered = traced.lower()
  start = time.perf_counter()
  compiled = target.compile(lowered)
  return {"seconds": time.perf_counter() - start} | _count(compiled, traced, target)


def make(cells: Cells, args: argparse.Namespace) -> None:
  """Makes the figures that are asked for and not there."""
  for name in args.target or TARGETS:
    target = planning.target(name)
    tpu = target.chip.platform == "tpu"
    if "steps" in args.part:
      for config_name, (config, classes, network, images) in CONFIGS.items():
        if args.step not in config_name:
          continue
        count = images[0] if tpu else images[1]
        ours = functools.partial(our_step, _configs.read(*config), classes, count, target)
        cells.make(f"step {config_name} {name}", functools.partial(ours, largest=False))
        if args.largest:
          cells.make(f"largest {config_name} {name}", functools.partial(ours, largest=True))
        if network:
          side = _configs.read(*config).data.image_size
          plain = functools.partial(plain_step, network, side, count, target)
          cells.make(f"plain {network} {side} {name}", plain)
    if "losses" in args.part and name in ("v5e:2x2", "h100"):
      plain = functools.partial(plain_loss, precision="high" if tpu else "highest")
      cells.make(f"loss plain 1024 {name}", functools.partial(a_loss, plain, 1024, target))
      for precision in PRECISIONS:
        ours = functools.partial(
          losses.multi_similarity_loss, distance_fn=distances.cosine.at(precision)
        )
        make_one = functools.partial(a_loss, ours, 1024, target)
        cells.make(f"precision {precision} {name}", make_one)
      for loss, fn in LOSSES.items():
        for size in (1024, *SIZES):
          make_one = functools.partial(a_loss, fn, size, target)
          cells.make(f"loss {loss} {size} {name}", make_one)
  if "scaling" in args.part:
    for name in SLICES:
      target = planning.target(name)
      config = _configs.read("hdml_cars.py")
      cells.make(f"scaling {name}", functools.partial(our_step, config, 98, 32, target, False))
