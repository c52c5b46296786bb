"""Pairs and rows: anchors against references under masks, mined, and summed row by row."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxdml._arguments import are_together, equal, known
from jaxdml.distances import private_distances
from jaxdml.mining._miner import Miner
from jaxdml.types import Array, DistanceFn, MiningFn, Pairs, PyTree, Refs, Rows

_FEW_COLUMNS = 8  # up to which a sum over positives is written out


class Inputs(NamedTuple):
  """The whole call's arrays, for losses that need more than distances; index by `pairs.anchor`."""

  embeddings: Array  # [n, d] anchors
  labels: Array  # [n]
  refs: Refs  # what they are compared with
  distance_fn: DistanceFn  # between any two of them
  weights: Array  # [n], the anchors'
  stats: PyTree = None  # what the first pass of a `TwoPass` loss found; None for others


RowFn = Callable[[Pairs, Inputs], Rows]


class TwoPass(NamedTuple):
  """A loss whose rows need statistics over all the rows, such as a column's sum."""

  # (pairs, inputs) of a block of rows -> arrays of any shape, differentiable.
  stats_fn: Callable[[Pairs, Inputs], PyTree]
  # Those arrays stacked over blocks, or over devices, [k, ...] -> merged [...].
  merge_fn: Callable[[PyTree], PyTree]
  row_fn: RowFn  # as for other losses, with `inputs.stats`


def row_sum(values: Array, mask: Array) -> Array:
  """Sum of the masked values of each row, [r]."""
  return jnp.sum(jnp.where(mask, values, 0.0), axis=1)


def row_count(mask: Array, dtype) -> Array:
  """Number of entries of each row that the mask keeps, [r]."""
  return jnp.sum(mask, axis=1, dtype=dtype)


def element_rows(values: Array, mask: Array) -> Rows:
  """Rows of masked elements: values [r, m] where mask; active means above zero."""
  values = jnp.where(mask, values, 0.0)
  elements, active = (jnp.sum(m, axis=1, dtype=values.dtype) for m in (mask, values > 0))
  return Rows(jnp.sum(values, axis=1), elements, active)


def make_pairs(
  embeddings: Array,
  labels: Array,
  refs: Refs,
  *,
  distance_fn: DistanceFn,
  ids: Array | None = None,
  where: Array | None = None,
  keys: Array | None = None,
  anchor: Array | None = None,
) -> Pairs:
  """The unmined rows of anchors [n, d] against references: distances and masks [n, m].

  The arguments are those of every loss, but `keys` [n] for random miners are one an anchor, and
  `anchor` [n] are the anchors' indices, 0..n-1 by default. `refs.ids` needs `ids`.
  """
  if refs.embeddings.ndim == 2:
    distances = distance_fn(embeddings, refs.embeddings)
  else:
    distances = private_distances(distance_fn, embeddings, refs.embeddings)
  if anchor is None:
    anchor = jnp.arange(embeddings.shape[0], dtype=jnp.int32)
  return masked_pairs(distances, labels, refs, ids, where, keys, anchor)


def masked_pairs(distances, labels, refs: Refs, ids, where, keys, anchor) -> Pairs:
  """Pairs with the masks that labels, ids and slots give; a label unknown is in no pair."""
  shape = (labels.shape[0], refs.labels.shape[-1])
  if (came := getattr(distances, "shape", type(distances).__name__)) != shape:
    raise ValueError(
      f"distance_fn must return {list(shape)} for x [{shape[0]}, d] and y [{shape[1]}, d]; "
      f"got {came}"
    )
  # Fields of shared references are [m], of private ones [n, m]: both compare with [n, 1].
  x, y = labels[:, None], refs.labels
  positive = x == y if x.dtype == y.dtype else equal(x, y)
  negative = ~positive
  of_anchors, of_refs = known(labels, refs.labels)
  others = None
  if refs.ids is not None:
    x, y = ids[:, None], refs.ids
    others = x != y if x.dtype == y.dtype else ~equal(x, y)
  for there in (
    None if where is None else where[:, None],
    None if of_anchors is None else of_anchors[:, None],
    refs.where,
    of_refs,
    others,
  ):
    if there is not None:
      positive, negative = positive & there, negative & there
  return Pairs(distances, positive, negative, anchor, keys)


def mine(pairs: Pairs, mining_fn: MiningFn | None) -> Pairs:
  """Mined pairs: the miner sees distances without gradient, the result carries the real ones."""
  if mining_fn is None:
    return pairs
  mined = mining_fn(pairs._replace(distances=jax.lax.stop_gradient(pairs.distances)))
  if not isinstance(mined, Pairs):
    raise TypeError(f"mining_fn must return jaxdml.types.Pairs; got {type(mined).__name__}")
  rows, (least, columns) = mined.positive.shape[0], pairs.positive.shape
  shapes = (mined.positive.shape, mined.negative.shape, mined.anchor.shape)
  if rows < least or shapes != ((rows, columns), (rows, columns), (rows,)):
    masks = {"positive": shapes[0], "negative": shapes[1]}
    raise ValueError(
      f"mining_fn must return the {least} rows that it is given, or more, and say in `anchor` "
      f"whose each is: masks [r, {columns}], anchor [r]; got {masks}, anchor {shapes[2]}"
    )
  distances = pairs.distances
  if rows != least:
    distances = distances[mined.anchor - pairs.anchor[0]]
  if isinstance(mining_fn, Miner):
    return mined._replace(distances=distances)
  # A function that says nothing may have changed the masks behind a miner that named columns.
  return mined._replace(distances=distances, positive_columns=None, negative_columns=None)


