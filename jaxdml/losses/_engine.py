"""The one engine: anchors as rows against references, masks, mining, weights, blocks, reduction.

A loss is a plain function: it makes a `row_fn(pairs, inputs) -> Rows` of its own hyperparameters
and ends in `from_rows`, which does all that losses share:

1. check the arrays, fill in what is left open (`_prepare`);
2. make the pairs of a block of anchors, masked and mined (`_pairs`);
3. where mining leaves each anchor a few known partners, copy those and forget the rest (`_chosen`);
4. sum each row's elements, a block of anchors at a time where memory asks for it, and reduce.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml._arguments import any_axes, check_arrays, check_functions
from jaxdml.distances import (
  Distance,
  as_grid,
  kept_transposed,
  largest_entry,
  matmul_transposed,
  private_distances,
)
from jaxdml.losses import _blocks, reducers
from jaxdml.losses._blocks import Blocks, Sizes
from jaxdml.losses._rows import Inputs, RowFn, TwoPass, masked_pairs, mine
from jaxdml.mining._miner import Miner
from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, PyTree, ReduceFn, Refs, Rows

# Partners of an anchor, in all, up to which each anchor gets a copy of its own: as many copies of
# the embeddings instead of a second matrix product.
_MOST_COPIES = 8


@any_axes
def from_rows(
  row_fn: RowFn | TwoPass,
  embeddings: Array,
  labels: Array,
  distance_fn: DistanceFn,
  reduce_fn: ReduceFn,
  *,
  refs: Refs | None = None,
  ids: Array | None = None,
  where: Array | None = None,
  weights: Array | None = None,
  mining_fn: MiningFn | None = None,
  key: Array | None = None,
  block_size: int | None = None,
  axis_name: str | None = None,
  whole_rows: bool = False,
) -> Array:
  """Returns the loss whose rows `row_fn` sums; what every loss ends in, also one of your own.

  `row_fn` is (pairs, inputs) -> Rows of a block of anchors, or a `TwoPass`. With `whole_rows` it
  tells references by their column, so it gets all, whatever was mined. The other arguments are
  those of every loss (docs/conventions.md).
  """
  embeddings, labels, refs, ids, where, weights = check_arrays(
    embeddings, labels, refs, ids, where, weights
  )
  check_functions(distance_fn, mining_fn, reduce_fn, key, block_size)
  call = _prepare(embeddings, labels, refs, ids, where, weights, distance_fn, mining_fn, key)
  poison = _poison(call.inputs)
  sizes = _sizes(call, block_size)
  if not (whole_rows or isinstance(row_fn, TwoPass)) and _few_partners(call):
    chosen = _chosen(call, sizes)
    call = _prepare(embeddings, labels, chosen, None, where, weights, distance_fn, None, None)
    sizes = Sizes(len(labels), len(labels))
  if isinstance(row_fn, TwoPass):
    call = _with_stats(call, row_fn, sizes, axis_name)
    row_fn = row_fn.row_fn
  return _reduce(call, row_fn, reduce_fn, sizes, axis_name, poison)


class _Block(NamedTuple):
  """Arrays that are sliced by anchor."""

  index: Array
  prepared: PyTree
  labels: Array
  where: Array | None
  ids: Array | None
  keys: Array | None
  weights: Array
  private: Refs | None


class _Call(NamedTuple):
  """One call of a loss: all its anchors as one block, its miner, and what every block reads.

  `prepared` is of the references, None where they are private to the anchors.
  """

  block: _Block
  prepared: PyTree
  inputs: Inputs
  mining_fn: MiningFn | None


def _prepare(embeddings, labels, refs, ids, where, weights, distance_fn, mining_fn, key) -> _Call:
  """The call with what its arguments leave open filled in; see docs/conventions.md."""
  n = embeddings.shape[0]
  if weights is None:
    dtype = jnp.promote_types(embeddings.dtype, jnp.float32)
    weights = jnp.ones_like(embeddings, dtype, shape=(n,))
  index = jnp.arange(n, dtype=jnp.int32)
  ids = index if ids is None else ids
  if where is not None:
    # A masked example may hold NaN: it is as good as removed.
    weights = jnp.where(where, weights, 0)
    embeddings = jnp.where(where[:, None], embeddings, 0)
  itself = refs is None
  if itself:
    refs = Refs(embeddings, labels, where, ids)
  elif refs.where is not None:
    refs = refs._replace(embeddings=jnp.where(refs.where[..., None], refs.embeddings, 0))
  keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
  private = refs if refs.embeddings.ndim == 3 else None
  x, y = embeddings, refs.embeddings
  if private is not None:
    y = None
  elif isinstance(distance_fn, Distance):
    x = distance_fn.prepare(embeddings)
    features, terms = x if itself else distance_fn.prepare(refs.embeddings)
    # [d, m]: the references' gradient then sums up in the layout that its matrix product writes.
    y = kept_transposed(features), terms, jax.lax.stop_gradient(features)
  block = _Block(index, x, labels, where, ids, keys, weights, private)
  return _Call(block, y, Inputs(embeddings, labels, refs, distance_fn, weights), mining_fn)


def _pairs(call: _Call, block: _Block) -> Pairs:
  """The mined pairs of a block of anchors."""
  distance_fn, refs = call.inputs.distance_fn, call.inputs.refs
  if block.private is not None:
    refs = block.private
    distances = private_distances(distance_fn, block.prepared, refs.embeddings)
  elif isinstance(distance_fn, Distance):
    (features, x_terms), (others, y_terms, rows) = block.prepared, call.prepared
    products = matmul_transposed(features, others, rows, distance_fn.precision)
    distances = distance_fn.combine(products, *as_grid(x_terms, y_terms))
  else:
    distances = distance_fn(block.prepared, call.prepared)
  of_anchors = (block.ids, block.where, block.keys, block.index)
  return mine(masked_pairs(distances, block.labels, refs, *of_anchors), call.mining_fn)


def _rows(call: _Call, row_fn: RowFn, block: _Block) -> Rows:
  """[b, t] rows of a block, one an anchor."""
  pairs, count = _pairs(call, block), block.labels.shape[0]
  rows = row_fn(pairs, call.inputs)
  if not isinstance(rows, Rows):
    raise TypeError(f"row_fn must return jaxdml.types.Rows; got {type(rows).__name__}")
  if rows.total.ndim == 1:
    rows = jax.tree.map(functools.partial(jnp.expand_dims, axis=1), rows)
  if rows.total.shape[0] != count:
    # A miner made several rows of an anchor: they add up to its one.
    anchor = pairs.anchor - block.index[0]
    rows = Rows(*(jax.ops.segment_sum(a, anchor, num_segments=count) for a in rows))
  return rows


def _poison(inputs: Inputs) -> Array:
  """NaN where an embedding is not finite, else 0: added to the loss, as masks could hide it."""
  finite = jnp.all(jnp.isfinite(largest_entry(inputs.embeddings)))
  if inputs.refs.embeddings is not inputs.embeddings:
    finite = finite & jnp.all(jnp.isfinite(largest_entry(inputs.refs.embeddings)))
  return jnp.where(finite, 0.0, jnp.nan)


def _sizes(call: _Call, block_size: int | None) -> Sizes:
  """Anchors at a time, as asked for or as the shapes and what the miner states suggest."""
  if block_size is not None:
    return Sizes(int(block_size), int(block_size))
  n, m = call.block.labels.shape[0], call.inputs.refs.labels.shape[-1]
  rows = call.mining_fn.rows if isinstance(call.mining_fn, Miner) else 1
  elements = m * (m if rows is None else min(rows, m))
  small = n * elements <= _blocks.CPU_ELEMENTS
  return Sizes(n, n) if small else _blocks.default_sizes(n, elements)


def _blocks_of(call: _Call, sizes: Sizes) -> Blocks:
  """The anchors in blocks; those of padding are masked and weigh nothing."""
  n = call.block.labels.shape[0]

  def cut(block: _Block, size: int) -> _Block:
    block, real = _blocks.split(block, n, size)
    where = real if block.where is None else block.where & real
    # Padding has numbers of its own, or rows that a miner makes of it would add to the last anchor.
    index = jnp.arange(real.size, dtype=jnp.int32).reshape(real.shape)
    weights = jnp.where(real, block.weights, 0)
    return block._replace(index=index, where=where, weights=weights)

  return Blocks(call.block, cut, sizes)


def _few_partners(call: _Call) -> bool:
  """Tells whether the miner states that it leaves each anchor few partners, worth being copied."""
  miner = call.mining_fn
  if not isinstance(miner, Miner) or miner.positives is None or miner.negatives is None:
    return False
  most = min(_MOST_COPIES, call.inputs.refs.labels.shape[-1] // 4)
  few = miner.positives + miner.negatives <= most
  return few and miner.rows == 1 and call.block.private is None


def _chosen(call: _Call, sizes: Sizes) -> Refs:
  """The references that mining leaves each anchor, private to it.

  Behind such a miner nearly all of the gradient of the distances [n, m] is 0. So mining looks for
  the columns first, without gradient; then the partners are copied to their anchors, [n, k, d], and
  the loss sees nothing else. Gradients flow to the originals.
  """
  n, refs = call.block.labels.shape[0], call.inputs.refs
  m = refs.labels.shape[0]
  without = lambda part: part._replace(prepared=jax.lax.stop_gradient(part.prepared))
  call = without(call)

  def kept(columns: Array, mask: Array) -> Array:
    # A miner behind the one that named a column may have dropped it since.
    there = jnp.take_along_axis(mask, jnp.minimum(columns, m - 1), axis=1)
    return jnp.where((columns < m) & there, columns, m)

  def columns_of(block: _Block) -> Array:
    pairs = _pairs(call, block)
    positives = kept(pairs.positive_columns, pairs.positive)
    return jnp.concatenate([positives, kept(pairs.negative_columns, pairs.negative)], axis=1)

  def columns_in_blocks(size, block):
    cut, _ = _blocks.split(block, n, size)
    columns = _blocks.map_values(columns_of, cut, (call.prepared, call.inputs))
    return columns.reshape(-1, columns.shape[-1])[:n]

  block = without(call.block)
  if min(sizes) >= n:
    index = columns_of(block)
  else:
    index = _blocks.by_platform(columns_in_blocks, sizes, block)
  found = index < m
  index = jnp.minimum(index, m - 1)
  return Refs(_take(refs.embeddings, index), refs.labels[index], found)


@jax.custom_vjp
def _take(rows: Array, index: Array) -> Array:
  """rows[index]; its gradient adds up in the same order in every run, on a GPU too."""
  return rows[index]


def _take_bwd(residuals, bar):
  index, like = residuals
  bar, index = bar.reshape(-1, bar.shape[-1]), index.reshape(-1)
  wide = bar.astype(jnp.promote_types(bar.dtype, jnp.float32))
  # A GPU adds to one place from many threads, in whatever order they come.
  of_count = lambda add: lambda values, index: add(values, index, len(like))
  total = jax.lax.platform_dependent(
    wide, index, cuda=of_count(sum_sorted), default=of_count(jax.ops.segment_sum)
  )
  return total.astype(like.dtype), None


_take.defvjp(
  lambda rows, index: (rows[index], (index, jnp.zeros_like(rows, shape=(len(rows), 0)))), _take_bwd
)


def sum_sorted(values: Array, index: Array, count: int) -> Array:
  """[count, d] sums of values [n, d] by index [n]: jax.ops.segment_sum in one fixed order."""
  order = jnp.argsort(index, stable=True)
  index, values = index[order], values[order]
  first = jnp.concatenate([jnp.ones(1, bool), index[1:] != index[:-1]])

  def append(left, right):
    (first_l, sum_l), (first_r, sum_r) = left, right
    return first_l | first_r, jnp.where(first_r[:, None], sum_r, sum_l + sum_r)

  _, sums = jax.lax.associative_scan(append, (first, values))
  place = jnp.arange(count, dtype=index.dtype)
  last = jnp.maximum(jnp.searchsorted(index, place, side="right") - 1, 0)
  return jnp.where((index[last] == place)[:, None], sums[last], 0.0)


def _with_stats(call: _Call, loss: TwoPass, sizes: Sizes, axis_name: str | None) -> _Call:
  """The call with `inputs.stats` filled: the first pass."""
  stats_fn = lambda block: loss.stats_fn(_pairs(call, block), call.inputs)
  if min(sizes) >= call.block.labels.shape[0]:
    stats = stats_fn(call.block)
  else:
    stats = loss.merge_fn(_blocks.map_blocks(stats_fn, _blocks_of(call, sizes)))
  if axis_name is not None:
    stats = loss.merge_fn(jax.tree.map(lambda a: jax.lax.all_gather(a, axis_name), stats))
  return call._replace(inputs=call.inputs._replace(stats=stats))


def _reduce(call: _Call, row_fn: RowFn, reduce_fn, sizes: Sizes, axis_name, poison) -> Array:
  """Rows of all anchors, reduced; in blocks where that is asked for."""
  n = call.block.labels.shape[0]
  if min(sizes) >= n:
    rows = _rows(call, row_fn, call.block)
  elif isinstance(reduce_fn, reducers.Linear):
    return _reduce_blocks(call, row_fn, reduce_fn, sizes, axis_name, poison)
  else:
    rows = _blocks.map_blocks(lambda block: _rows(call, row_fn, block), _blocks_of(call, sizes))
    rows = Rows(*(a.reshape(-1, a.shape[-1])[:n] for a in rows))
  dtype = rows.total.dtype
  rows = rows._replace(total=rows.total + poison.astype(dtype))
  if axis_name is not None:
    reduce_fn = functools.partial(reduce_fn, axis_name=axis_name)
  return reduce_fn(rows, call.block.weights.astype(dtype))


def _reduce_blocks(call, row_fn, reduce_fn, sizes, axis_name, poison) -> Array:
  """The reduced loss a block of anchors at a time; see `_blocks.reduce_blocks`."""
  # Integers are constants of the blocks; what may need a gradient goes in as an argument.
  inputs = call.inputs
  constants = (inputs.refs.labels, inputs.refs.where, inputs.refs.ids)
  shared = (call.prepared, inputs.embeddings, inputs.refs.embeddings, inputs.stats)

  def sums(block, shared):
    prepared, embeddings, ref_embeddings, stats = shared
    refs = Refs(ref_embeddings, *constants)
    own = inputs._replace(embeddings=embeddings, refs=refs, stats=stats)
    rows = _rows(call._replace(prepared=prepared, inputs=own), row_fn, block)
    return reduce_fn.sums(rows, block.weights.astype(rows.total.dtype))

  return _blocks.reduce_blocks(sums, reduce_fn, _blocks_of(call, sizes), shared, axis_name, poison)
