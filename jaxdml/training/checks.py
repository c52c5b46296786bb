"""Refusals of configs whose values mean nothing, or cannot work together.

Each `_..._problems` yields what is wrong as "key: message"; `check` raises the first.
"""

import math
import re
from collections.abc import Collection, Iterator

import jax
from ml_collections import ConfigDict

from jaxdml import distances, hdml, losses, models, refs
from jaxdml.data import cache, preprocess, sampling
from jaxdml.losses import reducers
from jaxdml.models.autoencoder import EMBEDDING_NORMS
from jaxdml.training import metric_loss, optimizers, parallel, writers
from jaxdml.training.config import ConfigError, duration, flatten

_POSITIVE = (
  "data.batch_size", "data.images_per_class", "embedding.dim", "embedding.kernel_scale",
  "encoder.lora.alpha", "eval.batch_size", "hdml.generator_hidden", "hdml.initial_average",
  "optimizer.decay_factor", "optimizer.encoder_factor", "optimizer.layer_decay",
  "optimizer.learning_rate", "train.keep",
)  # fmt: skip
_NOT_NEGATIVE = (
  "data.num_workers", "encoder.frozen_stages", "encoder.lora.rank", "eval.image_size",
  "hdml.block_size",
  "hdml.reconstruction_weight", "hdml.slots", "hdml.soft_weight", "loss.block_size", "memory.size",
  "optimizer.clip_norm", "optimizer.generator_learning_rate",
  "optimizer.head_learning_rate", "optimizer.loss_learning_rate", "optimizer.weight_decay", "seed",
  "train.patience",
)  # fmt: skip
_BELOW = {"embedding.bn_momentum": 1, "train.ema_decay": 1, "memory.size": 2**31, "seed": 2**32}
_SHARES = ("data.max_bad_images", "eval.validation_fraction")
_METRICS = ("map@r", "r_precision", "nmi", "ami", "f1")
_GROUP = {"all_pairs": 1, "npair": 2, "triplet": 3}


def check(config: ConfigDict, device_count: int | None) -> None:
  """Refuses a config whose values cannot work together.

  Args:
    config: with every key of jaxdml/training/defaults.py, none of them open.
    device_count: devices over all hosts; None leaves out what depends on them.

  Raises:
    ConfigError: naming the key, what it takes and what came.
  """
  for problem in _problems(config, device_count):
    raise ConfigError(f"config.{problem}")


