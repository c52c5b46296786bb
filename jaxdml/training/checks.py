"""Refusals of configs whose values mean nothing, or cannot work together."""

from __future__ import annotations

import math
from collections.abc import Collection

import jax
from ml_collections import ConfigDict

from jaxdml import distances, hdml, losses, models, refs
from jaxdml.data import cache, preprocess, sampling
from jaxdml.losses import reducers
from jaxdml.models.autoencoder import EMBEDDING_NORMS
from jaxdml.training import metric_loss
from jaxdml.training.config import ConfigError, duration

__all__ = ["check"]

_POSITIVE = (
  "data.batch_size", "data.image_size", "data.images_per_class", "embedding.dim",
  "embedding.kernel_scale", "eval.batch_size", "hdml.generator_hidden", "hdml.initial_average",
  "optimizer.decay_factor", "optimizer.layer_decay", "optimizer.learning_rate", "train.keep",
)  # fmt: skip
_NOT_NEGATIVE = (
  "data.num_workers", "encoder.frozen_stages", "hdml.alpha", "hdml.beta", "hdml.block_size",
  "hdml.reconstruction_weight", "hdml.slots", "hdml.soft_weight", "loss.block_size", "memory.size",
  "optimizer.clip_norm", "optimizer.encoder_factor", "optimizer.generator_learning_rate",
  "optimizer.head_learning_rate", "optimizer.loss_learning_rate", "optimizer.weight_decay", "seed",
)  # fmt: skip
_BELOW = {"embedding.bn_momentum": 1, "memory.size": 2**31, "seed": 2**32}


_METRICS = ("map@r", "r_precision", "nmi", "ami", "f1")
_GROUP = {"all_pairs": 1, "npair": 2, "triplet": 3}


def _check_options(config: ConfigDict) -> None:
  """Options are what is the loss's or the encoder's own, not what training gives them."""
  loss, encoder = config.loss, config.encoder
  for key, options, given in (
    ("loss.options", loss.options, losses.SHARED),
    ("encoder.options", encoder.options, ("axis_name", "dtype", "frozen_bn")),
  ):
    if wrong := sorted(set(options) & set(given)):
      raise ConfigError(
        f"config.{key}: {', '.join(wrong)} is set by training, from keys of its own"
      )


