"""The training step and the embedding function: plain per-device functions, no pmap in sight."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdml import hdml, models
from jaxdml.models.layers import batch_statistics
from jaxdml.training import networks as networks_lib
from jaxdml.training import optimizers
from jaxdml.training.config import Config, duration
from jaxdml.training.metric_loss import MetricLoss
from jaxdml.types import Array, Batch, PyTree


class TrainState(NamedTuple):
  """Everything a step needs from the one before."""

  step: Array  # int32, steps done
  # {"encoder", "embedding"} and, as the config asks, "lora", "generator", "head", "loss".
  params: dict[str, PyTree]
  batch_stats: dict[str, PyTree]  # running BatchNorm statistics of encoder, embedding, generator
  opt_state: PyTree  # optax's
  hdml: Any  # HDML's window means, or ()
  memory: Any  # the cross-batch queue, the same on every device, or ()
  ema: Any = ()  # averages of parameters and statistics as `networks.averaged` has them


class Parts(NamedTuple):
  """A step's pieces, per device."""

  # (params, state, batch) -> (y, z, running statistics after them), as in training.
  forward: Callable[[dict[str, PyTree], TrainState, Batch], tuple[Array, Array, dict[str, PyTree]]]
  # (state, those statistics, y) -> HDML's networks; only where the config has HDML.
  networks: Callable[[TrainState, dict[str, PyTree], Array], hdml.Networks]
  metric: MetricLoss  # loss, distance, miner and layout
  hdml: hdml.HdmlConfig  # HDML's dials


class Program(NamedTuple):
  """Functions that a config becomes, `step` and `embed` per device.

  Images are uint8, or floats of the same range, and normalised here.
  """

  init: Callable[[Array], TrainState]  # of a key
  step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]  # (state, metrics)
  embed: Callable[[PyTree, Array], Array]  # ({"params", "batch_stats"}, images) -> embeddings
  features: Callable[[PyTree, Array], Array]  # likewise -> the encoder's own features
  learns: Callable[[PyTree], PyTree]  # of `TrainState.params`, those that ever change
  parts: Parts  # what the step is made of, for those who look into it


def moving_average(average: PyTree, new: PyTree, step: Array, decay: float) -> PyTree:
  """The debiased average of `step` earlier values, moved towards `new`.

  e_t = e_{t-1} + (1 - decay) / (1 - decay^t) (new - e_{t-1}) for t = step + 1, which is Adam's
  (arXiv 1412.6980): the exponential average from 0 over the sum of its weights. e_1 = new.
  """
  share = (1 - decay) / -jnp.expm1((step + 1) * math.log(decay))
  # What does not change stays as it is to the last bit, as does the first value.
  move = lambda e, x: jnp.where(step == 0, x, e + (share * (x - e)).astype(e.dtype))
  return jax.tree.map(move, average, new)