def _problems(config: ConfigDict, device_count: int | None) -> Iterator[str]:
  data, loss = config.data, config.loss
  yield from _range_problems(config)
  yield from _data_problems(config)
  if ":" not in config.encoder.name:  # Else an encoder of the user's own: package.module:factory.
    yield from _one_of("encoder.name", config.encoder.name, sorted(models.ENCODERS))
  recalls = [f"recall@{k}" for k in config.eval.ks]
  for key, valid in {
    "embedding.norm": EMBEDDING_NORMS,
    "loss.precision": ("", "highest", "high", "default"),
    "encoder.dtype": ("auto", "float32", "bfloat16"),
    "loss.name": list(losses.LOSSES),
    "loss.layout": list(refs.LAYOUTS),
    "loss.learnable_beta": ("none", "scalar", "per_class"),
    "eval.select_by": ("last", *recalls, *_METRICS),
    "eval.rank_by": ("", "trained", "cosine"),
    "optimizer.schedule": ("constant", "cosine", "step"),
    "train.parallel": parallel.WAYS,
  }.items():
    yield from _one_of(key, _value(config, key), valid)
  try:
    writers.check(config.train.writers)
  except ValueError as error:
    yield f"train.writers: {error}"
  if config.eval.select_by in ("nmi", "ami", "f1") and not config.eval.clustering:
    yield (
      f"eval.clustering: eval.select_by={config.eval.select_by} takes clustering; "
      "set this to True, or select by retrieval: map@r, r_precision, recall@K"
    )
  yield from _hdml_problems(config)
  yield from optimizers.check(config.optimizer.name, config.optimizer.options)
  try:
    re.compile(config.encoder.lora.targets)
  except re.error as error:
    yield f"encoder.lora.targets: {config.encoder.lora.targets!r} is no regular expression: {error}"
  if config.encoder.cache_features and config.encoder.lora.rank:
    yield "encoder.cache_features: an encoder with kept features has no adapters; lora.rank=0"
  if config.encoder.cache_features and jax.process_count() > 1:
    yield f"encoder.cache_features: expected one host, got {jax.process_count()}"
  hidden = config.embedding.hidden
  if not all(isinstance(width, int) and width >= 1 for width in hidden):
    yield f"embedding.hidden: expected whole numbers of at least 1, as (512,); got {hidden}"
  if hidden and config.hdml.enabled and config.hdml.synthetic_bn == "real":
    yield "hdml.synthetic_bn: real takes features that the BatchNorm sees; embedding.hidden=()"
  if config.train.patience and config.eval.select_by == "last":
    yield "train.patience: eval.select_by=last always gets better; select by a metric, or set 0"
  opt = config.optimizer
  if opt.name == "adamw" and opt.weight_decay and opt.weight_decay_in_loss:
    yield (
      "optimizer.weight_decay_in_loss: adamw decays the weights, not the loss; set this to False, "
      "or take optimizer.name=adam"
    )
  if config.eval.plain and not config.hdml.enabled and config.mining.positive == "all_positives":
    yield "eval.plain: the config has neither EPS nor HDML, so it is the plain form already"
  # Options are what is the loss's or the encoder's own, not what training gives them.
  for key, given in {
    "loss.options": losses.SHARED,
    "encoder.options": ("axis_name", "dtype", "frozen_bn"),
  }.items():
    if wrong := sorted(set(_value(config, key)) & set(given)):
      yield f"{key}: {', '.join(wrong)} is set by training, from keys of its own"
  yield from _distance_problems(config)
  if loss.reducer == "none":
    yield "loss.reducer: training needs one number; none gives one an anchor"
  if loss.learnable_beta != "none" and loss.name != "margin":
    yield "loss.learnable_beta: only the margin loss has a beta"
  yield from _parameter_problems(config)
  yield from _memory_problems(config)
  if loss.layout != "all_pairs" and data.sampler != loss.layout:
    yield (
      f"loss.layout={loss.layout} reads batches in the order of data.sampler={loss.layout}; "
      f"got data.sampler={data.sampler}"
    )
  if "expand_positives" in config.mining.negative + config.mining.positive and config.hdml.enabled:
    yield "mining: HDML needs one row an anchor; drop expand_positives"
  if device_count is not None:
    yield from _device_problems(config, device_count)


def _range_problems(config: ConfigDict) -> Iterator[str]:
  """Numbers that mean nothing, whatever the other keys are."""
  yield from _not_positive(config, *_POSITIVE)
  for key in (*_NOT_NEGATIVE, *_BELOW):
    value, limit = _value(config, key), _BELOW.get(key, math.inf)
    if not 0 <= value < limit:
      upper = "" if limit == math.inf else f" and below {limit}"
      yield f"{key}: expected a number of at least 0{upper}; got {value}"
  for key in _SHARES:
    if not 0.0 <= _value(config, key) < 1.0:
      yield f"{key}: expected a share in [0, 1); got {_value(config, key)}"
  ks = config.eval.ks
  if not ks or not all(isinstance(k, int) and k >= 1 for k in ks):
    yield f"eval.ks: expected whole numbers of at least 1, as (1, 10); got {ks}"
  if config.optimizer.layer_decay > 1.0:
    yield f"optimizer.layer_decay: expected (0, 1]; got {config.optimizer.layer_decay}"
  steps, schedule = config.optimizer.milestones, config.optimizer.schedule
  if len({str(step).strip() for step in steps}) < len(steps):
    yield f"optimizer.milestones: expected each once; got {steps}"
  if steps and schedule != "step":
    yield (
      "optimizer.milestones: optimizer.schedule=step alone has any; got them with "
      f"optimizer.schedule={schedule}"
    )
  for key in ("log_every", "evaluate_every", "checkpoint_every", "duration"):
    if duration(config.train[key], 1000, f"train.{key}") < 1:
      yield f"train.{key}: expected at least 1 step; got {config.train[key]!r}"
  for key, value in flatten(config).items():
    if isinstance(value, float) and not math.isfinite(value):  # No JSON could keep it.
      yield f"{key}: expected a finite number; got {value}"


