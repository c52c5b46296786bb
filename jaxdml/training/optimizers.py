"""One optimizer, a labelled group for each of HDML's players (optax.partition)."""

from __future__ import annotations

import jax
import optax
from ml_collections import ConfigDict

from jaxdml.training import finetune
from jaxdml.training.config import duration
from jaxdml.types import Array, PyTree

__all__ = ["GROUPS", "create", "l2_penalty", "learning_rate"]

GROUPS = {
  "encoder": "metric",
  "embedding": "metric",
  "generator": "generator",
  "head": "head",
  "loss": "loss",
}


def learning_rate(config: ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
  """step -> learning rate of encoder and embedding: linear warm-up, then the named schedule."""
  opt = config.optimizer
  warmup = duration(opt.warmup, steps_per_epoch, "optimizer.warmup")
  peak = opt.learning_rate
  if opt.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1))
  elif opt.schedule == "step":
    steps = [duration(m, steps_per_epoch, "optimizer.milestones") - warmup for m in opt.milestones]
    after = optax.piecewise_constant_schedule(peak, dict.fromkeys(steps, opt.decay_factor))
  else:
    after = optax.constant_schedule(peak)
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _decays(params: PyTree) -> PyTree:
  """True for weights: everything but a normalisation's scale and bias, and GeM's exponent p."""

  def mark(tree):
    if not isinstance(tree, dict):
      return True
    if "scale" in tree or tree.keys() == {"p"}:
      return dict.fromkeys(tree, False)
    return {key: mark(value) for key, value in tree.items()}

  return mark(params)


def l2_penalty(params: PyTree, weight: float) -> Array:
  """weight / 2 * sum of squared weights, BatchNorm excluded: weight decay as a term of J_m."""
  marks = jax.tree.leaves(_decays(params))
  squares = [(p**2).sum() for p, use in zip(jax.tree.leaves(params), marks, strict=True) if use]
  return 0.5 * weight * sum(squares)


def create(
  config: ConfigDict,
  total_steps: int,
  steps_per_epoch: int,
  factor_fn: finetune.FactorFn | None = None,
) -> optax.GradientTransformation:
  """Adam for each group of `GROUPS`, with that group's learning rate.

  Args:
    config: with every key of jaxdml/training/defaults.py.
    total_steps: for the schedule.
    steps_per_epoch: for durations in epochs.
    factor_fn: the share of the rate that each parameter of the encoder gets.
  """
  opt = config.optimizer
  schedule = learning_rate(config, total_steps, steps_per_epoch)
  if opt.weight_decay and not opt.weight_decay_in_loss:
    metric = optax.adamw(schedule, weight_decay=opt.weight_decay, mask=_decay_mask)
  else:
    metric = optax.adam(schedule)
  if opt.clip_norm:
    metric = optax.chain(optax.clip_by_global_norm(opt.clip_norm), metric)
  scale = finetune.scale_encoder(config, factor_fn, steps_per_epoch)
  if scale is not None:
    metric = optax.chain(metric, scale)
  transforms = {
    "metric": metric,
    "generator": optax.adam(opt.generator_learning_rate),
    "head": optax.adam(opt.head_learning_rate),
    "loss": optax.adam(opt.loss_learning_rate),
  }
  label = lambda params: {
    key: jax.tree.map(lambda _, g=GROUPS[key]: g, tree) for key, tree in params.items()
  }
  return optax.partition(transforms, label)


def _decay_mask(params: PyTree) -> PyTree:
  # Inside optax.partition the other groups' leaves are MaskedNode, which tree.map skips.
  return {key: _decays(value) for key, value in params.items()}
