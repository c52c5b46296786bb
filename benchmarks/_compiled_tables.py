"""The tables that benchmarks/compiled.py makes of its figures."""

from __future__ import annotations

import pathlib

import _configs
import jax
import jax.numpy as jnp
import numpy as np
from _compiled_measure import CONFIGS, DIM, LOSSES, PRECISIONS, SIZES, SLICES, TARGETS, Cells

from jaxdml import planning

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "accelerators.md"


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
      ratio, side = "", _configs.read(*config).data.image_size
      plain = cells.get(f"plain {network} {side} {name}")
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


def with_kept(lines: list[str], old: list[str], footer: str) -> list[str]:
  """The table of steps with the page's rows of steps that were not compiled now.

  Args:
    lines: the table's.
    old: the page's table, its footer last.
    footer: the machine and the versions of `lines`.

  Raises:
    SystemExit: rows would be lost, as they are of another machine or of other versions.
  """
  order = [(config, target) for config in CONFIGS for target in TARGETS]
  new = {_step_of(row): row for row in lines[2:]}
  kept = {_step_of(row): row for row in old[2:] if row.startswith("|")}
  kept = {step: row for step, row in kept.items() if step in order and step not in new}
  if kept and old[-1] != footer:
    lost = "; ".join(", ".join(step) for step in kept)
    raise SystemExit(f"{PAGE.name} has steps of {old[-1]} Compile them here, too: {lost}")
  both = {**new, **kept}
  return lines[:2] + [both[step] for step in order if step in both]


def _step_of(row: str) -> tuple[str, str]:
  """The config and the target of a row of the table of steps."""
  config, target = (cell.strip() for cell in row.split("|")[1:3])
  name, _, _ = config.rpartition(", ")  # without "32 a chip"
  return (name if name in CONFIGS else config), target


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
