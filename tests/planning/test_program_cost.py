"""Costs read from programs, against the same by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.planning import program_cost

MESH = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("chips",))


def flops(fn, *args, platform="cpu"):
  return program_cost.flops_of(jax.jit(fn).trace(*args).jaxpr, platform)


def test_products_and_convolutions():
  x, y = jnp.ones((8, 16)), jnp.ones((16, 32))
  assert flops(jnp.dot, x, y) == {"default": 2 * 8 * 16 * 32}
  highest = functools.partial(jnp.dot, precision="highest")
  assert flops(highest, x, y) == {"highest": 2 * 8 * 16 * 32}
  assert flops(jnp.dot, *(a.astype(jnp.bfloat16) for a in (x, y))) == {"bfloat16": 2 * 8 * 16 * 32}
  image, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 4))
  convolve = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(2, 2), padding="SAME", feature_group_count=2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  assert flops(convolve, image, kernel) == {"default": 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)}


def test_a_gradient_costs_each_product_again():
  """As XLA counts a program that has no loops."""
  x, kernel = jnp.ones((2, 16, 16, 8)), jnp.ones((3, 3, 8, 8))

  def loss(kernel, x):
    convolve = functools.partial(
      jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return jnp.sum(jnp.square(convolve(convolve(x, kernel), kernel)))

  once = 2 * (2 * 16 * 16 * 8) * (3 * 3 * 8)
  # Both forward, both kernels' gradients, and one gradient of an input.
  assert flops(jax.grad(loss), kernel, x) == {"default": 5 * once}


def test_loops_count_as_often_as_they_run():
  x = jnp.ones((4, 4))
  scan = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=7)[0]
  assert flops(scan, x) == {"default": 7 * 2 * 4**3}
  assert flops(lambda x: jax.lax.map(lambda a: a @ x, jnp.stack([x] * 3)), x) == {
    "default": 3 * 2 * 4**3
  }


def test_what_no_result_needs_costs_nothing():
  x = jnp.ones((4, 4))
  assert flops(lambda x: (x @ x, jnp.sum(x))[1], x) == {}
  twice = jax.jit(lambda x: (x @ x, x @ x.T))
  assert flops(lambda x: twice(x)[0], x) == {"default": 2 * 4**3}


def test_the_branch_of_the_platform():
  x = jnp.ones((4, 4))

  def fn(x):
    return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

  assert flops(fn, x, platform="cpu") == {"default": 2 * 2 * 4**3}
  assert flops(fn, x, platform="tpu") == {"default": 2 * 4**3}
  branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)
  assert flops(branches, x) == {"default": 2 * 2 * 4**3}


def test_traffic_of_a_fusion_is_its_operands_and_results():
  x = jnp.ones((256, 256))
  compiled = jax.jit(lambda x: jnp.sin(x) * 2 + 1).lower(x).compile()
  assert program_cost.traffic_of(compiled.as_text())[0] == 2 * 4 * 256 * 256


def test_a_loop_reads_of_a_stack_only_its_slice():
  stack = jnp.ones((64, 128, 128))
  total = lambda stack: jax.lax.scan(lambda c, a: (c + jnp.sin(a), None), stack[0], stack)[0]
  compiled = jax.jit(total).lower(stack).compile()
  moved, each = program_cost.traffic_of(compiled.as_text())[0], 4 * 128 * 128
  # A slice and the sum read, the sum written, each time; and what begins and ends the loop.
  assert 64 * 3 * each <= moved <= 64 * 3 * each + 8 * each


def test_collectives_with_their_bytes():
  spec = jax.sharding.PartitionSpec("chips")

  @jax.jit
  @functools.partial(jax.shard_map, mesh=MESH, in_specs=spec, out_specs=spec)
  def fn(x):
    everything = jax.lax.all_gather(x, "chips")
    return x + jax.lax.psum(x, "chips") + jnp.sum(jnp.sin(everything))

  text = fn.lower(jnp.ones((64, 32))).compile().as_text()
  found = program_cost.traffic_of(text)[1]
  assert found == {"all-gather": (1, 4 * 64 * 32), "all-reduce": (1, 4 * 16 * 32)}


def test_collectives_in_a_loop():
  spec = jax.sharding.PartitionSpec("chips")

  @jax.jit
  @functools.partial(jax.shard_map, mesh=MESH, in_specs=spec, out_specs=spec, check_vma=False)
  def fn(x):
    add = lambda total, a: (total + jax.lax.psum(total * a, "chips"), None)
    return jax.lax.scan(add, x[0], x)[0][None]

  text = fn.lower(jnp.ones((20, 32))).compile().as_text()
  assert program_cost.traffic_of(text)[1] == {"all-reduce": (5, 5 * 4 * 32)}


TPU = """
HloModule jit_f, is_scheduled=true

%fused (p0: f32[8,128], p1: f32[8,128]) -> f32[8,128] {
  %p0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %add = f32[8,128]{1,0:T(8,128)} add(%p0, %p1)
}

ENTRY %main (a: f32[8,128], b: f32[32,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[32,128]{1,0:T(8,128)} parameter(1)
  %slice-start = ((f32[32,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:8], [0:128]}
  %slice-done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  ROOT %fusion = f32[8,128]{1,0:T(8,128)} fusion(%a, %slice-done), kind=kLoop, calls=%fused
}
"""  # noqa: E501


def test_memory_on_the_chip_is_not_its_main_one():
  block = 4 * 8 * 128
  # Of b a piece, once; a copied, once; the fusion reads a and writes its result.
  assert program_cost.traffic_of(TPU)[0] == pytest.approx(block + block + 2 * block, rel=0.01)


LOOP = """
HloModule jit_f

%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %x = f32[64]{0:T(128)} get-tuple-element(%p), index=1
  %sine = f32[64]{0:T(128)} sine(%x)
  ROOT %tuple = (s32[]{:T(128)}, f32[64]{0:T(128)}) tuple(%n, %sine)
}

%condition (q: (s32[], f32[64])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(12)
  %q = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %n.1 = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n.1, %constant.1), direction=LT
}

ENTRY %main (a: (s32[], f32[64])) -> (s32[], f32[64]) {
  %a = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  ROOT %while = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%a), condition=%condition, body=%body
}
"""


def test_a_loop_that_says_its_count_in_its_condition_alone():
  assert program_cost.traffic_of(LOOP)[0] == 12 * 2 * 4 * 64
