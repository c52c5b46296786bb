"""From a config to its data and its program: what training and looking at a run both start with."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import data
from jaxdml.training import checks, encoder_init, networks, parallel
from jaxdml.training import config as config_lib
from jaxdml.training import program as program_lib
from jaxdml.training.config import Config


def resolve(
  config: ConfigDict, device_count: int | None = None, *, platform: str | None = None
) -> Config:
  """Returns the resolved config of what a user wrote.

  What it leaves open is filled in: HDML's choices by `hdml.variant`, normalisation, size, crop and
  interpolation of the pixels by the weights of `encoder.init`, `encoder.dtype` by the platform.
  Resolving a resolved config changes nothing.

  Args:
    config: with every key of jaxdml/training/defaults.py.
    device_count: devices over all hosts, whose batches must be whole; by default not looked at.
    platform: JAX's name of where it runs; by default that of this process.

  Raises ConfigError: values that mean nothing or cannot work together; weights that do not fit.
  """
  config = config_lib.fill_in(ConfigDict(config))
  checks.check(config, device_count)
  if config.encoder.dtype == "auto":
    on_cpu = (platform or jax.default_backend()) == "cpu"
    config.encoder.dtype = "float32" if on_cpu else "bfloat16"
  if config.encoder.init:
    encoder_init.fill_in(config)
  return Config(config)


@dataclasses.dataclass(frozen=True)
class Setup:
  """A config with the data, as `Splits` has them, and the program that it becomes."""

  config: Config
  train: data.Dataset
  validation: data.Dataset | None
  measured: data.Dataset
  steps_per_epoch: int  # for durations in epochs
  total_steps: int
  program: program_lib.Program

  @property
  def splits(self) -> dict[str, data.Dataset]:
    """Names of what the run is made of."""
    return {"train": self.train, "test" if self.config.eval.test else "validation": self.measured}

  @property
  def selecting(self) -> data.Dataset:
    """The images that select the checkpoint kept."""
    apart = self.validation is not None and self.config.eval.test
    return self.validation if apart else self.measured

  def initial_state(self) -> program_lib.TrainState:
    """The state before training, on the host: random, the encoder as `encoder.init` says."""
    key = jax.random.key(self.config.seed)
    state = jax.tree.map(np.asarray, jax.jit(self.program.init)(key))
    if not self.config.encoder.init:
      return state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables = encoder_init.put(self.config, variables)
    return state._replace(**variables, ema=networks.averaged(self.config, **variables))

  def abstract_state(self) -> program_lib.TrainState:
    """Shapes and dtypes of the state."""
    return jax.eval_shape(self.program.init, jax.random.key(self.config.seed))

  def steps(self, key: str) -> int:
    """The duration `config.train[key]` in steps."""
    return config_lib.duration(self.config.train[key], self.steps_per_epoch, f"train.{key}")


@contextlib.contextmanager
def building() -> Iterator[None]:
  """Turns what networks and losses say of options that make no sense into a ConfigError."""
  try:
    yield
  except config_lib.ConfigError:
    raise
  except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
    raise config_lib.ConfigError(
      f"config: no training step can be made of it: {type(error).__name__}: {error}"
    ) from error


class Splits(NamedTuple):
  """The images of a run."""

  train: data.Dataset  # training images
  validation: data.Dataset | None  # class-disjoint part of the training classes held out, or None
  # What results are of: the test split, or the validation part with eval.test=False.
  measured: data.Dataset


def load_splits(config: ConfigDict) -> Splits:
  """Loads the data of a config; refuses names, columns and classes that are not there."""
  label, test, validation = config.data.label, None, None
  try:
    train = _grouped(config, "train")
    try:
      test = _grouped(config, "test") if config.eval.test else None
    except ValueError as error:
      raise ValueError(
        f"{error}. eval.test=False measures on the validation part of the training classes instead"
      ) from error
    (train if test is None else test).column(config.data.eval_label or label)
    if config.eval.folds:
      folds = data.cross_validation(train, label, config.eval.folds)
      train, validation = folds[config.eval.fold]
    elif config.eval.validation_fraction:
      fraction = config.eval.validation_fraction
      train, validation = data.validation_split(train, label, fraction, config.seed)
    train.classes(label)
  except ValueError as error:
    raise config_lib.ConfigError(f"config.data: {error}") from error
  return Splits(train, validation, validation if test is None else test)


def prepare(config: Config) -> Setup:
  """Loads the data and builds the program of a config.

  Raises:
    ConfigError: the config does not fit the data set, or no program can be built of it.
    DatasetNotPreparedError: the data set is not there.
  """
  splits = load_splits(config)
  steps_per_epoch = -(-len(splits.train) // config.data.batch_size)
  duration = config.train.duration
  total_steps = config_lib.duration(duration, steps_per_epoch, "train.duration")
  with building():
    program = program_lib.build(
      config,
      num_classes=len(splits.train.classes(config.data.label)),
      total_steps=total_steps,
      steps_per_epoch=steps_per_epoch,
      axis_name=parallel.AXIS,
    )
  return Setup(config, *splits, steps_per_epoch, total_steps, program)


def _grouped(config: ConfigDict, split: str) -> data.Dataset:
  """A split with the random groups that its label columns ask for."""
  keys = config.data
  images = data.load(keys.dataset, split, data_dir=keys.data_dir or None)
  for column in (keys.label, keys.eval_label, keys.coarse_label):
    images = data.with_groups(images, column)
  return images


def _check_selection(setup: Setup) -> None:
  """Refuses images without a single query that has a match: every score of theirs is NaN."""
  config, images = setup.config, setup.selecting
  labels = images.column(config.data.eval_label or config.data.label)
  known = labels >= 0
  if data.GALLERY in images.labels:
    stored = images.column(data.GALLERY) == 1
    matches = np.isin(labels[known & ~stored], labels[stored]).any()
  else:
    matches = len(np.unique(labels[known])) < known.sum()
  if not matches and config.eval.select_by != "last":
    raise config_lib.ConfigError(
      f"config.eval.select_by={config.eval.select_by}: none of the {len(labels)} images of "
      f"{images.name} {images.split} has another one of its class to find; hold out other classes "
      "(eval.validation_fraction, eval.fold), or set eval.select_by=last"
    )


def trace(setup: Setup) -> None:
  """Traces a training step: without compiling or running anything.

  Raises:
    ConfigError: options that make no network, loss or step together; a warm-up that never ends;
      images that cannot select a checkpoint.
  """
  _check_selection(setup)
  config, keys = setup.config, setup.config.data
  for section, used in (("hdml", config.hdml.enabled), ("memory", config.memory.size > 0)):
    value, key = config[section].warmup, f"{section}.warmup"
    if used and config_lib.duration(value, setup.steps_per_epoch, key) >= setup.total_steps:
      raise config_lib.ConfigError(
        f"config.{key}: expected to end before training does, after {setup.total_steps} steps; got "
        f"{value!r}"
      )
  batch = abstract_batch(config, keys.batch_size // jax.device_count())
  with building():
    parallel.trace_step(setup.program.step, setup.abstract_state(), batch)


def abstract_batch(
  config: Config, size: int, *, train: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of what a step, or with train=False evaluation, takes of `size` images."""
  side = (not train and config.eval.image_size) or config.data.image_size
  integers = jax.ShapeDtypeStruct((size,), np.int32)
  image = jax.ShapeDtypeStruct((size, side, side, config.data.channels), np.uint8)
  if train and config.encoder.cache_features:
    image = jax.ShapeDtypeStruct((size, networks.build(config).encoder.feature_dim), np.float32)
  return {"image": image, "label": integers, "index": integers}