def hoist(fn: Callable, *examples: PyTree) -> tuple[Callable, list[Array]]:
  """(call, captured): call(captured, *args) is fn(*args) that closes over nothing.

  `jax.custom_vjp` must see every array that may need a gradient as an argument. Unlike
  jax.closure_convert this hoists integers, booleans and keys too, which a backward pass traced
  later (inside scan or checkpoint) could not reach.
  """
  closed, shape = jax.make_jaxpr(fn, return_shape=True)(*examples)
  treedef = jax.tree.structure(shape)
  checked = jax.sharding.get_abstract_mesh().manual_axes
  if checked and not are_together(partition(closed.consts)[0], examples):
    raise ValueError(
      "where jax.shard_map checks (check_vma), an array that a function of rows closes over must "
      "vary over the axis: pass it through jax.lax.pcast(x, axis_name, to='varying') before"
    )

  def call(captured: list[Array], *args: PyTree) -> PyTree:
    run = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, captured))
    return jax.tree.unflatten(treedef, run(*jax.tree.leaves(args)))

  return call, closed.consts


def partition(tree: PyTree) -> tuple[list[Array], list[Array], Callable[[Any, Any], PyTree]]:
  """(leaves with gradients, the others, a function that puts both together again)."""
  leaves, treedef = jax.tree.flatten(tree)
  # Under `jax.shard_map` known constants stay of the type that they have: they get no gradient.
  mapped = jax.sharding.get_abstract_mesh().manual_axes
  is_float = [
    jnp.issubdtype(jnp.result_type(x), jnp.floating)
    and not (mapped and not isinstance(x, jax.core.Tracer))
    for x in leaves
  ]

  def merge(floats, others) -> PyTree:
    floats, others = iter(floats), iter(others)
    return jax.tree.unflatten(treedef, [next(floats) if f else next(others) for f in is_float])

  floats = [x for x, f in zip(leaves, is_float, strict=True) if f]
  return floats, [x for x, f in zip(leaves, is_float, strict=True) if not f], merge


def zeros(shapes: PyTree) -> PyTree:
  """Zeros of those shapes and dtypes."""
  return jax.tree.map(jnp.zeros_like, shapes)


def _loop(step: Callable, start: PyTree, positive: Array, count: Array) -> PyTree:
  """Adds up step(column, valid) of the first to the count-th positive of each row."""
  end = positive.shape[1]
  columns = jnp.arange(end, dtype=jnp.int32)[None, :]

  def body(_, carry):
    column, result = carry
    beyond = positive & (columns > column[:, None])
    column = jnp.min(jnp.where(beyond, columns, end), axis=1, initial=end)  # the next, or the end
    added = step(jnp.minimum(column, end - 1), column < end)
    return column, jax.tree.map(jnp.add, result, added)

  first = jnp.full_like(positive, -1, jnp.int32, shape=positive.shape[:1])
  return jax.lax.fori_loop(0, count, body, (first, start))[1]


def sum_over_positives(fn: Callable[..., PyTree], positive: Array, *operands: PyTree) -> PyTree:
  """sum_k fn(column of each row's k-th positive [r], where there is one [r], *operands).

  Memory is that of one call of fn however many positives there are, and time that of as many calls
  as the richest row has positives. How many depends on the data, which reverse mode cannot trace:
  the gradient makes the calls again. Reverse mode only. `fn` may close over traced arrays; it
  returns a pytree of arrays, 0 for rows without a k-th positive.
  """
  rows, m = positive.shape
  if m <= _FEW_COLUMNS:
    # So few, as where mining chose the partners, are quicker one after the other than in a loop.
    each = [fn(jnp.full(rows, j, jnp.int32), positive[:, j], *operands) for j in range(m)]
    return jax.tree.map(lambda *terms: sum(terms), *each)
  zero = functools.partial(jnp.zeros_like, positive, shape=(rows,))
  example = (zero(jnp.int32), zero(bool))
  call, captured = hoist(fn, *example, *operands)
  floats, others, merge = partition((captured, operands))

  def of_positive(column, valid, floats, others):
    captured, operands = merge(floats, others)
    return call(captured, column, valid, *operands)

  like = jax.eval_shape(of_positive, *example, floats, others)

  @jax.custom_vjp
  def total(positive, floats, others):
    return forward(positive, floats, others)[0]

  def forward(positive, floats, others):
    count = jnp.max(jnp.sum(positive, axis=1, dtype=jnp.int32), initial=0)
    step = lambda column, valid: of_positive(column, valid, floats, others)
    # The zeros are made here: as traced constants they would be captured ones.
    return _loop(step, zeros(like), positive, count), (positive, floats, others, count)

  def backward(residuals, cotangents):
    positive, floats, others, count = residuals

    def step(column, valid):
      pull = jax.vjp(lambda floats: of_positive(column, valid, floats, others), floats)[1]
      return pull(cotangents)[0]

    return None, _loop(step, jax.tree.map(jnp.zeros_like, floats), positive, count), None

  total.defvjp(forward, backward)
  return total(positive, floats, others)
