"""Compiles steps and losses for TPUs and GPUs that are not here: what their compilers say of them.

  pip install '.[plan-tpu,plan-gpu]'
  JAX_PLATFORMS=cpu python benchmarks/compiled.py --out=runs/accelerators [--part PART]
    [--target TARGET] [--step TEXT] [--largest] [--write]

Parts: steps (configs beside the same networks with a softmax head, written plainly in flax),
scaling (hdml_cars on ever more chips) and losses (one loss alone, up to 65,536 embeddings). A
figure is a file in --out, and one that is there is not made again, so an interrupted run goes on.
--write puts the tables into docs/accelerators.md; steps that were not compiled now stay there, if
they are of the same machine and versions. Quiet, a step takes from ten seconds (GPU) to two
minutes (TPU).
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import _configs
import _machine
import _page
import _plain_steps
import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining, planning
from jaxdml.training import parallel

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "accelerators.md"
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
    98, "", (32, 128),
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
  own = compiled.cost_analysis() or {}
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new
  return {
    "traffic": cost.traffic,
    "flops": sum(cost.flops.values()),
    "temp": memory.temp_size_in_bytes,
    "peak": peak + memory.generated_code_size_in_bytes,
    "xla_bytes": own.get("bytes accessed"),  # None for a GPU
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
  """A plan, and XLA's own count of bytes."""
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


