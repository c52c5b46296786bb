"""Compile time of a ViT's training step, its blocks one after the other and under a scan.

  python benchmarks/vit_compile.py                      # ViT-L/14, 4 images of 224 pixels
  python benchmarks/vit_compile.py --depths 6 12 24 48  # its growth with the depth
  JAX_PLATFORMS=cpu python benchmarks/vit_compile.py --target v5e:1x1 --batch 32  # a chip's

The step is the margin loss of a batch, its gradient and Adam. Shapes alone are compiled, so that no
model takes memory; docs/encoders.md has the figures.
"""

from __future__ import annotations

import argparse
import time

import _machine
import jax
import jax.numpy as jnp
import optax

from jaxdml import losses, models, planning


def compiled(
  encoder: models.ViT, batch: int, size: int, target: planning.Target | None
) -> tuple[float, float, float]:
  """Seconds to trace and lower, seconds and CPU seconds to compile, for a chip or this machine."""
  optimizer = optax.adam(1e-4)

  def step(params, moments, images, labels):
    def loss(params):
      return losses.margin_loss(encoder.apply({"params": params}, images, train=True), labels)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, updates), moments, value

  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  init = lambda key, images: encoder.init(key, images, train=False)["params"]
  params = jax.eval_shape(init, jax.random.key(0), images)
  moments = jax.eval_shape(optimizer.init, params)
  shapes = params, moments, images, labels
  if target is not None:
    here = jax.sharding.SingleDeviceSharding(target.devices[0])
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes
    )  # fmt: skip
  start = time.perf_counter()
  lowered = jax.jit(step, donate_argnums=(0, 1)).trace(*shapes).lower()
  traced, used = time.perf_counter(), time.process_time()
  target.compile(lowered) if target else lowered.compile()
  return traced - start, time.perf_counter() - traced, time.process_time() - used


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--encoder", default="dinov2_l14", help="(%(default)s)")
  parser.add_argument("--depths", type=int, nargs="+", default=[24], help="blocks (%(default)s)")
  parser.add_argument("--batch", type=int, default=4, help="images (%(default)s)")
  parser.add_argument("--size", type=int, default=224, help="of a side (%(default)s)")
  parser.add_argument("--target", help="a chip that is not here, as v5e:1x1 (this machine)")
  args = parser.parse_args()
  target = planning.target(args.target) if args.target else None
  dtype = jnp.bfloat16 if target else jnp.float32
  jax.config.update("jax_enable_compilation_cache", False)
  print("| blocks | scan | traced, s | compiled, s | CPU seconds |\n|---|---|---|---|---|")
  for depth in args.depths:
    for scan in (False, True):
      encoder = models.create(args.encoder).clone(depth=depth, scan=scan, dtype=dtype)
      figures = compiled(encoder, args.batch, args.size, target)
      print(f"| {depth} | {scan} |", " | ".join(f"{x:.1f}" for x in figures), "|", flush=True)
  where = f" for {args.target}, bfloat16" if target else ""
  print(
    f"\n{args.encoder}, {args.batch} images of {args.size} pixels{where}; {_machine.describe()}."
  )


if __name__ == "__main__":
  main()
