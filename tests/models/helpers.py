"""Small encoders to run, and any of them traced, which computes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxdml import models
from jaxdml.models.efficientnet import Stage
from jaxdml.models.resnet import BasicBlock, ResNet

# Small enough to run; the sizes that papers use are only traced.
SMALL = {
  "convnet": functools.partial(models.ConvNet, widths=(4, 8)),
  "resnet": functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=4),
  "efficientnet": functools.partial(
    models.EfficientNetLite,
    layout=(Stage(1, 3, 1, 1, 4), Stage(2, 3, 2, 2, 6)),
    stem_width=4,
    head_width=8,
  ),
}


def images_of(n, side=32, channels=3, seed=0):
  images = np.random.default_rng(seed).normal(size=(n, side, side, channels))
  return jnp.asarray(images, jnp.float32)


@functools.lru_cache
def jitted(model, method):
  """One program a model and shape, whatever the test: eager linen compiles every operation."""
  if method == "init":
    return jax.jit(functools.partial(model.init, train=False))
  apply = functools.partial(model.apply, mutable=["batch_stats"])
  return jax.jit(apply, static_argnames="train")


def initialized(model, images):
  # XLA takes seconds to compile threefry for a CPU, and the bits do not matter here.
  return jitted(model, "init")(jax.random.key(1, impl="rbg"), images)


def applied(model, variables, images, train):
  return jitted(model, "apply")(variables, images, train=train)


@functools.partial(jax.jit, static_argnums=0)
def step(model, variables, images):
  """Features, updated statistics, gradients of the sum of squares; in training mode."""

  def loss(params):
    state = {**variables, "params": params}
    features, updates = model.apply(state, images, train=True, mutable=["batch_stats"])
    return jnp.sum(jnp.square(features)), (features, updates)

  gradients, (features, updates) = jax.grad(loss, has_aux=True)(variables["params"])
  return features, updates, gradients


@functools.lru_cache
def traced_init(name, side=64, **options):
  """An encoder of the registry, its features and variables as shapes, its parameters' paths."""
  model, paths = models.create(name, **options), []

  def init(key, images):
    features, variables = model.init_with_output(key, images, train=False)
    paths.extend(flatten_dict(variables["params"]))  # in the order in which linen made them
    return features, variables

  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  return model, *jax.eval_shape(init, jax.random.key(0), images), paths