def _data_problems(config: ConfigDict) -> Iterator[str]:
  """Sampler, preprocessing, and what is held out."""
  data, evaluation = config.data, config.eval
  folds, fraction = evaluation.folds, evaluation.validation_fraction
  yield from _one_of("data.sampler", data.sampler, sampling.NAMES)
  if data.image_size == 0 and not config.encoder.init:
    yield "data.image_size: expected at least 1, as no weights (encoder.init) give one; got 0"
  try:
    preprocess.from_config(ConfigDict({**data, "image_size": data.image_size or 1}), train=True)
    cache.Decoder(data.cache).check()
  except ValueError as error:
    yield str(error)
  if data.sampler == "hierarchical":
    yield from _not_positive(config, "data.coarse_per_batch")
    if not data.coarse_label:
      yield (
        "data.coarse_label: data.sampler=hierarchical needs the column with the group of each "
        "class; got ''"
      )
  if folds < 0 or folds == 1:
    yield f"eval.folds: expected 0 (no cross-validation) or at least 2; got {folds}"
  if not 0 <= evaluation.fold < max(folds, 1):
    yield (
      f"eval.fold: expected 0..{max(folds, 1) - 1}, a part of eval.folds={folds}; "
      f"got {evaluation.fold}"
    )
  if not evaluation.test and not (folds or fraction):
    yield (
      "eval.test: False leaves the validation part to measure on, and there is none; set "
      "eval.validation_fraction or eval.folds"
    )
  if folds and fraction:
    yield "eval.validation_fraction: eval.folds holds out classes already; set one of them to 0"