def build(
  config: Config,
  *,
  num_classes: int,
  total_steps: int,
  steps_per_epoch: int,
  axis_name: str | None = None,
) -> Program:
  """Builds the program of a resolved config.

  Args:
    config: of `training.resolve`.
    num_classes: training classes; labels are 0..num_classes-1.
    total_steps, steps_per_epoch: for the schedules, for durations in epochs.
    axis_name: mapped axis over which the batch is gathered, BatchNorm synchronised and gradients
      summed; None for one device alone.
  """
  if not isinstance(config, Config):
    raise TypeError(
      f"config: expected a Config, as training.resolve makes it; got {type(config).__name__}"
    )
  embedder = networks_lib.build(config, axis_name)
  encoder, embedding, normalize = embedder.encoder, embedder.embedding, embedder.normalize
  generator = models.Generator(
    encoder.feature_dim, hidden=config.hdml.generator_hidden, axis_name=axis_name
  )
  head = models.SoftmaxHead(num_classes)
  metric = MetricLoss(config, num_classes, steps_per_epoch, axis_name)
  use_hdml = config.hdml.enabled
  dials = {name: config.hdml[name] for name in hdml.HdmlConfig._fields}
  dials |= {name: config.hdml[name] or None for name in ("slots", "block_size")}
  hdml_config = hdml.HdmlConfig(
    **dials | {"window": duration(config.hdml.window, steps_per_epoch, "hdml.window")}
  )
  hdml_warmup = duration(config.hdml.warmup, steps_per_epoch, "hdml.warmup")
  share_fn = optimizers.encoder_shares(config, encoder, steps_per_epoch)
  optimizer = optimizers.create(config, total_steps, steps_per_epoch, share_fn)
  still, ema_decay = networks_lib.frozen(config), config.train.ema_decay
  schedule = optimizers.learning_rate(config, total_steps, steps_per_epoch)

  def init(key: Array) -> TrainState:
    names = ("encoder", "embedding", "generator", "head")
    keys = dict(zip(names, jax.random.split(key, 4), strict=True))
    variables = embedder.init(keys)
    if use_hdml:
      z = jnp.zeros((1, config.embedding.dim))
      variables["generator"] = generator.init(keys["generator"], z, train=False)
      variables["head"] = head.init(keys["head"], jnp.zeros((1, encoder.feature_dim)))
    params = {name: v["params"] for name, v in variables.items()}
    batch_stats = {n: v["batch_stats"] for n, v in variables.items() if "batch_stats" in v}
    if loss_params := metric.init_params(jax.random.fold_in(key, len(keys))):
      params["loss"] = loss_params
    return TrainState(
      step=jnp.int32(0),
      params=params,
      batch_stats=batch_stats,
      opt_state=optimizer.init(trained(params)),
      hdml=hdml.init_state(config.hdml.initial_average) if use_hdml else (),
      memory=metric.init_memory(),
      ema=networks_lib.averaged(config, params, batch_stats),
    )

  def trained(params):
    return {name: tree for name, tree in params.items() if name not in still}

  def learns(params):
    return optimizers.without_frozen(trained(params), share_fn)

  def variables_of(state, params, name):
    variables = {"params": params[name]}
    if name in state.batch_stats:
      variables["batch_stats"] = state.batch_stats[name]
    return variables

  def networks(state: TrainState, stats: dict[str, PyTree], y: Array) -> hdml.Networks:
    """For a batch of real features y, after which the running statistics are `stats`."""

    def embed_synthetic(params, y_synthetic):
      variables = {"params": params}
      if "embedding" not in stats:
        return embedding.apply(variables, y_synthetic, train=True), None
      variables["batch_stats"] = stats["embedding"]
      # Without `mutable` the running statistics stay those of real features.
      if config.hdml.running_bn == "both":
        z, updates = embedding.apply(variables, y_synthetic, train=True, mutable=["batch_stats"])
        new_stats = updates["batch_stats"]
      else:
        z, new_stats = embedding.apply(variables, y_synthetic, train=True), stats["embedding"]
      if config.hdml.synthetic_bn == "real":
        mean, var = batch_statistics(y, axis_name)
        variables["batch_stats"] = {"bn": {"mean": mean, "var": var}}
        z = embedding.apply(variables, y_synthetic, train=False)
      return z, new_stats

    def generate(params, z):
      variables = variables_of(state, {"generator": params}, "generator")
      y, updates = generator.apply(variables, z, train=True, mutable=["batch_stats"])
      return y, updates["batch_stats"]

    def layers(params):
      moving = stats.get("embedding") if config.hdml.running_bn == "both" else None
      given = batch_statistics(y, axis_name) if config.hdml.synthetic_bn == "real" else None
      running = state.batch_stats["generator"]
      return networks_lib.read_layers(embedding, generator, params, running, moving, given)

    return hdml.Networks(
      embed=embed_synthetic,
      generate=generate,
      classify=lambda params, y: head.apply({"params": params}, y),
      layers=layers if networks_lib.foldable(embedding, generator) else None,
    )

  def forward(params, state: TrainState, batch: Batch):
    params = networks_lib.merged(config, params)

    def encode(images):
      variables = variables_of(state, params, "encoder")
      return encoder.apply(variables, normalize(images), train=True, mutable=["batch_stats"])

    if config.encoder.cache_features:
      y, encoder_updates = batch["image"], {}
    else:
      chunk = config.encoder.chunk_size
      y, encoder_updates = networks_lib.encode_in_chunks(encode, batch["image"], chunk)
    z, embedding_updates = embedding.apply(
      variables_of(state, params, "embedding"), y, train=True, mutable=["batch_stats"]
    )
    updates = {"encoder": encoder_updates, "embedding": embedding_updates}
    stats = {name: u["batch_stats"] for name, u in updates.items() if "batch_stats" in u}
    return y, z, {**state.batch_stats, **stats}

  def objective(moving, state: TrainState, batch: Batch, key: Array):
    params = {**state.params, **optimizers.with_frozen(moving, trained(state.params))}
    y, z, stats = forward(params, state, batch)
    regularizer = 0.0
    if config.optimizer.weight_decay and config.optimizer.weight_decay_in_loss:
      metric_part = lambda name: optimizers.GROUPS[name] == "metric"
      decayed = {name: tree for name, tree in trained(params).items() if metric_part(name)}
      regularizer = optimizers.l2_penalty(decayed, config.optimizer.weight_decay)
    if not use_hdml:
      total, memory = metric(params, z, batch, state.memory, state.step, key)
      metrics = {"loss/real": total}
      if config.memory.size:
        metrics["memory/filled"] = memory.filled
      total = total + hdml.local_share(regularizer, axis_name)
      return total, (state.hdml, memory, stats, metrics)
    total, (hdml_state, new_stats, metrics) = hdml.objective(
      networks(state, stats, y),
      {name: params[name] for name in ("embedding", "generator", "head")},
      y,
      z,
      batch["label"],
      state.hdml,
      loss_fn=metric.bind(params),
      **{name: getattr(metric, name) for name in ("distance_fn", "reduce_fn", "mining_fn")},
      **{"additive": metric.additive, "layout": metric.layout},
      config=hdml_config,
      key=key,
      ids=batch["index"],
      regularizer=regularizer,
      axis_name=axis_name,
    )
    stats |= {name: s for name, s in new_stats.items() if s is not None}
    if hdml_warmup:
      waits = lambda old, new: jnp.where(state.step < hdml_warmup, old, new)
      hdml_state = jax.tree.map(waits, state.hdml, hdml_state)
    return total, (hdml_state, state.memory, stats, metrics)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    grad_fn = jax.value_and_grad(objective, has_aux=True)
    (total, (hdml_state, memory, stats, metrics)), grads = grad_fn(
      learns(state.params), state, batch, key
    )
    if axis_name is not None:
      grads = jax.lax.psum(grads, axis_name)
    grad_norm = optax.tree.norm(grads)
    old = trained(state.params)
    grads = optimizers.with_frozen(grads, jax.tree.map(jnp.zeros_like, old))
    updates, opt_state = optimizer.update(grads, state.opt_state, old)
    params = {**state.params, **optax.apply_updates(old, updates)}
    ema = state.ema
    if ema_decay:
      ema = moving_average(ema, networks_lib.averaged(config, params, stats), state.step, ema_decay)
    metrics = {
      "loss": total,
      **metrics,
      "grad_norm": grad_norm,
      "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
      "finite": jnp.isfinite(total + grad_norm + optax.tree.norm(params)),
    }
    state = TrainState(state.step + 1, params, stats, opt_state, hdml_state, memory, ema)
    return state, metrics

  parts = Parts(forward, networks, metric, hdml_config)
  return Program(init, step, embedder.embed, embedder.features, learns, parts)
