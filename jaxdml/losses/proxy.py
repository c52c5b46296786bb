"""Losses against learnt proxies: ProxyNCA, ProxyNCA++, Proxy-Anchor, SoftTriple."""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances
from jaxdml._arguments import any_axes
from jaxdml.losses import reducers
from jaxdml.losses._class_rows import (
  PROXIES,
  centers,
  check_examples,
  cross_entropy_rows,
  from_classes,
  logit_rows,
  out_of_range,
)
from jaxdml.losses._engine import from_rows
from jaxdml.losses._numerics import log_sum_exp, log_sum_exp_pair
from jaxdml.losses._rows import row_sum
from jaxdml.types import Array, DistanceFn, Loss, PyTree, ReduceFn, Refs, Rows, Shared

__all__ = ["proxy_anchor_loss", "proxy_nca_loss", "proxy_nca_pp_loss", "soft_triple_loss"]


@any_axes
def proxy_nca_loss(
  embeddings: Array, labels: Array, *, params: PyTree, temperature: float = 1.0,
  distance_fn: DistanceFn = distances.normalized_squared_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """ProxyNCA: how much nearer an example's own proxy is than all the others.

  -log(exp(-d(x, p_y)) / sum_{z != y} exp(-d(x, p_z))) with d = distance / temperature
  (Movshovitz-Attias et al., arXiv 1703.07464). The denominator lacks the positive, so the loss can
  be negative; with it, it is `proxy_nca_pp_loss`, and what pytorch-metric-learning calls ProxyNCA:
  that one is log(1 + exp(this)) for each example. With one class there is nothing to compare with.

  Args:
    temperature: divides the distances; 1 in the paper.
    **shared: and errors: docs/conventions.md.

  >>> params = {"proxies": jnp.eye(3)}  # squared distances 0, 2 and 2: 0 + log(2 exp(-2))
  >>> x, y = jnp.array([[5.0, 0.0, 0.0]]), jnp.array([0])
  >>> print(f"{proxy_nca_loss(x, y, params=params):.4f}")
  -1.3069
  """

  def row_fn(pairs, inputs):
    logits = -pairs.distances / temperature
    used = jnp.any(pairs.positive, axis=1) & jnp.any(pairs.negative, axis=1)
    excess = log_sum_exp(logits, pairs.negative) - row_sum(logits, pairs.positive)
    return Rows.of_anchors(excess, used)

  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


@any_axes
def proxy_nca_pp_loss(
  embeddings: Array, labels: Array, *, params: PyTree, temperature: float = 1.0 / 9.0,
  distance_fn: DistanceFn = distances.normalized_squared_euclidean,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """ProxyNCA++: the probability of an example's own proxy among all proxies.

  -log(exp(-d(x, p_y)) / sum_z exp(-d(x, p_z))) with d = distance / temperature (Teh et al.,
  arXiv 2004.01113, eq. 5; its pooling, layer norm and schedules belong to the network and trainer).

  Args:
    temperature: divides the distances; 1/9 in the paper.
    **shared: and errors: docs/conventions.md.

  >>> params = {"proxies": jnp.eye(3)}  # squared distances 0, 2 and 2: log(1 + 2 exp(-2))
  >>> x, y = jnp.array([[5.0, 0.0, 0.0]]), jnp.array([0])
  >>> print(f"{proxy_nca_pp_loss(x, y, params=params, temperature=1.0):.4f}")
  0.2395
  """
  row_fn = lambda pairs, inputs: logit_rows(-pairs.distances / temperature, pairs)
  return from_classes(row_fn, PROXIES, embeddings, labels, params, distance_fn, reduce_fn, **shared)


_CENTERS = centers("centers_per_class", 10)


def _spread(centers: Array) -> Array:
  """Mean distance on the sphere between a class's centers, halved: sum_{s<t} / (C K (K - 1))."""
  classes, k, _ = centers.shape
  unit = distances.l2_normalize(centers)
  if k == 1:
    return jnp.zeros((), unit.dtype)
  cosine = jnp.einsum("csd,ctd->cst", unit, unit, precision=jax.lax.Precision.HIGHEST)
  once = np.triu(np.ones((k, k), bool), 1)
  apart = distances.safe_sqrt(jnp.where(once, 2.0 - 2.0 * cosine, 0.0))
  return jnp.sum(apart) / (classes * k * (k - 1))


@any_axes
def soft_triple_loss(
  embeddings: Array, labels: Array, *, params: PyTree, la: float = 20.0, gamma: float = 0.1,
  margin: float = 0.01, tau: float = 0.2,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """SoftTriple: softmax over classes of several centres each, with a margin.

  -log(exp(la (S_y - margin)) / (exp(la (S_y - margin)) + sum_{z != y} exp(la S_z))), where S_z =
  sum_k q_k s_k is the similarity to class z, s_k = 1 - distance to its k-th centre and q =
  softmax_k(s_k / gamma); plus tau sum_z sum_{s<t} sqrt(2 - 2 w_zs . w_zt) / (C K (K - 1)) over unit
  centres w, which draws the centres of a class together (Qian et al., arXiv 1909.05235, eq. 8-10).
  The penalty is added once, not with the reducer `none`; it stays where no example is valid.
  pytorch-metric-learning has none: tau = 0. `centers_per_class`, 10 by default, is an option of
  `init`. A miner picks among all the centres.

  Args:
    la: scale of the logits (lambda).
    gamma: temperature of the softmax over a class's centres, in units of the similarity.
    margin: lowers the true class's similarity (delta).
    tau: weight of the penalty.
    **shared: and errors: docs/conventions.md.
  """

  def row_fn(pairs, inputs):
    similarity = 1.0 - pairs.distances
    positive, negative = (jnp.any(mask, axis=1) for mask in (pairs.positive, pairs.negative))
    kept = pairs.positive | pairs.negative
    # Of a class without a centre kept the largest is 0 and so is the sum; no mask has it.
    top = jnp.max(jnp.where(kept, similarity, -jnp.inf), axis=1)
    top = jax.lax.stop_gradient(jnp.where(positive | negative, top, 0.0)[:, None])
    weight = jnp.where(kept, jnp.exp(jnp.where(kept, similarity - top, 0.0) / gamma), 0.0)
    total = jnp.where(positive | negative, jnp.sum(weight, axis=1), 1.0)
    logits = la * (jnp.sum(weight * similarity, axis=1) / total)
    target = row_sum(logits, positive) - la * margin
    return cross_entropy_rows(logits, target, positive, negative)

  penalty = lambda centers: tau * _spread(centers)
  arguments = (row_fn, _CENTERS, embeddings, labels, params, distance_fn, reduce_fn)
  return from_classes(*arguments, penalty=penalty, **shared)


@any_axes
def proxy_anchor_loss(
  embeddings: Array, labels: Array, *, params: PyTree, margin: float = 0.1, alpha: float = 32.0,
  distance_fn: DistanceFn = distances.cosine,
  reduce_fn: ReduceFn = reducers.mean, **shared: Unpack[Shared],
) -> Array:  # fmt: skip
  """Proxy-Anchor: each proxy is an anchor that pulls its class's examples and pushes the others.

  1/|P+| sum_{p in P+} log(1 + sum_{x of p} exp(-alpha (s(p, x) - margin)))
    + 1/|P| sum_{p in P} log(1 + sum_{other x} exp(alpha (s(p, x) + margin)))
  with s = 1 - distance and P+ the proxies with an example in the batch (Kim et al.,
  arXiv 2003.13911).

  The anchors are the proxies here, so a miner picks examples for each proxy, `block_size` counts
  proxies and the reducer `none` gives [num_classes]. `weights` multiply an example's terms in the
  sums of exponentials: weight 2 is the example twice, weight 0 is none. With `axis_name` the loss
  gathers the examples itself and each device takes its share of the proxies.

  Args:
    margin: delta, in units of the similarity.
    alpha: scale of the exponents.
    **shared: and errors: docs/conventions.md; but `weights` must be at least 0 (a negative one
      makes the loss NaN).

  >>> params = {"proxies": jnp.eye(2)}
  >>> x, y = jnp.array([[3.0, 0.0]]), jnp.array([0])  # log(1 + exp(-(1 - 0))) + log(1 + exp(0)) / 2
  >>> print(f"{proxy_anchor_loss(x, y, params=params, margin=0.0, alpha=1.0):.4f}")
  0.6598
  """
  x, y, where, weights, proxies = check_examples(embeddings, labels, params, PROXIES, shared)
  axis_name, num_classes = shared.get("axis_name"), proxies.shape[0]
  classes = jnp.arange(num_classes, dtype=jnp.int32)
  real = None
  if axis_name is not None:
    everywhere = lambda a: None if a is None else jax.lax.all_gather(a, axis_name, tiled=True)
    x, y, where, weights = (everywhere(a) for a in (x, y, where, weights))
    devices = jax.lax.psum(1, axis_name)
    each = -(-num_classes // devices)
    start = jax.lax.axis_index(axis_name) * each
    proxies = jnp.pad(proxies, ((0, each * devices - num_classes), (0, 0)))
    proxies = jax.lax.dynamic_slice_in_dim(proxies, start, each)
    classes = start + jnp.arange(each, dtype=jnp.int32)
    real = classes < num_classes

  present = jnp.ones(y.shape, bool) if where is None else where
  bad = out_of_range(y, num_classes) | ~jnp.all(jnp.isfinite(x), axis=1)
  log_weights = 0.0
  if weights is not None:
    bad = bad | ~(weights >= 0)
    used = weights > 0
    dtype = jnp.promote_types(weights.dtype, jnp.float32)
    log_weights = jnp.log(jnp.where(used, weights, 1.0).astype(dtype))
    where = present & used
  # Whatever the miner keeps; an example of weight 0, too, is in the batch.
  poison = jnp.where(jnp.any(bad & present), jnp.nan, 0.0)

  def row_fn(pairs, inputs):
    similarity = 1.0 - pairs.distances
    dtype = similarity.dtype
    sign = jnp.where(pairs.positive, -1.0, 1.0).astype(dtype)
    exponent = jnp.asarray(log_weights, dtype) + alpha * (sign * similarity + margin)
    pull, push = log_sum_exp_pair(exponent, pairs.positive, pairs.negative, add_one=True)
    some = jnp.any(pairs.positive, axis=1).astype(dtype)
    total = jnp.stack([pull, push], axis=1)
    elements = jnp.stack([some, jnp.ones_like(some)], axis=1)
    return Rows(total + poison.astype(dtype), elements, active=(total > 0).astype(dtype))

  own = {
    "refs": Refs(x, y, where),
    "ids": classes,  # a random miner draws by class, on however many devices
    "where": real,
    # Padding is no proxy without examples: it may not count in 1 / |P|.
    "weights": None if real is None else real.astype(jnp.promote_types(proxies.dtype, "float32")),
    "whole_rows": weights is not None,  # the examples' weights are told apart by their column
  }
  return from_rows(row_fn, proxies, classes, distance_fn, reduce_fn, **own, **shared)


RECORDS = (
  Loss("proxy_nca", proxy_nca_loss, ("temperature",), distances.normalized_squared_euclidean,
    reducers.mean, parameter=PROXIES),
  Loss("proxy_nca_pp", proxy_nca_pp_loss, ("temperature",),
    distances.normalized_squared_euclidean, reducers.mean, parameter=PROXIES),
  Loss("proxy_anchor", proxy_anchor_loss, ("margin", "alpha"), distances.cosine, reducers.mean,
    parameter=PROXIES),
  Loss("soft_triple", soft_triple_loss, ("la", "gamma", "margin", "tau"), distances.cosine,
    reducers.mean, parameter=_CENTERS),
)  # fmt: skip
