"""HDML's three objectives as one scalar with one backward pass (arXiv 1903.05503, eq. 7-12).

  total = J_metric(encoder, embedding; generator fixed)
        + J_gen(generator; z, z^, y and head fixed)
        + CE(head; y fixed)

The stop_gradients make the gradient of the sum give each group of parameters exactly its own
objective's gradient, so one optimizer with labelled groups trains all three.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdml._arguments import any_axes
from jaxdml._sharding import alike
from jaxdml.hdml import _folded as folded
from jaxdml.hdml._synthesis import Networks, synthesize
from jaxdml.hdml.schedule import HdmlState, distrust, hardness, trust, update_state
from jaxdml.hdml.tuples import Mined, private_tuples, pull_metrics
from jaxdml.losses import reducers
from jaxdml.losses._rows import make_pairs, mine
from jaxdml.refs.layouts import Layout
from jaxdml.types import Array, DistanceFn, MiningFn, PyTree, ReduceFn


class HdmlConfig(NamedTuple):
  """HDML's dials; the defaults are the variant "default" for N-pair on Cars196.

  docs/methods.md has what paper and authors' code make of each. Two more choices are the networks'
  (`Networks`), one is the loss's (`npair_loss(l2_over=)`), one the regularizer's (weight decay).
  """

  alpha: float | str = 90.0  # hardness, lambda = exp(-alpha / J_avg)
  beta: float | str = 1e4  # J_metric = w J_m + (1 - w) J_syn with w = exp(-beta / J_gen)
  reconstruction_weight: float = 0.5  # of J_recon in J_gen
  soft_weight: float = 5e3  # of J_soft in J_gen
  # J_recon sums the squared error over the batch; else it is the mean of each example's.
  sum_reconstruction: bool = True
  sum_soft: bool = False  # J_soft sums over all synthetic features; else it is one mean or two
  joint_soft: bool = False  # one mean over all of them; else the anchors' plus the partners'
  # J_avg averages w J_m; else J_m. With alpha "auto" always J_m, without the regularizer.
  weighted_average: bool = True
  window: int = 64  # steps in the means J_avg and J_gen
  slots: int | None = None  # partners synthesised for each anchor; None: all (`private_tuples`)
  # "all": anchors and positives pass through the generator like the negatives; "negatives": they
  # stay real, which opens a shortcut, for generated features are easily told from real ones.
  synthetic_members: str = "all"
  # Gradients of J_syn that are stopped. All but "none" are different algorithms: "distances", the
  # pull's factor [lambda d- + (1 - lambda) d+] / d- is a constant; "anchors", a negative's pull
  # moves the negative and its distances, not the anchor; "generated", y~ is a constant, so J_syn
  # trains the embedding alone and never the encoder.
  detach: str = "none"
  # Anchors whose synthetics are made at a time, where the networks tell their layers; None: as many
  # as suit the machine.
  block_size: int | None = None


def _parts(
  networks: Networks, params, z, mined: Mined, lam, loss: folded.TupleLoss, config, axis_name
) -> folded.Parts:
  """The synthetic tuples' loss and what the generator learns from, folded where possible."""
  foldable = networks.layers is not None and config.synthetic_members == "all"
  if foldable and loss.additive and isinstance(loss.reduce_fn, reducers.Linear):
    options = {"detach": config.detach, "block_size": config.block_size, "axis_name": axis_name}
    return folded.synthetic_parts(networks.layers, params, z, mined, lam, loss, **options)
  anchors, labels, _, tuples = mined
  options = {"detach": config.detach, "members": config.synthetic_members}
  synthetic = synthesize(networks, params, z, anchors, labels, tuples, lam, **options)
  j_syn = loss(synthetic.anchors, labels, synthetic.refs, axis_name=axis_name)
  head = jax.lax.stop_gradient(params["head"])
  soft = folded.cross_entropy(networks.classify(head, synthetic.generated), synthetic.labels)
  used = synthetic.where & (synthetic.labels >= 0)
  soft, used = jnp.where(used, soft, 0.0), used.astype(soft.dtype)
  sums = lambda rows: (jnp.sum(soft[rows]), jnp.sum(used[rows]))
  first = soft.shape[0] - tuples.labels.size  # partners come last
  soft = (sums(slice(first)), sums(slice(first, None)))
  return folded.Parts(j_syn, synthetic.reconstructed, soft, synthetic.stats)


