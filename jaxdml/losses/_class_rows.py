"""Losses against class vectors (proxies, centres, weights) that learn with the network.

The vectors are the references of the one engine, so masks, mining, blocks and reduction are those
of every loss. The parameters are a plain pytree; the optimizer that holds the network's parameters
holds them too.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdml._arguments import check_arrays
from jaxdml.losses import reducers
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import log_sum_exp, softplus
from jaxdml.losses._rows import Inputs, RowFn, row_sum
from jaxdml.types import Array, Pairs, Parameter, PyTree, Refs, Rows


def class_vectors(key: Array, *shape: int) -> Array:
  """Float32 random vectors of about unit norm, [num_classes, ..., dim].

  Raises:
    ValueError: for an axis below 1.
  """
  if min(shape) < 1:
    raise ValueError(f"num_classes, vectors of a class and dim must be at least 1; got {shape}")
  return jax.random.normal(key, shape, jnp.float32) / jnp.sqrt(jnp.float32(shape[-1]))


PROXIES = Parameter(
  "proxies",
  ("num_classes", "dim"),
  lambda key, num_classes, dim: {"proxies": class_vectors(key, num_classes, dim)},
)
"""One vector a class."""


def centers(option: str, count: int) -> Parameter:
  """Several vectors a class: their number is an option of `losses.init`, `count` by default."""

  def init(key: Array, num_classes: int, dim: int, **options: int) -> dict[str, Array]:
    return {"centers": class_vectors(key, num_classes, options.get(option, count), dim)}

  return Parameter("centers", ("num_classes", option, "dim"), init, (option,))


def _read(parameter: Parameter, params: PyTree, dim: int) -> Array:
  """The vectors in `params`, or one ValueError that says what is wrong."""
  name, axes = parameter.name, [*parameter.axes[:-1], str(dim)]
  if isinstance(params, Mapping) and set(params) == {name}:
    vectors = jnp.asarray(params[name])
    fits = vectors.ndim == len(axes) and vectors.shape[-1] == dim and vectors.size > 0
    if fits and jnp.issubdtype(vectors.dtype, jnp.floating):
      return vectors
    came = f"{{{name!r}: {vectors.dtype}{list(vectors.shape)}}}"
  elif isinstance(params, Mapping):
    came = f"the keys {sorted(map(str, params))}"
  else:
    came = type(params).__name__
  options = "".join(f", {axis}=..." for axis in parameter.axes[1:-1])
  raise ValueError(
    f"params must be {{{name!r}: floating point [{', '.join(axes)}]}}; got {came}. Make them with "
    f"losses.init(NAME, key, num_classes, {dim}{options})"
  )


def check_examples(
  embeddings: Any, labels: Any, params: PyTree, parameter: Parameter, shared: dict[str, Any]
) -> tuple[Array, Array, Array | None, Array | None, Array]:
  """Returns (embeddings, labels, where, weights, vectors in `params`), refused if they do not fit.

  The two in the middle are taken out of `shared`.
  """
  where, weights = shared.pop("where", None), shared.pop("weights", None)
  embeddings, labels, _, _, where, weights = check_arrays(
    embeddings, labels, None, None, where, weights
  )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"labels must be integers from 0 to num_classes - 1; got {labels.dtype}")
  vectors = _read(parameter, params, embeddings.shape[1])
  return embeddings, labels, where, weights, vectors


def out_of_range(labels: Array, num_classes: int) -> Array:
  """Labels that have no class vector; unsigned ones are never negative."""
  return (labels < 0) | (labels >= num_classes)


def cross_entropy_rows(logits: Array, target: Array, positive: Array, negative: Array) -> Rows:
  """Rows of log(exp(target) + sum_negatives exp(logits)) - target; none without a positive.

  Of logits [r, c] the positive's column is not read: target [r] is its logit, which a margin may
  have changed.
  """
  used = jnp.any(positive, axis=1)
  compared = used & jnp.any(negative, axis=1)
  excess = jnp.where(compared, log_sum_exp(logits, negative) - target, 0.0)
  # The softplus of log sum exp keeps the digits of a small loss; log softmax would round it to 0.
  return Rows.of_anchors(jnp.where(compared, softplus(excess), 0.0), used)


def logit_rows(logits: Array, pairs: Pairs) -> Rows:
  """`cross_entropy_rows` whose target is the positive's logit as it is."""
  target = row_sum(logits, pairs.positive)
  return cross_entropy_rows(logits, target, pairs.positive, pairs.negative)


def _by_class(row_fn: RowFn, vectors: Array, where: Array | None) -> RowFn:
  """The row_fn on pairs by vector of a class and class, NaN for a label that has none."""
  shape = vectors.shape[-2::-1]

  def rows(pairs: Pairs, inputs: Inputs) -> Rows:
    bad = out_of_range(jnp.take(inputs.labels, pairs.anchor, mode="clip"), vectors.shape[0])
    if where is not None:
      bad = bad & where[pairs.anchor]
    if vectors.ndim == 3:
      split = lambda a: a.reshape(-1, *shape)
      distances, positive, negative = map(split, (pairs.distances, pairs.positive, pairs.negative))
      pairs = pairs._replace(distances=distances, positive=positive, negative=negative)
    result = row_fn(pairs, inputs)
    poison = jnp.where(bad, jnp.nan, 0.0).astype(result.total.dtype)
    return result._replace(total=result.total + poison)

  return rows


def from_classes(
  row_fn, parameter, embeddings, labels, params, distance_fn, reduce_fn, *, penalty=None, **shared
) -> Array:
  """Returns the loss of anchors against class vectors; a label that indexes none makes it NaN.

  The arguments are those of `from_rows` and the `Parameter` that `params` hold; `penalty` of the
  vectors is added once to the reduced loss. Where a class has several vectors, `row_fn` gets
  `pairs.distances`, `pairs.positive` and `pairs.negative` as [r, per class, num_classes].
  """
  x, labels, where, weights, vectors = check_examples(embeddings, labels, params, parameter, shared)
  ids, axis_name = None, shared.get("axis_name")
  if axis_name is not None:  # a random miner draws by slot of the global batch
    ids = jax.lax.axis_index(axis_name) * len(x) + jnp.arange(len(x), dtype=jnp.int32)
  # The first vector of every class, then the second of every class, ...: what is taken over the
  # vectors of a class is then taken of whole rows, which a CPU does many at a time.
  classes, flat = jnp.arange(len(vectors), dtype=jnp.int32), vectors
  if vectors.ndim == 3:
    classes = jnp.tile(classes, vectors.shape[1])
    flat = jnp.swapaxes(vectors, 0, 1).reshape(len(classes), -1)
  refs = Refs(flat, classes)
  own = {"refs": refs, "ids": ids, "where": where, "weights": weights, "whole_rows": True}
  row_fn = _by_class(row_fn, vectors, where)
  value = from_rows(row_fn, x, labels, distance_fn, reduce_fn, **own, **shared)
  if penalty is None:
    return value
  # Added once to each scalar; rows that are not reduced have no place for it.
  share = reducers.local_share(penalty(vectors), axis_name)
  return jax.tree.map(lambda v: v + share.astype(v.dtype) if v.ndim == 0 else v, value)
