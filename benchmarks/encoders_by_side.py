"""Encoders on small images: milliseconds an image by its side, on this machine; no cliff between.

  python benchmarks/encoders_by_side.py [--write]

The best of several calls each, forward and with the gradient of all parameters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import _machine
import _page
import jax
import jax.numpy as jnp

from jaxdml import models

ENCODERS = ("resnet18", "resnet50", "googlenet", "bn_inception", "efficientnet_lite0", "convnet")
SIDES = (33, 48, 64, 65, 80, 96, 97, 112, 128, 160, 192, 224)


def milliseconds(call: Callable[[], object], calls: int) -> float:
  """The best of some calls after one that warms up."""
  jax.block_until_ready(call())
  times = []
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return 1e3 * min(times)


def both(name: str, side: int, images: int, calls: int) -> tuple[float, float]:
  """Milliseconds an image, forward and with the gradient."""
  encoder = models.create(name)
  x = jax.random.normal(jax.random.key(0), (images, side, side, 3))
  variables = encoder.init(jax.random.key(1), x[:1], train=False)

  @jax.jit
  def gradient(params, rest, x):
    def loss(params):
      y, _ = encoder.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats"])
      return jnp.sum(jnp.square(y))

    return jax.grad(loss)(params)

  forward = jax.jit(lambda variables, x: encoder.apply(variables, x, train=False))
  rest = {name: tree for name, tree in variables.items() if name != "params"}
  return (
    milliseconds(lambda: forward(variables, x), calls) / images,
    milliseconds(lambda: gradient(variables["params"], rest, x), calls) / images,
  )


def main() -> None:
  """Measures every encoder at every side, prints the table and, if asked, writes it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  parser.add_argument("--only", nargs="+", default=ENCODERS, help="encoders (all)")
  parser.add_argument("--sides", nargs="+", type=int, default=SIDES)
  parser.add_argument("--images", type=int, default=8, help="(%(default)s)")
  parser.add_argument("--calls", type=int, default=5, help="(%(default)s)")
  args = parser.parse_args()
  heads = " | ".join(map(str, args.sides))
  lines = [f"| encoder | {heads} | largest step |", "|---" * (len(args.sides) + 2) + "|"]
  for name in args.only:
    measured = [both(name, side, args.images, args.calls) for side in args.sides]
    cells = [f"{forward:.1f}, {backward:.1f}" for forward, backward in measured]
    # Between neighbours, what the pixels do not explain, either way, with the gradient.
    times = [backward for _, backward in measured]
    ratios = [
      times[i + 1] / times[i] * (args.sides[i] / args.sides[i + 1]) ** 2
      for i in range(len(times) - 1)
    ]
    largest = max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)
    lines.append(f"| `{name}` | {' | '.join(cells)} | {largest:.2f}x |")
    print(lines[-1], flush=True)
  lines.append(f"\n{_machine.describe()}.")
  print("\n".join(lines))
  if args.write:
    _page.write("sides", "\n".join(lines))


if __name__ == "__main__":
  main()