def _hdml_problems(config: ConfigDict) -> Iterator[str]:
  """HDML's choices, whether its variant made them or the config itself."""
  section, norm = config.hdml, config.embedding.norm
  yield from _one_of("hdml.synthetic_members", section.synthetic_members, hdml.MEMBERS)
  yield from _one_of("hdml.detach", section.detach, hdml.DETACH)
  yield from _one_of("hdml.synthetic_bn", section.synthetic_bn, ("own", "real"))
  yield from _one_of("hdml.running_bn", section.running_bn, ("real", "both"))
  for key in ("alpha", "beta"):
    value = section[key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not number and value != "auto":
      yield f"hdml.{key}: expected auto or a number of at least 0; got {value!r}"
  duration(section.warmup, 1, "hdml.warmup")
  if duration(section.window, 1, "hdml.window") < 1:
    yield f"hdml.window: expected at least 1 step; got {section.window!r}"
  if norm != "batch" and section.synthetic_bn == "real":
    yield (
      "hdml.synthetic_bn: real needs the BatchNorm of embedding.norm=batch; got "
      f"embedding.norm={norm}"
    )


def _distance_problems(config: ConfigDict) -> Iterator[str]:
  """Makes what names and options say; what takes distances of unit vectors must get them."""
  loss, mined = config.loss, config.mining
  if loss.distance_options and not loss.distance:
    yield (
      f"loss.distance_options={dict(loss.distance_options)}: name the distance, too, in "
      "config.loss.distance"
    )
  try:
    metric_loss.loss_of(config)
    metric_loss.miner_of(config)
    distance_fn = metric_loss.distance_of(config)
    reducers.create(loss.reducer or "mean")
    models.create(config.encoder.name, **config.encoder.options)
  except (ValueError, TypeError) as error:
    raise ConfigError(f"config: {error}") from error
  on_sphere = distance_fn is distances.normalized_euclidean or (
    distance_fn is distances.euclidean and config.embedding.unit_norm
  )
  weighted = "distance_weighted_negative" in f"{mined.positive}+{mined.negative}".split("+")
  if weighted and not on_sphere:
    yield (
      "mining.negative: distance_weighted_negative knows how often distances of unit vectors "
      "occur; it needs config.loss.distance=normalized_euclidean"
    )
  if loss.name == "histogram" and not (on_sphere or distance_fn is distances.cosine):
    yield (
      "loss.distance: the histogram loss takes distances of at most 2: cosine (or none named) or "
      f"normalized_euclidean; got {loss.distance}"
    )
  bounds = distance_fn.bounds if isinstance(distance_fn, distances.Distance) else None
  bounded = bounds is not None or config.embedding.unit_norm
  if loss.name == "fast_ap" and not bounded and "max_distance" not in loss.options:
    yield (
      f"loss.options.max_distance: {loss.distance} has no largest distance; name one, for "
      "fast_ap tells none apart beyond it (4 by default)"
    )


def _parameter_problems(config: ConfigDict) -> Iterator[str]:
  """Losses with parameters compare anchors with those, and with nothing else."""
  loss = config.loss
  try:
    jax.eval_shape(lambda: losses.init(loss.name, jax.random.key(0), 2, 2, **loss.init_options))
  except (ValueError, TypeError) as error:
    raise ConfigError(f"config.loss.init_options: {error}") from error
  if losses.LOSSES[loss.name].parameter is None:
    return
  if loss.layout != "all_pairs":
    yield (
      f"loss.layout: {loss.name} compares each example with its parameters: all_pairs; "
      f"got {loss.layout}"
    )
  if config.hdml.enabled:
    yield f"hdml.enabled: {loss.name} has no tuples that HDML could synthesise"


def _memory_problems(config: ConfigDict) -> Iterator[str]:
  """A cross-batch memory extends references that all anchors share."""
  memory, loss = config.memory, config.loss
  duration(memory.warmup, 1, "memory.warmup")
  if not memory.size:
    return
  if loss.layout == "triplet":
    yield (
      "memory.size: the triplet layout gives each anchor references of its own; a memory needs "
      "loss.layout=all_pairs or npair"
    )
  if config.hdml.enabled:
    yield "memory.size: HDML works on the batch alone; disable one of the two"
  if losses.LOSSES[loss.name].parameter is not None:
    yield f"memory.size: {loss.name} compares examples with its parameters, not with each other"


def _device_problems(config: ConfigDict, device_count: int) -> Iterator[str]:
  """Each device gets whole tuples, and whole chunks of them."""
  if config.train.parallel == "shard_map" and jax.process_count() > 1:
    yield f"train.parallel: shard_map is for one host, got {jax.process_count()}; use pmap"
  size, group = config.data.batch_size, _GROUP[config.loss.layout]
  if size % device_count:
    yield f"data.batch_size: {size} is not divisible by the {device_count} devices"
  if (size // device_count) % group:
    yield (
      f"data.batch_size: each of the {device_count} devices needs a multiple of {group} for "
      f"loss.layout={config.loss.layout}; got {size} in all"
    )
  chunk = config.encoder.chunk_size
  if chunk < 0 or (chunk and (size // device_count) % chunk):
    yield (
      "encoder.chunk_size: expected 0 (all at once) or a divisor of the "
      f"{size // device_count} images of each device; got {chunk}"
    )


def _one_of(key: str, value: str, valid: Collection[str]) -> Iterator[str]:
  if value not in valid:
    yield f"{key}: expected one of {', '.join(valid)}; got {value!r}"


def _not_positive(config: ConfigDict, *keys: str) -> Iterator[str]:
  for key in keys:
    if not 0 < (value := _value(config, key)) < math.inf:
      yield f"{key}: expected a positive number; got {value}"


def _value(config: ConfigDict, key: str) -> float:
  for name in key.split("."):
    config = config[name]
  return config
