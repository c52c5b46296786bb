"""Private copies of each anchor's partners: what HDML may pull without touching anyone else's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.distances import safe_sqrt
from jaxdml.hdml.pull import pull_factors
from jaxdml.losses import reducers
from jaxdml.types import Array, Pairs, Refs


class Tuples(NamedTuple):
  """Each anchor with its own k partners."""

  partners: Array  # [n, k, d] embeddings
  labels: Array  # [n, k]
  positive: Array  # [n, k] bool
  negative: Array  # [n, k] bool; a slot that is neither is empty
  # [n, k], which of the shared references the partners are; None where all are there in their
  # order, and where each anchor has its own.
  index: Array | None = None


class Mined(NamedTuple):
  """The real tuples of a batch: anchors [n, d], their labels [n], references, mined partners."""

  anchors: Array
  labels: Array
  refs: Refs
  tuples: Tuples


def private_tuples(pairs: Pairs, refs: Refs, slots: int | None = None) -> Tuples:
  """The partners that mining left each anchor, copied per anchor; gradients flow to the originals.

  Args:
    pairs: mined pairs, one row an anchor and in the anchors' order.
    refs: what they were mined from, shared [m, d] or private [n, m, d].
    slots: partners kept, positives first, then the nearest negatives; 2 holds a triplet. None keeps
      all m: [n, m, d].
  """
  n, m = pairs.positive.shape
  if slots is None or slots >= m:
    partners = jnp.broadcast_to(refs.embeddings, (n, m, refs.embeddings.shape[-1]))
    labels = jnp.broadcast_to(refs.labels, (n, m))
    return Tuples(partners, labels, pairs.positive, pairs.negative)
  nearness = jnp.where(pairs.negative, -jax.lax.stop_gradient(pairs.distances), -jnp.inf)
  _, index = jax.lax.top_k(jnp.where(pairs.positive, jnp.inf, nearness), slots)
  pick = lambda a: jnp.take_along_axis(a, index, axis=1)
  positive, negative = pick(pairs.positive), pick(pairs.negative)
  if refs.embeddings.ndim == 3:
    partners = jnp.take_along_axis(refs.embeddings, index[..., None], axis=1)
    return Tuples(partners, pick(refs.labels), positive, negative)
  return Tuples(refs.embeddings[index], refs.labels[index], positive, negative, index)


def synthesis_distances(anchors: Array, tuples: Tuples) -> Array:
  """d+ [n]: plain Euclidean distance to the nearest positive kept; infinite without one.

  With one positive a tuple (N-pair, triplet, EPS) it is that positive's distance. An infinite d+
  pulls nothing, so an anchor without a positive keeps its negatives as they are.
  """
  square = jnp.sum(jnp.square(anchors[:, None, :] - tuples.partners), axis=-1)
  return nearest_distances(square, tuples.positive)


def nearest_distances(square: Array, positive: Array) -> Array:
  """[n]: the root of each row's smallest entry that is positive; infinite in rows without one."""
  some = jnp.any(positive, axis=1)
  nearest = jnp.min(jnp.where(positive, square, jnp.inf), axis=1)
  return jnp.where(some, safe_sqrt(jnp.where(some, nearest, 0.0)), jnp.inf)


def pull_metrics(
  anchors: Array, tuples: Tuples, lam: Array | float, axis_name: str | None = None
) -> dict[str, Array]:
  """Measures the pull on the tuples of anchors z [n, d]; plain Euclidean distances, no gradient.

  Returns:
    hdml/positive_distance, the mean d+; hdml/negative_distance, the mean d- of all negatives;
    hdml/pull_share, the share of negatives with d- > d+; hdml/pull_ratio, the mean |z^ - z| / d-
    of all negatives.
  """
  anchors, tuples = jax.lax.stop_gradient((anchors, tuples))
  # The very expression of `partners.factors`: written otherwise XLA would store [n, k, d] for it.
  d_neg = safe_sqrt(jnp.sum(jnp.square(anchors[:, None, :] - tuples.partners), axis=-1))
  d_pos = synthesis_distances(anchors, tuples)
  some = jnp.any(tuples.positive, axis=1)
  pulled, ratio = pull_factors(d_neg, d_pos, lam, tuples.negative)
  mean = lambda x, mask: reducers.global_mean(x, mask, axis_name=axis_name)
  return {
    "hdml/positive_distance": mean(d_pos, some),
    "hdml/negative_distance": mean(d_neg, tuples.negative),
    "hdml/pull_share": mean(pulled.astype(d_neg.dtype), tuples.negative),
    "hdml/pull_ratio": mean(ratio, tuples.negative),
  }
