"""One optimizer with a group for each of HDML's players, and the shares of the encoder's stages.

Fine-tuning is a matter of shares: how much of the learning rate each stage of the encoder gets,
and from which step on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdml.training.config import Config, ConfigError, duration
from jaxdml.types import Array, PyTree

FactorFn = Callable[[Sequence[str]], float]
"""Path of a parameter in the encoder's tree -> its share of the learning rate."""

GROUPS = {
  **dict.fromkeys(("encoder", "embedding"), "metric"),
  **{name: name for name in ("generator", "head", "loss")},
}


def learning_rate(config: Config, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
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
  config: Config, total_steps: int, steps_per_epoch: int, factor_fn: FactorFn | None = None
) -> optax.GradientTransformation:
  """Adam for each group of `GROUPS`, with that group's learning rate.

  `factor_fn` is the share of the rate that each parameter of the encoder gets.
  """
  opt = config.optimizer
  schedule = learning_rate(config, total_steps, steps_per_epoch)
  if opt.weight_decay and not opt.weight_decay_in_loss:
    # Inside optax.partition the other groups' leaves are MaskedNode, which tree.map skips.
    mask = lambda params: {key: _decays(value) for key, value in params.items()}
    metric = optax.adamw(schedule, weight_decay=opt.weight_decay, mask=mask)
  else:
    metric = optax.adam(schedule)
  if opt.clip_norm:
    metric = optax.chain(optax.clip_by_global_norm(opt.clip_norm), metric)
  scale = scale_encoder(config, factor_fn, steps_per_epoch)
  if scale is not None:
    metric = optax.chain(metric, scale)
  rates = {"generator": opt.generator_learning_rate, "head": opt.head_learning_rate}
  rates["loss"] = opt.loss_learning_rate
  transforms = {"metric": metric, **{group: optax.adam(rate) for group, rate in rates.items()}}
  label = lambda params: {
    key: jax.tree.map(lambda _, g=GROUPS[key]: g, tree) for key, tree in params.items()
  }
  return optax.partition(transforms, label)


def encoder_factors(config: Config, encoder: nn.Module) -> FactorFn | None:
  """Each encoder parameter's share of the learning rate; None if all have the whole of it.

  With L stages, stage l = 0..L-1 from the input has

      0                                             l < encoder.frozen_stages
      optimizer.encoder_factor * decay^(L - 1 - l)  else,  decay = optimizer.layer_decay

  (layer-wise decay as in arXiv 1801.06146 and 2106.08254).

  Raises ConfigError: more frozen stages than there are.
  """
  frozen, opt, stages = config.encoder.frozen_stages, config.optimizer, encoder.stages
  if frozen > len(stages):
    raise ConfigError(
      f"config.encoder.frozen_stages: {config.encoder.name} has {len(stages)} stages "
      f"({', '.join(stages)}); expected 0..{len(stages)}, got {frozen}"
    )
  if not frozen and opt.encoder_factor == opt.layer_decay == 1.0:
    return None
  factors = {
    stage: 0.0 if i < frozen else opt.encoder_factor * opt.layer_decay ** (len(stages) - 1 - i)
    for i, stage in enumerate(stages)
  }
  return lambda path: factors[encoder.stage_of(path)]


def stop_frozen(params: PyTree, factor_fn: FactorFn | None) -> PyTree:
  """Stops the gradient of encoder parameters that get none of the learning rate."""
  if factor_fn is None:
    return params
  stop = lambda path, x: x if factor_fn(_names(path)) else jax.lax.stop_gradient(x)
  return jax.tree_util.tree_map_with_path(stop, params)


def scale_encoder(
  config: Config, factor_fn: FactorFn | None, steps_per_epoch: int
) -> optax.GradientTransformation | None:
  """Scales updates["encoder"] by its factors, to 0 before `optimizer.freeze_encoder`.

  None if there is nothing to scale.
  """
  start = duration(config.optimizer.freeze_encoder, steps_per_epoch, "optimizer.freeze_encoder")
  if factor_fn is None and not start:
    return None
  of = (lambda path: 1.0) if factor_fn is None else factor_fn

  def init(_: PyTree) -> optax.ScaleByScheduleState:
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates: Any, state: optax.ScaleByScheduleState, params: PyTree = None) -> Any:
    del params
    moving = (state.count >= start).astype(jnp.float32)
    scale = lambda path, u: (u * (of(_names(path)) * moving)).astype(u.dtype)
    encoder = jax.tree_util.tree_map_with_path(scale, updates["encoder"])
    count = optax.safe_increment(state.count)
    return {**updates, "encoder": encoder}, optax.ScaleByScheduleState(count)

  return optax.GradientTransformation(init, update)


def _names(path: Sequence[Any]) -> list[str]:
  return [key.key for key in path]
