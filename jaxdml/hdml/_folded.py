"""Synthesis without synthetic features: affine layers folded, partners a block at a time.

Generator and embedding are z -> dense, ReLU, BatchNorm, dense = y~ -> BatchNorm, dense = z~
(arXiv 1903.05503). Only the ReLU is not affine, so with hidden activations h

- a pulled negative's input of the ReLU is the same mixture, p_i + t_ij (q_j - p_i), of the inputs
  of its anchor and of the real negative: one product for the real embeddings, none for synthetics;
- the mean and variance of y~ = h A + b follow from the mean and covariance of h:
  var_j = a_j' cov(h) a_j, and z~ = h M + r with M = A diag(scale / sigma) W;
- the logits of the head are h (A V) + r.

y~ of the partners never exists, nor does more than a block of h or z~: each block's part of the
loss is differentiated while the block is at hand. Values, gradients and statistics are those of
`synthesize` and the networks one after the other, up to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.distances import l2_normalize
from jaxdml.hdml import _layers
from jaxdml.hdml._layers import Dense, apply
from jaxdml.hdml._partners import Hidden, factors, hidden_of, partners_of
from jaxdml.hdml.tuples import Mined
from jaxdml.losses import _blocks
from jaxdml.types import Array, DistanceFn, PyTree, ReduceFn, Refs

_frozen = jax.lax.stop_gradient


class TupleLoss(NamedTuple):
  """The tuple loss with its distance and reducer; `additive` as in `losses.Loss`."""

  fn: Callable[..., Array]
  distance_fn: DistanceFn
  reduce_fn: ReduceFn
  additive: bool

  def __call__(self, anchors: Array, labels: Array, refs: Refs, **shared) -> Array:
    """Returns the loss of anchors [n, d] against references."""
    shared |= {"distance_fn": self.distance_fn, "reduce_fn": self.reduce_fn}
    return self.fn(anchors, labels, refs=refs, **shared)


class Parts(NamedTuple):
  """Parts of the synthetics that the objectives need.

  Those in the middle are differentiable to the generator's parameters alone.
  """

  j_syn: Array  # the loss of the synthetic tuples
  reconstructed: Array  # y' [b, f] of z
  # (sum, count) of the head's cross-entropies over the anchors, and over the partners in use.
  soft: tuple[tuple[Array, Array], tuple[Array, Array]]
  stats: dict[str, PyTree]  # {"embedding", "generator"}, their new running statistics


def cross_entropy(logits: Array, labels: Array) -> Array:
  """-log softmax(logits)[label], [r] of logits [r, c]; 0 where the label is unknown, -1."""
  of_label = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
  return jnp.where(labels >= 0, jax.nn.logsumexp(logits, axis=1) - of_label, 0.0)


def synthetic_parts(
  layers, params, z, mined: Mined, lam, loss: TupleLoss, *, detach, block_size, axis_name
) -> Parts:
  """J_syn, y' and what J_soft sums, without making y~.

  The arguments are those of `synthesize` and `HdmlConfig`; `layers` makes `Layers` of params, and
  `loss` is a sum over anchors with a linear reducer.
  """
  anchors, tuples = mined.anchors, mined.tuples
  n, k = tuples.labels.shape
  given = tuples.partners if mined.refs.embeddings.ndim == 3 else mined.refs.embeddings
  origin = _frozen(anchors) if detach == "anchors" else anchors
  t = factors(origin, given, tuples, lam)
  t = _frozen(t) if detach == "distances" else t
  over_devices = lambda x: x if axis_name is None else jax.lax.pmean(x, axis_name)
  make = lambda first, fixed, *x: hidden_of(first, *x, mined, block_size, axis_name, fixed)

  # For encoder and embedding: the generator is fixed.
  of_metric = layers(params | {name: _frozen(params[name]) for name in ("generator", "head")})
  hidden = make(of_metric.first, detach == "anchors", z, anchors, given, t)
  if detach == "generated":
    hidden = hidden.frozen()
  norm = of_metric.feature_norm
  normalised = norm is not None and (norm.given is None or norm.moved is not None)
  total, square = _sums(hidden, _layers.gram if normalised else _squares)
  mean = over_devices(total / (n + n * k))
  cov = None
  if square.ndim == 2:
    square = _layers.gram_total(square)
    cov = over_devices(square / (n + n * k)) - mean[:, None] * mean
    square = jnp.diagonal(square)
  generator_mean, generator_var = _with_z(total, square, hidden, n + n * k, over_devices)
  features = _layers.fold_norm(of_metric, generator_mean, generator_var)
  embed, moments = _layers.fold_last(of_metric, features, mean, cov)
  j_syn = _j_syn(embed, of_metric.unit_norm, hidden, k, loss, axis_name)
  embedding_stats = norm.moved(*moments) if norm is not None and norm.moved is not None else None

  # For the generator: everything else is fixed.
  of_generator = layers(params | {name: _frozen(params[name]) for name in ("embedding", "head")})
  hidden = make(of_generator.first, False, *map(_frozen, (z, anchors, given, t)))
  generator_mean, generator_var = _with_z(*_sums(hidden), hidden, n + n * k, over_devices)
  features = _layers.fold_norm(of_generator, generator_mean, generator_var)
  classify = _layers.compose(features, of_generator.head)

  def soft_of(block, shared):
    q, classify = shared
    logits = apply(classify, partners_of(block, q, hidden.center))
    used = (block.used & block.real[:, None]).reshape(-1)
    return jnp.sum(jnp.where(used, cross_entropy(logits, block.labels.reshape(-1)), 0.0)), ()

  of_anchors = jnp.sum(cross_entropy(apply(classify, hidden.anchors), mined.labels))
  of_partners, _ = _blocks.sum_blocks(soft_of, hidden.blocks, (hidden.q, classify))
  used = jnp.sum(tuples.positive | tuples.negative, dtype=z.dtype)
  soft = ((of_anchors, jnp.sum(mined.labels >= 0, dtype=z.dtype)), (of_partners, used))
  generator_stats = of_generator.norm.moved(generator_mean + hidden.center, generator_var)
  stats = {"embedding": embedding_stats, "generator": generator_stats}
  return Parts(j_syn, apply(features, hidden.z), soft, stats)


def _squares(h: Array) -> Array:
  return jnp.sum(jnp.square(h), axis=0)


def _sums(hidden: Hidden, second: Callable[[Array], Array] = _squares) -> tuple[Array, Array]:
  """(sum of h, second moments of h) over the partners and the anchors."""
  total, square = hidden.over_blocks(lambda h: (jnp.sum(h, axis=0), second(h)))
  return total + jnp.sum(hidden.anchors, axis=0), square + second(hidden.anchors)


def _with_z(total, square, hidden: Hidden, count: int, over_devices):
  """(mean, variance) of all the centred h, those of z among them."""
  count = count + len(hidden.z)
  mean = over_devices((total + jnp.sum(hidden.z, axis=0)) / count)
  second = over_devices((square + _squares(hidden.z)) / count)
  return mean, jnp.maximum(second - jnp.square(mean), 0.0)


def _j_syn(embed: Dense, unit_norm: bool, hidden: Hidden, k, loss: TupleLoss, axis_name) -> Array:
  """The loss of the synthetic tuples, a block of anchors at a time."""

  def sums(block, shared):
    q, embed = shared
    z = apply(embed, jnp.concatenate([block.anchors, partners_of(block, q, hidden.center)]))
    z = l2_normalize(z) if unit_norm else z
    size = len(block.anchors)
    refs = Refs(z[size:].reshape(size, k, -1), block.labels, block.used)
    # The reducer's sums of a block, to be finished over all of them: no axis yet.
    of_block = loss._replace(reduce_fn=loss.reduce_fn.sums)
    real = {"where": block.real, "weights": block.real.astype(z.dtype)}
    return of_block(z[:size], block.anchor_labels, refs, **real, block_size=size)

  blocks = hidden.blocks
  return _blocks.reduce_blocks(sums, loss.reduce_fn, blocks, (hidden.q, embed), axis_name)