def sampler(config: ConfigDict, train: data.Dataset) -> data.sampling.Sampler:
  """The sampler of a config; refuses a batch that cannot be made of these classes."""
  keys = config.data
  try:
    return data.sampling.create(
      keys.sampler,
      train.column(keys.label),
      keys.batch_size,
      keys.images_per_class,
      config.seed,
      label=keys.label,
      coarse=train.column(keys.coarse_label) if keys.coarse_label else None,
      coarse_label=keys.coarse_label,
      coarse_per_batch=keys.coarse_per_batch,
    )
  except ValueError as error:
    raise config_lib.ConfigError(f"config: {error}") from error


def train_batches(
  config: ConfigDict,
  train: data.Dataset,
  draw: data.sampling.Sampler,
  *,
  start: int,
  stop: int,
  bad_images: data.BadImages | None = None,
) -> data.Batches:
  """This host's part of the batches that train steps start + 1, ..., stop of a config.

  `draw` is the `sampler` of the images `train`; `bad_images` counts those that cannot be decoded,
  by default a new one by the config's share.
  """
  keys = config.data
  part = {"shard_index": jax.process_index(), "shard_count": jax.process_count()}
  part |= {"start_step": start, "num_steps": stop - start}
  return data.train_batches(
    train,
    draw,
    data.preprocess.from_config(keys, train=True, cache=keys.cache),
    **part | {"label": keys.label, "seed": config.seed, "num_workers": keys.num_workers},
    bad_images=data.BadImages(train, keys.max_bad_images) if bad_images is None else bad_images,
  )