@any_axes
def objective(
  networks: Networks,
  params: dict[str, PyTree],
  y: Array,
  z: Array,
  labels: Array,
  state: HdmlState,
  *,
  loss_fn: Callable[..., Array],
  distance_fn: DistanceFn,
  reduce_fn: ReduceFn,
  layout: Layout,
  config: HdmlConfig,
  additive: bool = False,
  mining_fn: MiningFn | None = None,
  key: Array | None = None,
  ids: Array | None = None,
  regularizer: Array | float = 0.0,
  axis_name: str | None = None,
) -> tuple[Array, tuple[HdmlState, dict[str, Any], dict[str, Array]]]:
  """HDML's total loss of a batch, its next state, and what it logs.

  Args:
    networks: see `Networks`.
    params: {"embedding", "generator", "head"}.
    y: [n, f] features of the batch, differentiable to the encoder.
    z: [n, d] their embeddings, differentiable to encoder and embedding.
    labels: [n] int, below the head's number of classes.
    state: window means; constants here.
    loss_fn: tuple loss with its hyperparameters bound; it is given the shared arguments.
    distance_fn: the distance that mining and loss use.
    reduce_fn: the loss's reducer.
    layout: splits the batch into anchors and references (`jaxdml.refs.layouts`).
    config: see `HdmlConfig`.
    additive: `losses.Loss.additive`: synthetic tuples may then be made and forgotten by blocks.
    mining_fn: e.g. `nearest_positive` (EPS); J_syn uses the tuples mined for J_m (`config.slots` of
      each anchor's), and d+ is the distance to the positive kept.
    key: for random miners.
    ids: [n] int, which example each row shows; equal ids are never a pair. None: all are different.
    regularizer: scalar added to J_m (weight decay in the loss), alike on every device.
    axis_name: the mapped axis; psum the gradients over it.

  Returns:
    (total, (next state, new running statistics {"embedding", "generator"}, metrics)).

  Raises:
    ValueError: if the miner makes several rows of an anchor (expand_positives).
  """
  frozen = jax.lax.stop_gradient
  regularizer = reducers.local_share(regularizer, axis_name)

  # J_m, the metric loss on real tuples, and the partners that its miner leaves each anchor.
  anchors, anchor_labels, ids, refs = layout(z, labels, axis_name, ids=ids)
  keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
  pairs = make_pairs(anchors, anchor_labels, refs, distance_fn=distance_fn, ids=ids, keys=keys)
  pairs = mine(pairs, mining_fn)
  if pairs.positive.shape[0] != anchors.shape[0]:
    raise ValueError(
      f"HDML needs a miner that leaves one row an anchor; got {pairs.positive.shape[0]} rows of "
      f"{anchors.shape[0]} anchors (is expand_positives among the miners?)"
    )
  mined = Mined(anchors, anchor_labels, refs, private_tuples(pairs, refs, config.slots))
  loss = folded.TupleLoss(loss_fn, distance_fn, reduce_fn, additive)
  shared = {"ids": ids, "mining_fn": mining_fn, "key": key, "axis_name": axis_name}
  of_tuples = loss(anchors, anchor_labels, refs, **shared)
  j_m = regularizer + of_tuples

  # J_syn, the same loss on tuples that the generator made.
  lam = hardness(state.metric.mean, config.alpha, state.first)
  parts = _parts(networks, params, z, mined, lam, loss, config, axis_name)
  in_real = trust(state.generator.mean, config.beta)
  j_metric = in_real * j_m + (1.0 - in_real) * parts.j_syn

  # J_gen, for the generator alone.
  mean = lambda x, mask=None: reducers.global_mean(x, mask, axis_name=axis_name)
  error = jnp.sum(jnp.square(parts.reconstructed - frozen(y)), axis=-1)
  if config.sum_reconstruction:
    j_recon = reducers.global_sum(jnp.sum(error), axis_name)
  else:
    j_recon = mean(error)
  (of_anchors, anchor_count), (of_partners, partner_count) = parts.soft
  ratio = lambda total, count: reducers.mean.finish(total[None], count[None], axis_name)
  if config.sum_soft:
    j_soft = reducers.global_sum(of_anchors + of_partners, axis_name)
  elif config.joint_soft:
    j_soft = ratio(of_anchors + of_partners, anchor_count + partner_count)
  else:
    j_soft = ratio(of_anchors, anchor_count) + ratio(of_partners, partner_count)
  j_gen = config.reconstruction_weight * j_recon + config.soft_weight * j_soft

  # The head learns from real features only.
  logits = networks.classify(params["head"], frozen(y))
  cross_entropy = mean(folded.cross_entropy(logits, labels), labels >= 0)

  total = j_metric + j_gen + cross_entropy
  center = jnp.mean(frozen(y), axis=0)
  if axis_name is not None:
    center = jax.lax.pmean(center, axis_name)
  variance = mean(jnp.sum(jnp.square(frozen(y) - center), axis=-1))
  relative_error = mean(error) / jnp.maximum(variance, 1e-12)
  of_metric = in_real * j_m if config.weighted_average else j_m
  if config.alpha == "auto":
    of_metric = of_tuples
  of_generator = j_gen
  if config.beta == "auto":
    joint = ratio(of_anchors + of_partners, anchor_count + partner_count)
    of_generator = distrust(relative_error, joint, logits.shape[-1])
  averaged = frozen((of_metric, of_generator))
  if axis_name is not None:
    # A reducer may round differently on each device: the state has to be the same bits on all, or
    # a run resumed from one device's copy is not the run that was interrupted.
    averaged = jax.lax.pmean(averaged, axis_name)
  next_state = update_state(state, *averaged, config.window)
  metrics = {
    "loss/metric": j_metric,
    "loss/real": j_m,
    "loss/synthetic": parts.j_syn,
    "loss/reconstruction": j_recon,
    "loss/soft": j_soft,
    "loss/generator": j_gen,
    "loss/head": cross_entropy,
    "hdml/lambda": lam,
    "hdml/trust_in_real": in_real,
    "hdml/reconstruction_error": relative_error,
    **pull_metrics(anchors, mined.tuples, lam, axis_name),
  }
  metrics = jax.tree.map(frozen, metrics)
  return alike((total, (next_state, parts.stats, metrics)), axis_name)
