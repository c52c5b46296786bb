"""One optimizer with a group for each of HDML's players, and the shares of the encoder's stages.

Fine-tuning is a matter of shares: how much of the learning rate each stage of the encoder gets,
and from which step on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxdml.training.config import Config, ConfigError, duration
from jaxdml.types import Array, PyTree

_FREEZE, _UNFREEZE = "optimizer.freeze_encoder", "optimizer.unfreeze"


class Share(NamedTuple):
  """A share of the learning rate, and the step from which on it is given."""

  factor: float
  start: int


ShareFn = Callable[[Sequence[str]], Share]
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
  config: Config, total_steps: int, steps_per_epoch: int, share_fn: ShareFn | None = None
) -> optax.GradientTransformation:
  """The optimizer of each group of `GROUPS`, with that group's learning rate.

  Encoder and embedding have `optimizer.name`, the other groups Adam. `share_fn` is the share of
  the rate that each parameter of the encoder gets.
  """
  opt = config.optimizer
  schedule = learning_rate(config, total_steps, steps_per_epoch)
  metric = _metric_optimizer(config, schedule)
  if opt.clip_norm:
    metric = optax.chain(optax.clip_by_global_norm(opt.clip_norm), metric)
  if share_fn is not None:
    metric = optax.chain(metric, scale_encoder(share_fn))
  rates = {"generator": opt.generator_learning_rate, "head": opt.head_learning_rate}
  rates["loss"] = opt.loss_learning_rate
  transforms = {"metric": metric, **{group: optax.adam(rate) for group, rate in rates.items()}}
  label = lambda params: {
    key: jax.tree.map(lambda _, g=GROUPS[key]: g, tree) for key, tree in params.items()
  }
  return optax.partition(transforms, label)


def unfreezing(config: Config, encoder: nn.Module, steps_per_epoch: int) -> dict[str, int | None]:
  """The step from which each stage of the encoder learns; None for never.

  Raises ConfigError: more stages than there are, or what is no duration.
  """
  stages, opt = encoder.stages, config.optimizer

  def count(text: str, key: str) -> int:
    number = len(stages) if text == "all" else int(text) if text.isdecimal() else -1
    if not 0 <= number <= len(stages):
      raise ConfigError(
        f"config.{key}: {config.encoder.name} has {len(stages)} stages ({', '.join(stages)}); "
        f"expected 0..{len(stages)}, got {text}"
      )
    return number

  steps = dict.fromkeys(stages, duration(opt.freeze_encoder, steps_per_epoch, _FREEZE))
  if opt.unfreeze:
    steps = dict.fromkeys(stages)
    if steps_of_all := duration(opt.freeze_encoder, steps_per_epoch, _FREEZE):
      raise ConfigError(
        f"config.{_FREEZE}: {_UNFREEZE} says when each stage begins; expected 0 steps, got "
        f"{steps_of_all} steps"
      )
    for entry in opt.unfreeze:
      when, colon, last = (part.strip() for part in str(entry).partition(":"))
      if not colon:
        raise ConfigError(
          f'config.{_UNFREEZE}: expected "1 epochs: 4" or "3 epochs: all", the last stages that '
          f"learn from then on; got {entry!r}"
        )
      step = duration(when, steps_per_epoch, _UNFREEZE)
      for stage in stages[len(stages) - count(last, _UNFREEZE) :]:
        before = steps[stage]
        steps[stage] = step if before is None else min(step, before)
  frozen = count(str(config.encoder.frozen_stages), "encoder.frozen_stages")
  return steps | dict.fromkeys(stages[:frozen])


def encoder_shares(config: Config, encoder: nn.Module, steps_per_epoch: int) -> ShareFn | None:
  """Each encoder parameter's share of the learning rate; None if all have the whole of it.

  With L stages, stage l = 0..L-1 from the input has, from its step of `unfreezing` on,

      optimizer.encoder_factor * decay^(L - 1 - l),  decay = optimizer.layer_decay

  (layer-wise decay as in arXiv 1801.06146 and 2106.08254, gradual unfreezing as in 1801.06146),
  and before that 0, or for ever.

  Raises ConfigError: as `unfreezing`.
  """
  opt, last = config.optimizer, len(encoder.stages) - 1
  starts = unfreezing(config, encoder, steps_per_epoch)
  if opt.encoder_factor == opt.layer_decay == 1.0 and not any(s != 0 for s in starts.values()):
    return None
  shares = {
    stage: Share(0.0, 0)
    if start is None
    else Share(opt.encoder_factor * opt.layer_decay ** (last - i), start)
    for i, (stage, start) in enumerate(starts.items())
  }
  return lambda path: shares[encoder.stage_of(path)]


def without_frozen(params: PyTree, share_fn: ShareFn | None) -> PyTree:
  """Parameters by group, with None for those of the encoder that get none of the learning rate."""
  if share_fn is None or "encoder" not in params:
    return params
  live = lambda path, x: x if share_fn(_names(path)).factor else None
  return {**params, "encoder": jax.tree_util.tree_map_with_path(live, params["encoder"])}


def with_frozen(moving: PyTree, params: PyTree) -> PyTree:
  """The whole tree again: `moving` of `without_frozen`, and `params` where that left None."""
  put = lambda x, frozen: frozen if x is None else x
  return jax.tree.map(put, moving, params, is_leaf=lambda x: x is None)


def scale_encoder(share_fn: ShareFn) -> optax.GradientTransformation:
  """Scales the updates of the encoder, or of its adapters, to their shares."""

  def init(_: PyTree) -> optax.ScaleByScheduleState:
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates: Any, state: optax.ScaleByScheduleState, params: PyTree = None) -> Any:
    del params

    def scaled(path, u, end):
      share = share_fn(_names(path)[:end])
      moving = (state.count >= share.start).astype(jnp.float32)
      return (u * (share.factor * moving)).astype(u.dtype)

    # An adapter's "a" and "b" stand where the kernel does.
    for name, end in (("encoder", None), ("lora", -1)):
      if name in updates:
        of_name = lambda path, u, end=end: scaled(path, u, end)
        new = jax.tree_util.tree_map_with_path(of_name, updates[name])
        updates = {**updates, name: new}
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _names(path: Sequence[Any]) -> list[str]:
  return [key.key for key in path]
