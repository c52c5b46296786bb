"""The one engine: anchors as rows against references, masks, mining, weights, blocks, reduction.

A loss is a function of its own hyperparameters that returns `row_fn(pairs, inputs) -> Rows`;
`tuple_loss` turns it into `loss(embeddings, labels, *, <own>, refs=..., ...)`. What the shared
arguments mean is documented once, in docs/conventions.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml.distances import has_products
from jaxdml.losses import blocks, reducers, selected
from jaxdml.losses.call import PRODUCTS, Call, Shared, prepare
from jaxdml.losses.checks import check_arrays, check_functions
from jaxdml.losses.pairs import Inputs, RowFn, TwoPass
from jaxdml.types import Array, DistanceFn, MiningFn, ReduceFn, Refs

__all__ = ["signature_of", "tuple_loss"]


def _chosen(call: Call, block_size: int) -> Refs:
  """The references that mining leaves each anchor."""
  without = lambda part: part._replace(prepared=jax.lax.stop_gradient(part.prepared))
  block, shared = without(call.block), without(call.shared)
  pairs_fn = lambda block: call.pairs(block, shared)
  return selected.pick(pairs_fn, block, shared.inputs.refs, block_size)


def _with_stats(call: Call, loss: TwoPass, block_size: int, axis_name: str | None) -> Call:
  """The call with `inputs.stats` filled: the first pass."""
  n = call.block.labels.shape[0]
  stats_fn = lambda block: loss.stats_fn(call.pairs(block, call.shared), call.shared.inputs)
  if block_size >= n:
    stats = stats_fn(call.block)
  else:
    cut, real = blocks.split(call.block, n, block_size)
    stats = loss.merge_fn(blocks.map_blocks(stats_fn, cut._replace(where=cut.where & real)))
  if axis_name is not None:
    stats = loss.merge_fn(jax.tree.map(lambda a: jax.lax.all_gather(a, axis_name), stats))
  shared = call.shared._replace(inputs=call.shared.inputs._replace(stats=stats))
  return call._replace(shared=shared)


def _poison(inputs: Inputs) -> Array:
  """Added to every loss: masks and minima could hide a NaN, and whatever was mined it must show."""
  finite = jnp.all(jnp.isfinite(inputs.embeddings)) & jnp.all(jnp.isfinite(inputs.refs.embeddings))
  return jnp.where(finite, 0.0, jnp.nan)


def _reduce(
  call: Call,
  row_fn: RowFn,
  reduce_fn: ReduceFn,
  block_size: int,
  axis_name: str | None,
  poison: Array,
) -> Array:
  """Rows of all anchors, reduced; in blocks where that is asked for."""
  n, shared = call.block.labels.shape[0], call.shared
  if block_size >= n:
    rows = call.rows(row_fn, call.block, shared)
  else:
    cut, real = blocks.split(call.block, n, block_size)
    cut = cut._replace(where=cut.where & real, weights=jnp.where(real, cut.weights, 0.0))
    if isinstance(reduce_fn, reducers.Linear):
      return _reduce_blocks(call, row_fn, reduce_fn, cut, poison, axis_name)
    rows = blocks.map_blocks(lambda block: call.rows(row_fn, block, shared), cut)
    rows = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[:n], rows)
  dtype = rows.total.dtype
  rows = rows._replace(total=rows.total + poison.astype(dtype))
  if axis_name is not None:
    reduce_fn = functools.partial(reduce_fn, axis_name=axis_name)
  return reduce_fn(rows, call.block.weights.astype(dtype))


def _unbound(reduce_fn: ReduceFn, axis_name: str | None) -> tuple[ReduceFn, str | None]:
  """The reducer and its axis, also where the axis comes bound to the reducer."""
  if isinstance(reduce_fn, functools.partial) and isinstance(reduce_fn.func, reducers.Linear):
    return reduce_fn.func, reduce_fn.keywords.get("axis_name", axis_name)
  return reduce_fn, axis_name


def _reduce_blocks(call, row_fn, reduce_fn, cut, poison, axis_name) -> Array:
  """The reduced loss through memory once; twice where several terms have denominators."""
  # Integers are constants of the blocks; what may need a gradient goes in as an argument.
  inputs = call.shared.inputs
  constants = (inputs.labels, inputs.refs.labels, inputs.refs.where, inputs.refs.ids)
  shared = (call.shared.prepared, inputs.embeddings, inputs.refs.embeddings, inputs.stats)

  def rebuilt(shared):
    prepared, embeddings, ref_embeddings, stats = shared
    refs = Refs(ref_embeddings, *constants[1:])
    return Shared(prepared, inputs._replace(embeddings=embeddings, refs=refs, stats=stats))

  def sums(block, shared):
    rows = call.rows(row_fn, block, rebuilt(shared))
    return reduce_fn.sums(rows, block.weights.astype(rows.total.dtype))

  def scaled(block, shared, share):
    rows = call.elements(row_fn, block, rebuilt(shared))
    return reduce_fn.scaled(rows, block.weights.astype(share.dtype), share)

  if call.mining_fn is None and inputs.refs.labels.ndim == 1 and has_products(inputs.distance_fn):
    # Elements are cheap to find again from the products: less goes through memory.
    policy = jax.checkpoint_policies.save_only_these_names(PRODUCTS)
    scaled = jax.checkpoint(scaled, policy=policy)
  return blocks.reduce_blocks(sums, reduce_fn, cut, shared, axis_name, poison, scaled)


def signature_of(
  loss: Callable[..., Array], make_row_fn: Callable[..., object], leading: int
) -> inspect.Signature:
  """How a loss shows itself: `leading` arguments, its own hyperparameters, the shared tail."""
  own = inspect.signature(make_row_fn).parameters.values()
  shared = list(inspect.signature(loss, follow_wrapped=False).parameters.values())
  own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
  return inspect.Signature([*shared[:leading], *own, *shared[leading:-1]], return_annotation=Array)


def tuple_loss(
  *, distance_fn: DistanceFn, reduce_fn: ReduceFn, whole_rows: bool = False
) -> Callable:
  """Decorator: from `hyperparameters -> row_fn` (or `TwoPass`) to a loss with the shared arguments.

  Args:
    distance_fn: the loss's default distance.
    reduce_fn: the loss's default reducer.
    whole_rows: the row_fn tells references by their column, so it gets all of them whatever was
      mined.
  """
  default_distance, default_reduce = distance_fn, reduce_fn

  def decorate(make_row_fn: Callable[..., RowFn | TwoPass]) -> Callable[..., Array]:
    @functools.wraps(make_row_fn)
    def loss(
      embeddings: Array,
      labels: Array,
      *,
      refs: Refs | None = None,
      ids: Array | None = None,
      where: Array | None = None,
      weights: Array | None = None,
      distance_fn: DistanceFn = default_distance,
      mining_fn: MiningFn | None = None,
      key: Array | None = None,
      reduce_fn: ReduceFn = default_reduce,
      block_size: int | None = None,
      axis_name: str | None = None,
      **hyperparameters,
    ) -> Array:
      embeddings, labels, refs, ids, where, weights = check_arrays(
        embeddings, labels, refs, ids, where, weights
      )
      check_functions(distance_fn, mining_fn, reduce_fn, key, block_size)
      row_fn = make_row_fn(**hyperparameters)
      reduce_fn, axis_name = _unbound(reduce_fn, axis_name)
      call = prepare(embeddings, labels, refs, ids, where, weights, distance_fn, mining_fn, key)
      poison = _poison(call.shared.inputs)
      rows, few = call.rows_per_anchor()
      if block_size is None:
        columns = call.shared.inputs.refs.labels.shape[-1] * rows
        block_size = blocks.default_block_size(embeddings.shape[0], columns)
      apart = not (whole_rows or isinstance(row_fn, TwoPass))
      if apart and few and rows == 1 and call.block.private is None:
        chosen = _chosen(call, block_size)
        call = prepare(embeddings, labels, chosen, None, where, weights, distance_fn, None, None)
        block_size = embeddings.shape[0]
      if isinstance(row_fn, TwoPass):
        call = _with_stats(call, row_fn, block_size, axis_name)
        row_fn = row_fn.row_fn
      return _reduce(call, row_fn, reduce_fn, block_size, axis_name, poison)

    loss.__signature__ = signature_of(loss, make_row_fn, leading=2)
    return loss

  return decorate
