"""1x1 convolutions on a CPU: XLA's convolution beside the matrix product, forward and backward.

  python benchmarks/pointwise.py [--write]

Shapes are those of EfficientNet-Lite0 and ResNet-50. The best of ten calls each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import _machine
import _page
import jax

from jaxdml.models import convolutions

# Side, channels in, channels out.
SHAPES = (
  (64, 16, 96),
  (32, 144, 24),
  (16, 240, 40),
  (8, 480, 80),
  (28, 512, 128),
  (14, 256, 1024),
)


def milliseconds(function: Callable, x: jax.Array, kernel: jax.Array) -> float:
  step = jax.jit(jax.grad(lambda x, k: (function(x, k, 1) ** 2).sum(), argnums=(0, 1)))
  jax.block_until_ready(step(x, kernel))
  times = []
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(step(x, kernel))
    times.append(time.perf_counter() - start)
  return 1e3 * min(times)


def main() -> None:
  """Measures every shape, prints the table and, if asked, writes it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  parser.add_argument("--images", type=int, default=16, help="(%(default)s)")
  args = parser.parse_args()
  lines = ["| images, side, channels | convolution ms | product ms | gain |", "|---|---|---|---|"]
  for side, inputs, outputs in SHAPES:
    n = args.images
    x = jax.random.normal(jax.random.key(0), (n, side, side, inputs))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, inputs, outputs))
    native = milliseconds(convolutions.native, x, kernel)
    product = milliseconds(convolutions._product, x, kernel)
    shape = f"{n}, {side}, {inputs} to {outputs}"
    lines.append(f"| {shape} | {native:.2f} | {product:.2f} | {native / product:.1f}x |")
  lines.append(f"\n{_machine.describe()}.")
  print("\n".join(lines))
  if args.write:
    _page.write("pointwise", "\n".join(lines))


if __name__ == "__main__":
  main()
