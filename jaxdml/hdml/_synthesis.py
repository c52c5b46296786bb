"""Hardness- and label-preserving synthesis: from tuples to synthetic tuples (arXiv 1903.05503)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml.hdml._layers import Layers
from jaxdml.hdml.pull import pull_negatives
from jaxdml.hdml.tuples import Tuples, synthesis_distances
from jaxdml.types import Array, PyTree, Refs

DETACH = ("none", "distances", "anchors", "generated")
"""Which gradients of J_syn `synthesize` may stop."""

MEMBERS = ("all", "negatives")
"""Which members of a tuple `synthesize` may send through the generator."""


class Networks(NamedTuple):
  """HDML's networks as pure functions of (parameters, inputs)."""

  # (parameters, y [..., f]) -> (z [..., d], new running statistics), for synthetic features; whose
  # statistics its BatchNorm uses, and which ones move, is up to the function.
  embed: Callable[[PyTree, Array], tuple[Array, PyTree]]
  # (parameters, z [b, d]) -> (y' [b, f], new running statistics).
  generate: Callable[[PyTree, Array], tuple[Array, PyTree]]
  classify: Callable[[PyTree, Array], Array]  # (parameters, y [..., f]) -> logits [..., c]
  # {"embedding", "generator", "head"} -> the same three as `_layers.Layers`, by which `objective`
  # saves most of the work; None for networks that are something else.
  layers: Callable[[dict[str, PyTree]], Layers] | None = None


class Synthetics(NamedTuple):
  """Synthetic tuples, and the generator's outputs for whoever learns from them.

  Below, s = n + n k, the anchors and then the partners; n k where negatives alone are synthetic.
  """

  pulled: Array  # z^ [n, k, d], each anchor's own partners, the negatives pulled
  anchors: Array  # z~ [n, d] of the anchors; the real z where negatives alone are synthetic
  refs: Refs  # z~ [n, k, d] of the partners, private to each anchor, with the slots in use
  features: Array  # y~ [s, f]; differentiable to z, the generator's parameters are constants
  generated: Array  # the same values, differentiable to the generator's parameters alone
  labels: Array  # [s], of those
  where: Array  # [s] bool, those in use
  reconstructed: Array  # y' [b, f] of z; differentiable to the generator's parameters alone
  stats: dict[str, PyTree]  # {"embedding", "generator"}, their new running statistics


def synthesize(
  networks: Networks,
  params: dict[str, PyTree],
  z: Array,
  anchors: Array,
  anchor_labels: Array,
  tuples: Tuples,
  lam: Array | float,
  *,
  detach: str = "none",
  members: str = "all",
) -> Synthetics:
  """z^ = pull(z, z-, d+, lam), y~ = generator(z^), z~ = embedding(y~).

  One generator batch, [z ; anchors ; partners], so that its BatchNorm sees them all.

  Args:
    networks: see `Networks`.
    params: {"embedding", "generator", ...}.
    z: [b, d] embeddings of the batch.
    anchors: [n, d], those of them that are anchors.
    anchor_labels: [n].
    tuples: each anchor's own partners.
    lam: lambda in [0, 1] (`hardness`).
    detach: see `HdmlConfig`.
    members: `HdmlConfig.synthetic_members`.

  Raises:
    ValueError: for an unknown `detach` or `members`.
  """
  for name, value, valid in (("detach", detach, DETACH), ("members", members, MEMBERS)):
    if value not in valid:
      raise ValueError(f"{name}: expected one of {', '.join(valid)}; got {value!r}")
  frozen = jax.lax.stop_gradient
  origin = frozen(anchors) if detach == "anchors" else anchors
  d_pos = synthesis_distances(origin, tuples)
  fixed = detach == "distances"
  pulled = pull_negatives(origin, tuples.partners, d_pos, lam, detach_distances=fixed)
  partners = jnp.where(tuples.negative[..., None], pulled, tuples.partners)

  n, k, d = partners.shape
  batch, of_all = z.shape[0], members == "all"
  used = tuples.positive | tuples.negative if of_all else tuples.negative
  flat = partners.reshape(n * k, d)
  flat = jnp.concatenate([z, anchors, flat] if of_all else [z, flat])
  features, _ = networks.generate(frozen(params["generator"]), flat)
  features = frozen(features[batch:]) if detach == "generated" else features[batch:]
  generated, generator_stats = networks.generate(params["generator"], frozen(flat))

  z_syn, embedding_stats = networks.embed(params["embedding"], features)
  z_partners = z_syn[-n * k :].reshape(n, k, d)
  if not of_all:
    z_partners = jnp.where(tuples.negative[..., None], z_partners, tuples.partners)
  labels, where = tuples.labels.reshape(-1), used.reshape(-1)
  if of_all:
    labels = jnp.concatenate([anchor_labels, labels])
    where = jnp.concatenate([jnp.ones(n, bool), where])
  z_anchors = z_syn[:n] if of_all else anchors
  refs = Refs(z_partners, tuples.labels, tuples.positive | tuples.negative)
  stats = {"embedding": embedding_stats, "generator": generator_stats}
  outputs = (features, generated[batch:], labels, where, generated[:batch])
  return Synthetics(partners, z_anchors, refs, *outputs, stats)
