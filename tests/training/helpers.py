"""A tiny model and fake images, shared by the training tests."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdml import training
from jaxdml.training import defaults, parallel
from jaxdml.training import program as program_lib


def tiny_config(**overrides):
  """A config of a few thousand parameters; `overrides` are dotted keys."""
  config = defaults.get_config()
  config.data.batch_size = 32
  config.data.image_size = 16
  config.encoder.options = {"widths": (4, 8), "grid": 2}
  config.embedding.dim = 8
  config.hdml.generator_hidden = 16
  config.hdml.alpha = 1.0
  config.hdml.beta = 20.0
  config.hdml.reconstruction_weight = 0.5
  config.hdml.soft_weight = 0.5
  config.hdml.sum_reconstruction = False
  config.hdml.window = "2 steps"
  config.optimizer.learning_rate = 1e-2
  config.train.report = False
  config.update_from_flattened_dict(overrides)
  return config


def fake_batch(step, batch_size=32, classes=20, size=16):
  """Pairs a0 p0 a1 p1 ... of distinct classes with two records each: a pattern plus noise."""
  rng = np.random.default_rng(step)
  label = np.repeat(rng.permutation(classes)[: batch_size // 2], 2).astype(np.int32)
  pattern = np.random.default_rng(0).normal(size=(classes, size, size, 1))
  image = pattern[label] + 0.3 * rng.normal(size=(batch_size, size, size, 1))
  index = 2 * label + np.tile(np.array([0, 1], np.int32), batch_size // 2)
  image = np.clip(127.5 + 50 * image, 0, 255).astype(np.uint8)
  return {"image": image, "label": label, "index": index}


def build_program(config, *, num_classes=20, total_steps=2, steps_per_epoch=2, axis_name=None):
  """The program of a config that a test has written."""
  return program_lib.build(
    training.resolve(config),
    num_classes=num_classes,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
    axis_name=axis_name,
  )


class Compiled(NamedTuple):
  """A program, its state before training on the host, and its compiled step."""

  program: Any
  state: Any
  step: Any


def compiled(config, axis_name=None, **sizes):
  """The one compilation of a test's config, shared by all tests that ask for it again."""
  return _compiled(training.resolve(config), axis_name, tuple(sorted(sizes.items())))


@functools.cache
def _compiled(config, axis_name, sizes):
  program = build_program(config, axis_name=axis_name, **dict(sizes))
  state = jax.tree.map(np.asarray, jax.jit(program.init)(jax.random.key(0)))
  step = jax.jit(program.step) if axis_name is None else parallel.compile_step(program.step)
  return Compiled(program, state, step)


def train(config, batches, **sizes):
  """(metrics of each step as floats, last state) on one device."""
  _, state, step = compiled(config, **sizes)
  metrics = []
  for batch in batches:
    state, scalars = step(state, batch)
    metrics.append({k: float(v) for k, v in scalars.items()})
  return metrics, state


def train_on_all(config, batches, **sizes):
  """Likewise on all devices, the state as it lies there."""
  _, state, step = compiled(config, parallel.AXIS, **sizes)
  state, metrics = parallel.replicate(state), []
  for batch in batches:
    state, scalars = step(state, parallel.split(batch))
    metrics.append({k: float(v) for k, v in parallel.unreplicate(scalars).items()})
  return metrics, state
