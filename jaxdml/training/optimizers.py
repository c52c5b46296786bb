"""One optimizer with a group for each of HDML's players, and the shares of the encoder's stages.

Fine-tuning is a matter of shares: how much of the learning rate each stage of the encoder gets,
and from which step on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxdml.training.config import Config, ConfigError, duration
from jaxdml.types import Array, PyTree

FactorFn = Callable[[Sequence[str]], float]
"""Path of a parameter in the encoder's tree -> its share of the learning rate."""

_SHARE, _POSITIVE, _COUNT, _SWITCH = (
  "a number in [0, 1)", "a positive number", "a whole number of at least 1", "True or False",
)  # fmt: skip
_ADAM = {"b1": _SHARE, "b2": _SHARE, "eps": _POSITIVE}
_MUON = {"beta": _SHARE, "adam_b1": _SHARE, "adam_b2": _SHARE, "eps": _POSITIVE}

OPTIMIZERS = {
  "adam": {**_ADAM, "nesterov": _SWITCH},
  "adamw": {**_ADAM, "nesterov": _SWITCH},
  "lamb": _ADAM,
  "lion": {"b1": _SHARE, "b2": _SHARE},
  "muon": {**_MUON, "ns_steps": _COUNT, "nesterov": _SWITCH, "consistent_rms": _POSITIVE},
  "sgd": {"momentum": _SHARE, "nesterov": _SWITCH},
}
"""What `optimizer.name` takes -> what each of its `optimizer.options` is; the rest is optax's."""

GROUPS = {
  **dict.fromkeys(("encoder", "lora", "embedding"), "metric"),
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


def check(name: str, options: Mapping[str, Any]) -> Iterator[str]:
  """Yields "key: message" of an optimizer that is unknown or does not take its options."""
  if name not in OPTIMIZERS:
    yield f"optimizer.name: expected one of {', '.join(OPTIMIZERS)}; got {name!r}"
    return
  known = OPTIMIZERS[name]
  for key, value in options.items():
    if key not in known:
      yield f"optimizer.options: {name} takes {', '.join(known)}; got {key!r}"
    elif not _is(known[key], value):
      yield f"optimizer.options.{key}: expected {known[key]}; got {value!r}"


def _is(kind: str, value: Any) -> bool:
  if isinstance(value, bool) or kind == _SWITCH:
    return isinstance(value, bool) and kind == _SWITCH
  if not isinstance(value, int if kind == _COUNT else int | float):
    return False
  return 0 <= value < 1 if kind == _SHARE else 0 < value < math.inf


def _direction(name: str, options: dict[str, Any]) -> optax.GradientTransformation:
  """Turns a gradient into what the learning rate and the sign are still to be put on."""
  if name == "sgd":
    momentum = options.pop("momentum", 0.0)
    return optax.trace(momentum, **options) if momentum else optax.identity()
  if name == "lion":
    return optax.scale_by_lion(**options)
  if name == "muon":
    # Matrices are orthogonalised; biases, kernels of convolutions and tokens have Adam. optax
    # gives it whole, with rate and sign.
    return optax.chain(optax.contrib.muon(1.0, **options), optax.scale(-1.0))
  return optax.scale_by_adam(**{"eps": 1e-6, **options} if name == "lamb" else options)


def _metric_optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
  """`optimizer.name` for encoder and embedding, with decoupled decay of the weights if asked.

  With the defaults it is optax.adam or optax.adamw, state and all.
  """
  opt = config.optimizer
  parts = [_direction(opt.name, dict(opt.options))]
  if opt.weight_decay and not opt.weight_decay_in_loss:
    # Inside optax.partition the other groups' leaves are MaskedNode, which tree.map skips.
    mask = lambda params: {key: _decays(value) for key, value in params.items()}
    parts.append(optax.add_decayed_weights(opt.weight_decay, mask))
  if opt.name == "lamb":
    parts.append(optax.scale_by_trust_ratio())
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def create(
  config: Config, total_steps: int, steps_per_epoch: int, factor_fn: FactorFn | None = None
) -> optax.GradientTransformation:
  """The optimizer of each group of `GROUPS`, with that group's learning rate.

  Encoder and embedding have `optimizer.name`, the other groups Adam. `factor_fn` is the share of
  the rate that each parameter of the encoder gets.
  """
  opt = config.optimizer
  schedule = learning_rate(config, total_steps, steps_per_epoch)
  metric = _metric_optimizer(config, schedule)
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


def without_frozen(params: PyTree, factor_fn: FactorFn | None) -> PyTree:
  """Parameters by group, with None for those of the encoder that get none of the learning rate."""
  if factor_fn is None or "encoder" not in params:
    return params
  live = lambda path, x: x if factor_fn(_names(path)) else None
  return {**params, "encoder": jax.tree_util.tree_map_with_path(live, params["encoder"])}


def with_frozen(moving: PyTree, params: PyTree) -> PyTree:
  """The whole tree again: `moving` of `without_frozen`, and `params` where that left None."""
  put = lambda x, frozen: frozen if x is None else x
  return jax.tree.map(put, moving, params, is_leaf=lambda x: x is None)


def scale_encoder(
  config: Config, factor_fn: FactorFn | None, steps_per_epoch: int
) -> optax.GradientTransformation | None:
  """Scales the updates of the encoder, or of its adapters, to 0 before `optimizer.freeze_encoder`.

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
    # An adapter's "a" and "b" stand where the kernel does.
    for name, end in (("encoder", None), ("lora", -1)):
      if name in updates:
        scale = lambda path, u, end=end: (u * (of(_names(path)[:end]) * moving)).astype(u.dtype)
        scaled = jax.tree_util.tree_map_with_path(scale, updates[name])
        updates = {**updates, name: scaled}
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _names(path: Sequence[Any]) -> list[str]:
  return [key.key for key in path]
