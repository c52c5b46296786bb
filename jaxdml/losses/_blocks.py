"""Anchors a block at a time, so that memory is linear in the batch.

The gradient of a sum over blocks is written by hand (`jax.custom_vjp`), so that nothing is stored
and nothing computed twice.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

from jaxdml._arguments import together
from jaxdml.losses import reducers
from jaxdml.losses._rows import hoist, partition, zeros
from jaxdml.types import Array, PyTree

# Distances held at a time: what a CPU's cache holds several times, or keeps an accelerator busy.
CPU_ELEMENTS, _ACCELERATOR_ELEMENTS = 2**20, 2**26
# On a CPU, anchors that make a matrix product worth while; the more references, whose gradient each
# block adds to, the more anchors at a time, for up to 16 times as many distances.
_CPU_ROWS, _CPU_MOST_ROWS, _COLUMNS_PER_ROW = 128, 512, 64


class Sizes(NamedTuple):
  """Anchors of a block where a program runs on a CPU, and where it runs on anything else."""

  cpu: int
  other: int


def default_sizes(n: int, elements_per_anchor: int) -> Sizes:
  """Anchors at a time, so that their distances fit a CPU's cache or a part of a GPU's memory.

  An anchor needs `elements_per_anchor` distances after mining: m, or m times its rows. n itself
  while everything fits.
  """

  def size(budget: int, least: int) -> int:
    most = max(budget // elements_per_anchor, least, 8)
    if n * elements_per_anchor <= budget or most >= n:
      return n
    power = 1 << (most.bit_length() - 1)  # matrix products like round sizes
    return power if n >= 4 * power else -(-n // -(-n // most))

  rows = min(max(_CPU_ROWS, elements_per_anchor // _COLUMNS_PER_ROW), _CPU_MOST_ROWS)
  least = min(rows, 16 * CPU_ELEMENTS // elements_per_anchor)
  return Sizes(size(CPU_ELEMENTS, least), size(_ACCELERATOR_ELEMENTS, 1))


def by_platform(fn: Callable[..., PyTree], sizes: Sizes, *operands: PyTree) -> PyTree:
  """fn(size, *operands) with the size of the platform that the program is lowered for.

  The host's own backend says nothing about that: a step for a TPU may be compiled on a CPU machine.
  Do not differentiate through it, as both programs would leave what they store.
  """
  if sizes.cpu == sizes.other:
    return fn(sizes.cpu, *operands)
  of_size = lambda size: lambda *operands: fn(size, *operands)
  return jax.lax.platform_dependent(*operands, cpu=of_size(sizes.cpu), default=of_size(sizes.other))


def split(tree: PyTree, n: int, block_size: int) -> tuple[PyTree, Array]:
  """Arrays [n, ...] as [blocks, block_size, ...], and which rows are real.

  Padding repeats the last row, so that nothing new can overflow.
  """
  blocks = -(-n // block_size)
  pad = blocks * block_size - n

  def cut(a):
    a = jnp.concatenate([a, jnp.repeat(a[-1:], pad, axis=0)]) if pad else a
    return a.reshape(blocks, block_size, *a.shape[1:])

  return jax.tree.map(cut, tree), (jnp.arange(blocks * block_size) < n).reshape(blocks, block_size)


class Blocks(NamedTuple):
  """Rows to be taken a block at a time."""

  rows: PyTree  # arrays [n, ...]; integers, booleans and keys get no gradient
  # (rows, size) -> pytree of [blocks, size, ...]; closes over no traced array.
  cut: Callable[[PyTree, int], PyTree]
  sizes: Sizes


def map_values(fn: Callable[[PyTree], PyTree], cut: PyTree, shared: PyTree) -> PyTree:
  """fn of each block, stacked, for values without gradient; fn may read `shared`.

  Outside any program fn is traced once and then carried out a block at a time: `jax.lax.map` would
  compile it anew at every such call, which takes twenty times as long as the call.
  """
  leaves, tree = jax.tree.flatten(cut)
  if [a for a in leaves + jax.tree.leaves(shared) if isinstance(a, jax.core.Tracer)]:
    return jax.lax.map(fn, cut)
  first = tree.unflatten(map(operator.itemgetter(0), leaves))
  traced, shape = jax.make_jaxpr(fn, return_shape=True)(first)
  carry_out = jax.extend.core.jaxpr_as_fun(traced)
  parts = [carry_out(*map(operator.itemgetter(i), leaves)) for i in range(len(leaves[0]))]
  return jax.tree.unflatten(jax.tree.structure(shape), map(jnp.stack, zip(*parts, strict=True)))


def map_blocks(fn: Callable[[PyTree], PyTree], blocks: Blocks) -> PyTree:
  """fn of each block, stacked; the gradient computes each block again instead of storing it.

  What it stores depends on the size, so that is the smaller one on every platform.
  """
  cut = blocks.cut(blocks.rows, min(blocks.sizes))
  return jax.lax.map(jax.checkpoint(fn, prevent_cse=False), cut)


def sum_blocks(
  fn: Callable[[PyTree, PyTree], tuple[Array, PyTree]], blocks: Blocks, shared: PyTree
) -> tuple[Array, PyTree]:
  """Sums fn(block, shared) -> (scalar, aux) over the blocks.

  When it is differentiated, each block's gradient is taken while the block is at hand and only
  scaled later: the sum's gradient is one number times the gradients of the blocks. The aux are
  summed too, without gradient. Reverse mode only. `fn` may close over traced arrays; floats among
  them get their gradients as well.
  """
  first = lambda rows, size: jax.tree.map(lambda x: x[0], blocks.cut(rows, size))
  calls, captured = {}, {}
  for size in dict.fromkeys(blocks.sizes):
    example = jax.eval_shape(lambda rows, size=size: first(rows, size), blocks.rows)
    calls[size], captured[size] = hoist(fn, example, shared)
  rows, row_others, merge_rows = partition(blocks.rows)
  same, same_others, merge_same = partition((shared, captured))

  def cut_at(size, rows, row_others):
    """Floats of the blocks, their other leaves, and the function that puts both together again."""
    return partition(blocks.cut(merge_rows(rows, row_others), size))

  def of_block(size, merge, cut, others, same, same_others):
    shared, captured = merge_same(same, same_others)
    return calls[size](captured[size], merge(cut, others), shared)

  def start_of(step, cut, others):
    first = lambda cut, others: step(*jax.tree.map(lambda x: x[0], (cut, others)))
    return zeros(jax.eval_shape(first, cut, others))

  def values(size, rows, same, row_others, same_others):
    cut, others, merge = cut_at(size, rows, row_others)
    step = lambda cut, others: of_block(size, merge, cut, others, same, same_others)
    add = lambda total, block: (jax.tree.map(jnp.add, total, step(*block)), None)
    return jax.lax.scan(add, start_of(step, cut, others), (cut, others))[0]

  def values_and_gradients(size, rows, same, row_others, same_others):
    cut, others, merge = cut_at(size, rows, row_others)
    pull_rows = jax.vjp(lambda rows: cut_at(size, rows, row_others)[0], rows)[1]

    def body(carry, block):
      (total, bars), (cut, others) = carry, block
      of_floats = lambda cut, same: of_block(size, merge, cut, others, same, same_others)
      value, pull, aux = jax.vjp(of_floats, cut, same, has_aux=True)
      cut_bar, bar = pull(jnp.ones_like(value))
      bars = [a + b.astype(a.dtype) for a, b in zip(bars, bar, strict=True)]
      return (jax.tree.map(jnp.add, total, (value, aux)), bars), cut_bar

    step = lambda cut, others: of_block(size, merge, cut, others, same, same_others)
    # Summed in float32 or more; they go back in their owners' dtype.
    wide = [jnp.zeros_like(x, jnp.promote_types(x.dtype, jnp.float32)) for x in same]
    start = (start_of(step, cut, others), wide)
    (result, bars), cut_bars = jax.lax.scan(body, start, (cut, others))
    return result, pull_rows(cut_bars)[0], bars

  @jax.custom_vjp
  def total(rows, same, row_others, same_others):
    return by_platform(values, blocks.sizes, rows, same, row_others, same_others)

  def forward(rows, same, row_others, same_others):
    operands = (rows, same, row_others, same_others)
    result, row_bars, bars = by_platform(values_and_gradients, blocks.sizes, *operands)
    return result, (row_bars, bars, [jnp.zeros((), x.dtype) for x in same])

  def backward(residuals, cotangents):
    row_bars, bars, dtypes = residuals
    scale = cotangents[0]
    bars = [(scale * b).astype(like.dtype) for b, like in zip(bars, dtypes, strict=True)]
    return [(scale * b).astype(b.dtype) for b in row_bars], bars, None, None

  total.defvjp(forward, backward)
  return total(rows, same, row_others, same_others)


def reduce_blocks(
  sums: Callable, reduce_fn: reducers.Linear, blocks: Blocks, shared, axis_name, poison=0.0
) -> Array:
  """The reduced loss through memory once; twice where several terms have denominators.

  sums(block, shared) gives `reduce_fn.sums` of a block's rows; `poison` is added to the numerator.
  """
  first = lambda rows: jax.tree.map(lambda a: a[0], blocks.cut(rows, blocks.sizes.cpu))
  numerator, denominator = jax.eval_shape(lambda rows: sums(first(rows), shared), blocks.rows)
  poison = jnp.asarray(poison, numerator.dtype)
  if denominator is None or numerator.shape[0] == 1:
    one = lambda block, shared: (lambda v, c: (jnp.sum(v), c))(*sums(block, shared))
    value, count = sum_blocks(one, blocks, shared)
    value = value[None] if denominator is not None else value
    return reduce_fn.finish(value + poison, count, axis_name)

  # Each term has a denominator of its own, which must be known before the terms can be added up.
  def counts(size, rows, shared):
    of_blocks = jax.lax.map(lambda block: sums(block, shared)[1], blocks.cut(rows, size))
    return jnp.sum(of_blocks, axis=0)

  fixed = jax.lax.stop_gradient((blocks.rows, shared))
  count = by_platform(counts, blocks.sizes, *fixed)
  if axis_name is not None:
    count = jax.lax.psum(count, axis_name)
  share = jax.lax.stop_gradient(jnp.where(count > 0, 1.0 / jnp.where(count > 0, count, 1.0), 0.0))
  share = together(share, fixed)
  scaled = lambda block, shared: (jnp.sum(share * sums(block, shared)[0]), ())
  value, _ = sum_blocks(scaled, blocks, shared)
  return reducers.global_sum(value + poison, axis_name)