def steps_table(cells: Cells) -> list[str]:
  """Configs x targets."""
  lines = [
    "| step | chips | compile s | GB a chip | largest | traffic MB an image | GFLOP an image | "
    "images/s a chip at most | bound by | traffic, peak GB to the plain step's |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for config_name, (config, _, network, _) in CONFIGS.items():
    for name in TARGETS:
      plan = cells.get(f"step {config_name} {name}")
      if plan is None:
        continue
      step = plan["step"]
      if step is None:
        lines.append(f"| {config_name} | {name} | does not fit | | | | | | | |")
        continue
      ratio, plain = (
        "",
        cells.get(f"plain {network} {_configs.read(*config).data.image_size} {name}"),
      )
      if plain is not None:
        ratio = f"{step['traffic_bytes'] / plain['traffic']:.3f}, "
        ratio += f"{step['peak_bytes'] / plain['peak']:.3f}"
      found = cells.get(f"largest {config_name} {name}")
      largest = "" if found is None else f"{found['largest']} ({found['largest_because']})"
      images = step["images"]
      lines.append(
        f"| {config_name}, {images} a chip | {name} | {step['compile_seconds']:.0f} | "
        f"{step['peak_bytes'] / 1e9:.2f} | {largest} | "
        f"{step['traffic_bytes'] / images / 1e6:.1f} | "
        f"{step['flops'] / images / 1e9:.2f} | {step['images_per_second']:,.0f} | "
        f"{step['bound']} | {ratio} |"
      )
  return lines


def with_kept(lines: list[str], footer: str) -> list[str]:
  """The table of steps with the page's rows of steps that were not compiled now.

  Args:
    lines: the table's.
    footer: the machine and the versions, as under the page's table.

  Raises:
    SystemExit: rows would be lost, as they are of another machine or of other versions.
  """
  cells_of = lambda row: [cell.strip() for cell in row.strip("|").split("|")]
  key = lambda row: (cells_of(row)[0].rpartition(", ")[0], cells_of(row)[1])
  old = _page.read("steps", PAGE)
  new = {key(row): row for row in lines[2:]}
  kept = {key(row): row for row in old[2:] if row.startswith("|") and key(row) not in new}
  if kept and old[-1] != footer:
    lost = "; ".join(f"{step}, {target}" for step, target in kept)
    raise SystemExit(f"{PAGE.name} has steps of {old[-1]} Compile them here, too: {lost}")
  place = lambda item: (list(CONFIGS).index(item[0][0]), TARGETS.index(item[0][1]))
  return lines[:2] + [row for _, row in sorted([*new.items(), *kept.items()], key=place)]


def scaling_table(cells: Cells) -> list[str]:
  """hdml_cars at 32 images a chip on ever more chips."""
  lines = [
    "| chips | global batch | GB a chip | traffic GB a chip | all-gather MB | all-reduce MB | "
    "others MB | images/s in all at most |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for name in SLICES:
    plan = cells.get(f"scaling {name}")
    if plan is None:
      continue
    step, chips = plan["step"], plan["chips"]
    sums = {kind: x["bytes"] / 1e6 for kind, x in step["collectives"].items()}
    gathered, reduced = sums.pop("all-gather", 0.0), sums.pop("all-reduce", 0.0)
    lines.append(
      f"| {name}, {chips} | {32 * chips:,} | {step['peak_bytes'] / 1e9:.2f} | "
      f"{step['traffic_bytes'] / 1e9:.2f} | {gathered:.2f} | {reduced:.1f} | "
      f"{sum(sums.values()):.2f} | {step['images_per_second'] * chips:,.0f} |"
    )
  return lines


def losses_table(cells: Cells) -> list[str]:
  """Losses alone: memory in float32 matrices of all pairs."""
  sizes = " | ".join(f"B={size:,}" for size in SIZES)
  lines = [
    f"| loss, d={DIM} | chip | compile s, B=1,024 | traffic MB, B=1,024 | {sizes} |",
    "|---|---|---|---|---|---|---|",
  ]
  for name in ("v5e:2x2", "h100"):
    plain = cells.get(f"loss plain 1024 {name}")
    if plain is not None:
      lines.append(
        f"| ten lines of multi-similarity | {name} | {plain['seconds']:.1f} | "
        f"{plain['traffic'] / 1e6:.1f} | | | |"
      )
    for loss in LOSSES:
      first = cells.get(f"loss {loss} 1024 {name}")
      if first is None:
        continue
      memory = []
      for size in SIZES:
        found = cells.get(f"loss {loss} {size} {name}")
        square = 4 * size**2
        memory.append(
          "" if found is None else f"{found['temp'] / 1e6:,.0f} MB, {found['temp'] / square:.2f}"
        )
      lines.append(
        f"| {loss} | {name} | {first['seconds']:.1f} | {first['traffic'] / 1e6:.1f} | "
        f"{' | '.join(memory)} |"
      )
  return lines


def precision_table(cells: Cells) -> list[str]:
  """The matmul precision of the distances: time to compile, and the error of a cosine."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(512, DIM)).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  exact = x.astype(np.float64) @ x.astype(np.float64).T
  parts = _parts(x)
  products = {
    "default": _sum_of([(parts[0], parts[0])]),
    "high": _sum_of([(parts[0], parts[0]), (parts[0], parts[1]), (parts[1], parts[0])]),
    "highest": x @ x.T,
  }
  lines = [
    "| precision | passes of a TPU | error of a cosine | compile s, v5e | compile s, h100 |",
    "|---|---|---|---|---|",
  ]
  for precision in PRECISIONS:
    passes = planning.CHIPS["v5e"].passes[precision]
    error = np.abs(products[precision] - exact).max()
    found = [cells.get(f"precision {precision} {name}") for name in ("v5e:2x2", "h100")]
    seconds = ["" if cell is None else f"{cell['seconds']:.1f}" for cell in found]
    lines.append(f"| {precision} | {passes:.0f} | {error:.1e} | {' | '.join(seconds)} |")
  return lines


def _parts(x: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """x as the sum of two bfloat16 numbers, nearly: what a TPU multiplies."""
  first = jnp.asarray(x).astype(jnp.bfloat16)
  return first, (jnp.asarray(x) - first.astype(jnp.float32)).astype(jnp.bfloat16)


def _sum_of(pairs: list[tuple[jax.Array, jax.Array]]) -> np.ndarray:
  """Products of bfloat16 matrices, summed in float32."""
  of = lambda a, b: jnp.matmul(a, b.T, preferred_element_type=jnp.float32)
  return np.asarray(sum(of(a, b) for a, b in reversed(pairs)))


def main() -> None:
  """Makes the figures, prints the tables and, if asked, writes them."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parts = ("steps", "losses", "scaling")
  parser.add_argument("--part", nargs="+", choices=parts, default=parts)
  parser.add_argument("--target", nargs="+", help="of parts steps and losses (all)")
  parser.add_argument("--step", default="", help="of part steps, those with this in their name")
  parser.add_argument("--largest", action="store_true", help="seek the largest batches, too")
  parser.add_argument("--write", action="store_true", help="replace the tables in the docs")
  args = parser.parse_args()
  if not any(args.step in name for name in CONFIGS):
    parser.error(f"--step={args.step}: expected part of one of: {'; '.join(CONFIGS)}")
  cells = Cells(args.out)
  make(cells, args)
  footer = f"{_machine.describe()}."
  tables = {}
  if "steps" in args.part:
    lines = steps_table(cells)
    tables["steps"] = with_kept(lines, footer) if args.write else lines
  if "scaling" in args.part:
    tables["scaling"] = scaling_table(cells)
  if "losses" in args.part and not args.target:  # These stand for both chips or not at all.
    tables |= {"losses": losses_table(cells), "precision": precision_table(cells)}
  for name, lines in tables.items():
    text = "\n".join([*lines, "", footer])
    print(f"\n{text}")
    if args.write:
      _page.write(name, text, PAGE)


if __name__ == "__main__":
  main()
