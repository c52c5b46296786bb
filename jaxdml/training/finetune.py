"""Fine-tuning: how much of the learning rate each stage of the encoder gets, and from when on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxdml.training.config import ConfigError, duration
from jaxdml.types import PyTree

__all__ = ["FactorFn", "encoder_factors", "scale_encoder", "stop_frozen"]

FactorFn = Callable[[Sequence[str]], float]
"""Path of a parameter in the encoder's tree -> its share of the learning rate."""


def encoder_factors(config: ConfigDict, encoder: nn.Module) -> FactorFn | None:
  """Each encoder parameter's share of the learning rate; None if all have the whole of it.

  With L stages, stage l = 0..L-1 from the input has

      0                                             l < encoder.frozen_stages
      optimizer.encoder_factor * decay^(L - 1 - l)  else,  decay = optimizer.layer_decay

  (layer-wise decay as in arXiv 1801.06146 and 2106.08254).

  Raises:
    ConfigError: more frozen stages than there are, or factors outside their range.
  """
  frozen, opt = config.encoder.frozen_stages, config.optimizer
  stages = encoder.stages
  if not 0 <= frozen <= len(stages):
    raise ConfigError(
      f"config.encoder.frozen_stages: {config.encoder.name} has {len(stages)} stages "
      f"({', '.join(stages)}); expected 0..{len(stages)}, got {frozen}"
    )
  if opt.encoder_factor <= 0:
    raise ConfigError(
      f"config.optimizer.encoder_factor: expected a positive number; got {opt.encoder_factor}. "
      "encoder.frozen_stages freezes"
    )
  if not 0.0 < opt.layer_decay <= 1.0:
    raise ConfigError(f"config.optimizer.layer_decay: expected (0, 1]; got {opt.layer_decay}")
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
  config: ConfigDict, factor_fn: FactorFn | None, steps_per_epoch: int
) -> optax.GradientTransformation | None:
  """Scales updates["encoder"] by its factors, to 0 before `optimizer.freeze_encoder`.

  None if there is nothing to scale.
  """
  start = duration(config.optimizer.freeze_encoder, steps_per_epoch, "optimizer.freeze_encoder")
  if factor_fn is None and not start:
    return None
  of = (lambda path: 1.0) if factor_fn is None else factor_fn

  def init(params: PyTree) -> optax.ScaleByScheduleState:
    del params
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
