"""Anchors a block at a time: how big a block is, and sums whose gradient is found on the way."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.losses import reducers
from jaxdml.losses.closures import hoist, partition
from jaxdml.types import Array, PyTree

__all__ = ["default_block_size", "map_blocks", "reduce_blocks", "split", "sum_blocks"]

# Distances held at a time: what a CPU's cache holds several times, or keeps an accelerator busy.
_CPU_ELEMENTS, _ACCELERATOR_ELEMENTS = 2**20, 2**26
# On a CPU, anchors that make a matrix product worth while; the more references, whose gradient each
# block adds to, the more anchors at a time, for up to 16 times as many distances.
_CPU_ROWS, _CPU_MOST_ROWS, _COLUMNS_PER_ROW = 128, 512, 64


def default_block_size(n: int, elements_per_anchor: int) -> int:
  """Anchors at a time, so that their distances fit a CPU's cache or a part of a GPU's memory.

  Args:
    n: anchors in all.
    elements_per_anchor: distances that one anchor needs after mining (m, or m times its rows).

  Returns:
    n itself while everything fits.
  """
  on_cpu = jax.default_backend() == "cpu"
  budget = _CPU_ELEMENTS if on_cpu else _ACCELERATOR_ELEMENTS
  if n * elements_per_anchor <= budget:
    return n
  rows = min(max(_CPU_ROWS, elements_per_anchor // _COLUMNS_PER_ROW), _CPU_MOST_ROWS)
  least = min(rows, 16 * budget // elements_per_anchor) if on_cpu else 1
  most = max(budget // elements_per_anchor, least, 8)
  if most >= n:
    return n
  power = 1 << (most.bit_length() - 1)  # matrix products like round sizes
  return power if n >= 4 * power else -(-n // -(-n // most))


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


def map_blocks(fn: Callable[[PyTree], PyTree], blocks: PyTree) -> PyTree:
  """fn of each block, stacked; the gradient computes each block again instead of storing it."""
  return jax.lax.map(jax.checkpoint(fn, prevent_cse=False), blocks)


def sum_blocks(
  fn: Callable[[PyTree, PyTree], tuple[Array, PyTree]], blocks: PyTree, shared: PyTree
) -> tuple[Array, PyTree]:
  """Sums fn(block, shared) -> (scalar, aux) over the blocks.

  When it is differentiated, each block's gradient is taken while the block is at hand and only
  scaled later, so nothing is stored and nothing computed twice. That is right because the sum's
  gradient is one number times the gradients of the blocks. The aux are summed too, without
  gradient. Reverse mode only.

  Args:
    fn: may close over traced arrays; floats among them get their gradients as well.
    blocks: pytree of [blocks, block_size, ...]; integers, booleans and keys get no gradient.
    shared: pytree that every block reads.
  """
  call, captured = hoist(fn, jax.tree.map(lambda x: x[0], blocks), shared)
  cut, cut_others, merge_cut = partition(blocks)
  same, same_others, merge_same = partition((shared, captured))

  def of_block(cut, same, cut_others, same_others):
    shared, captured = merge_same(same, same_others)
    return call(captured, merge_cut(cut, cut_others), shared)

  first = lambda xs: [x[0] for x in xs]
  shapes = jax.eval_shape(of_block, first(cut), same, first(cut_others), same_others)
  # Made where they are used: a traced constant would be a captured one.
  zeros = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  wide = lambda x: jnp.promote_types(x.dtype, jnp.float32)

  @jax.custom_vjp
  def total(cut, same, cut_others, same_others):
    def body(so_far, block):
      return jax.tree.map(jnp.add, so_far, of_block(block[0], same, block[1], same_others)), None

    return jax.lax.scan(body, zeros(), (cut, cut_others))[0]

  def forward(cut, same, cut_others, same_others):
    def body(carry, block):
      so_far, bar_so_far = carry
      value, pull, aux = jax.vjp(
        lambda c, s: of_block(c, s, block[1], same_others), block[0], same, has_aux=True
      )
      cut_bar, bar = pull(jnp.ones_like(value))
      bar_so_far = [a + b.astype(a.dtype) for a, b in zip(bar_so_far, bar, strict=True)]
      return (jax.tree.map(jnp.add, so_far, (value, aux)), bar_so_far), cut_bar

    # Summed in float32 or more; they go back in their owners' dtype.
    start = [jnp.zeros(x.shape, wide(x)) for x in same]
    (result, bar), cut_bar = jax.lax.scan(body, (zeros(), start), (cut, cut_others))
    return result, (cut_bar, bar, [jnp.zeros((), x.dtype) for x in same])

  def backward(residuals, cotangents):
    cut_bar, bar, dtypes = residuals
    scale = cotangents[0]
    bar = [(scale * b).astype(like.dtype) for b, like in zip(bar, dtypes, strict=True)]
    return [(scale * b).astype(b.dtype) for b in cut_bar], bar, None, None

  total.defvjp(forward, backward)
  return total(cut, same, cut_others, same_others)


def reduce_blocks(
  sums: Callable[[PyTree, PyTree], tuple[Array, Array | None]],
  reduce_fn: reducers.Linear,
  cut: PyTree,
  shared: PyTree,
  axis_name: str | None,
  poison: Array | float = 0.0,
  scaled: Callable[[PyTree, PyTree, Array], Array] | None = None,
) -> Array:
  """The reduced loss through memory once; twice where several terms have denominators.

  Args:
    sums: (block, shared) -> `reduce_fn.sums` of the block's rows.
    reduce_fn: finishes the sums.
    cut: pytree of [blocks, block_size, ...].
    shared: what every block reads.
    axis_name: the mapped axis.
    poison: added to the numerator.
    scaled: (block, shared, share [t]) -> the block's share of the loss, where that is quicker than
      by `sums`.
  """
  first = jax.tree.map(lambda a: a[0], cut)
  numerator, denominator = jax.eval_shape(sums, first, shared)
  poison = jnp.asarray(poison, numerator.dtype)
  if denominator is None or numerator.shape[0] == 1:
    one = lambda block, shared: (lambda v, c: (jnp.sum(v), c))(*sums(block, shared))
    value, count = sum_blocks(one, cut, shared)
    value = value[None] if denominator is not None else value
    return reduce_fn.finish(value + poison, count, axis_name)
  fixed = jax.lax.stop_gradient(shared)
  count = jnp.sum(jax.lax.map(lambda b: sums(jax.lax.stop_gradient(b), fixed)[1], cut), axis=0)
  if axis_name is not None:
    count = jax.lax.psum(count, axis_name)
  share = jax.lax.stop_gradient(jnp.where(count > 0, 1.0 / jnp.where(count > 0, count, 1.0), 0.0))
  scaled = scaled or (lambda block, shared, share: jnp.sum(share * sums(block, shared)[0]))
  value, _ = sum_blocks(lambda block, shared: (scaled(block, shared, share), ()), cut, shared)
  return reducers.global_sum(value + poison, axis_name)