def _check_distance(config: ConfigDict) -> None:
  """Makes what names and options say; what takes distances of unit vectors must get them."""
  loss, mined = config.loss, config.mining
  if loss.distance_options and not loss.distance:
    raise ConfigError(
      f"config.loss.distance_options={dict(loss.distance_options)}: name the distance, too, in "
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
    raise ConfigError(
      "config.mining.negative: distance_weighted_negative knows how often distances of unit "
      "vectors occur; it needs config.loss.distance=normalized_euclidean"
    )
  if loss.name == "histogram" and not (on_sphere or distance_fn is distances.cosine):
    raise ConfigError(
      "config.loss.distance: the histogram loss takes distances of at most 2: cosine (or none "
      f"named) or normalized_euclidean; got {loss.distance}"
    )
  bounds = distance_fn.bounds if isinstance(distance_fn, distances.Distance) else None
  bounded = bounds is not None or config.embedding.unit_norm
  if loss.name == "fast_ap" and not bounded and "max_distance" not in loss.options:
    raise ConfigError(
      f"config.loss.options.max_distance: {loss.distance} has no largest distance; name one, for "
      "fast_ap tells none apart beyond it (4 by default)"
    )


def _check_parameters(config: ConfigDict) -> None:
  """Losses with parameters compare anchors with those, and with nothing else."""
  loss = config.loss
  make = lambda: losses.init(loss.name, jax.random.key(0), 2, 2, **loss.init_options)
  try:
    jax.eval_shape(make)
  except (ValueError, TypeError) as error:
    raise ConfigError(f"config.loss.init_options: {error}") from error
  if losses.LOSSES[loss.name].parameter is None:
    return
  if loss.layout != "all_pairs":
    raise ConfigError(
      f"config.loss.layout: {loss.name} compares each example with its parameters: all_pairs; "
      f"got {loss.layout}"
    )
  if config.hdml.enabled:
    raise ConfigError(f"config.hdml.enabled: {loss.name} has no tuples that HDML could synthesise")


def _check_memory(config: ConfigDict) -> None:
  """A cross-batch memory extends references that all anchors share."""
  memory, loss = config.memory, config.loss
  duration(memory.warmup, 1, "memory.warmup")
  if not memory.size:
    return
  if loss.layout == "triplet":
    raise ConfigError(
      "config.memory.size: the triplet layout gives each anchor references of its own; a memory "
      "needs loss.layout=all_pairs or npair"
    )
  if config.hdml.enabled:
    raise ConfigError("config.memory.size: HDML works on the batch alone; disable one of the two")
  if losses.LOSSES[loss.name].parameter is not None:
    raise ConfigError(
      f"config.memory.size: {loss.name} compares examples with its parameters, not with each other"
    )


def _check_hdml(config: ConfigDict) -> None:
  """HDML's choices, whether its variant made them or the config itself."""
  section = config.hdml
  for name, valid in (
    ("synthetic_members", hdml.MEMBERS),
    ("detach", hdml.DETACH),
    ("synthetic_bn", ("own", "real")),
    ("running_bn", ("real", "both")),
  ):
    _one_of(f"hdml.{name}", section[name], valid)
  duration(section.warmup, 1, "hdml.warmup")
  if duration(section.window, 1, "hdml.window") < 1:
    raise ConfigError(f"config.hdml.window: expected at least 1 step; got {section.window!r}")
  if config.embedding.norm != "batch" and section.synthetic_bn == "real":
    raise ConfigError(
      "config.hdml.synthetic_bn: real needs the BatchNorm of embedding.norm=batch; got "
      f"embedding.norm={config.embedding.norm}"
    )


def _check_data(config: ConfigDict) -> None:
  """Sampler, preprocessing, and the shares of the data that are held out or may be damaged."""
  data, evaluation = config.data, config.eval
  _one_of("data.sampler", data.sampler, sampling.NAMES)
  try:
    preprocess.from_config(data, train=True)
    cache.Decoder(data.cache).check()
  except ValueError as error:
    raise ConfigError(f"config.{error}") from error
  if data.sampler == "hierarchical":
    _positive(config, "data.coarse_per_batch")
    if not data.coarse_label:
      raise ConfigError(
        "config.data.coarse_label: data.sampler=hierarchical needs the column with the group of "
        "each class; got ''"
      )
  if not 0.0 <= data.max_bad_images < 1.0:
    raise ConfigError(
      f"config.data.max_bad_images: expected a share in [0, 1); got {data.max_bad_images}"
    )
  if not 0.0 <= evaluation.validation_fraction < 1.0:
    raise ConfigError(
      "config.eval.validation_fraction: expected a share in [0, 1); "
      f"got {evaluation.validation_fraction}"
    )
  if evaluation.folds < 0 or evaluation.folds == 1:
    raise ConfigError(
      f"config.eval.folds: expected 0 (no cross-validation) or at least 2; got {evaluation.folds}"
    )
  if not 0 <= evaluation.fold < max(evaluation.folds, 1):
    raise ConfigError(
      f"config.eval.fold: expected 0..{max(evaluation.folds, 1) - 1}, a part of "
      f"eval.folds={evaluation.folds}; got {evaluation.fold}"
    )
  if not evaluation.test and not (evaluation.folds or evaluation.validation_fraction):
    raise ConfigError(
      "config.eval.test: False leaves the validation part to measure on, and there is none; set "
      "eval.validation_fraction or eval.folds"
    )
  if evaluation.folds and evaluation.validation_fraction:
    raise ConfigError(
      "config.eval.validation_fraction: eval.folds holds out classes already; set one of them to 0"
    )


def check(config: ConfigDict, device_count: int | None) -> None:
  """Refuses a config whose values cannot work together.

  Args:
    config: with every key of jaxdml/training/defaults.py, none of them open.
    device_count: devices over all hosts; None leaves out what depends on them.

  Raises:
    ConfigError: naming the key, what it takes and what came.
  """
  data, loss = config.data, config.loss
  _check_ranges(config)
  _check_data(config)
  if ":" not in config.encoder.name:  # Else an encoder of the user's own: package.module:factory.
    _one_of("encoder.name", config.encoder.name, sorted(models.ENCODERS))
  _one_of("embedding.norm", config.embedding.norm, EMBEDDING_NORMS)
  _one_of("encoder.dtype", config.encoder.dtype, ("float32", "bfloat16"))
  _one_of("loss.name", loss.name, list(losses.LOSSES))
  _one_of("loss.layout", loss.layout, list(refs.LAYOUTS))
  _one_of("loss.learnable_beta", loss.learnable_beta, ("none", "scalar", "per_class"))
  recalls = [f"recall@{k}" for k in config.eval.ks]
  _one_of("eval.select_by", config.eval.select_by, ("last", *recalls, *_METRICS))
  if config.eval.select_by in ("nmi", "ami", "f1") and not config.eval.clustering:
    raise ConfigError(
      f"config.eval.clustering: eval.select_by={config.eval.select_by} takes clustering; "
      "set this to True, or select by retrieval: map@r, r_precision, recall@K"
    )
  _one_of("optimizer.schedule", config.optimizer.schedule, ("constant", "cosine", "step"))
  _check_hdml(config)
  _check_options(config)
  _check_distance(config)
  if loss.reducer == "none":
    raise ConfigError("config.loss.reducer: training needs one number; none gives one an anchor")
  if loss.learnable_beta != "none" and loss.name != "margin":
    raise ConfigError("config.loss.learnable_beta: only the margin loss has a beta")
  _check_parameters(config)
  _check_memory(config)
  if loss.layout != "all_pairs" and data.sampler != loss.layout:
    raise ConfigError(
      f"config.loss.layout={loss.layout} reads batches in the order of data.sampler={loss.layout}; "
      f"got data.sampler={data.sampler}"
    )
  if "expand_positives" in config.mining.negative + config.mining.positive and config.hdml.enabled:
    raise ConfigError("config.mining: HDML needs one row an anchor; drop expand_positives")
  if device_count is not None:
    _check_devices(config, device_count)


def _check_devices(config: ConfigDict, device_count: int) -> None:
  """Each device gets whole tuples, and whole chunks of them."""
  size, group = config.data.batch_size, _GROUP[config.loss.layout]
  if size % device_count:
    raise ConfigError(
      f"config.data.batch_size: {size} is not divisible by the {device_count} devices"
    )
  if (size // device_count) % group:
    raise ConfigError(
      f"config.data.batch_size: each of the {device_count} devices needs a multiple of {group} for "
      f"loss.layout={config.loss.layout}; got {size} in all"
    )
  chunk = config.encoder.chunk_size
  if chunk < 0 or (chunk and (size // device_count) % chunk):
    raise ConfigError(
      "config.encoder.chunk_size: expected 0 (all at once) or a divisor of the "
      f"{size // device_count} images of each device; got {chunk}"
    )


def _one_of(key: str, value: str, valid: Collection[str]) -> None:
  """Raises ConfigError unless `value`, of `config.key`, is among `valid`."""
  if value not in valid:
    raise ConfigError(f"config.{key}: expected one of {', '.join(valid)}; got {value!r}")


def _positive(config: ConfigDict, *keys: str) -> None:
  """Raises ConfigError for the first of `keys` that is not above 0, or not finite."""
  for key in keys:
    value = _value(config, key)
    if not 0 < value < math.inf:
      raise ConfigError(f"config.{key}: expected a positive number; got {value}")


def _check_ranges(config: ConfigDict) -> None:
  """Refuses numbers that mean nothing, whatever the other keys are.

  Raises:
    ConfigError: naming the key, what it takes and what came.
  """
  _positive(config, *_POSITIVE)
  for key in (*_NOT_NEGATIVE, *_BELOW):
    value, limit = _value(config, key), _BELOW.get(key, math.inf)
    if not 0 <= value < limit:
      upper = "" if limit == math.inf else f" and below {limit}"
      raise ConfigError(f"config.{key}: expected a number of at least 0{upper}; got {value}")
  if not config.eval.ks or not all(isinstance(k, int) and k >= 1 for k in config.eval.ks):
    raise ConfigError(
      f"config.eval.ks: expected whole numbers of at least 1, as (1, 10); got {config.eval.ks}"
    )
  steps = config.optimizer.milestones
  if len({str(step).strip() for step in steps}) < len(steps):
    raise ConfigError(f"config.optimizer.milestones: expected each once; got {steps}")
  if steps and config.optimizer.schedule != "step":
    raise ConfigError(
      "config.optimizer.milestones: optimizer.schedule=step alone has any; got them with "
      f"optimizer.schedule={config.optimizer.schedule}"
    )
  for key in ("log_every", "evaluate_every", "checkpoint_every", "duration"):
    if duration(config.train[key], 1000, f"train.{key}") < 1:
      raise ConfigError(f"config.train.{key}: expected at least 1 step; got {config.train[key]!r}")


def _value(config: ConfigDict, key: str) -> float:
  for name in key.split("."):
    config = config[name]
  return config
