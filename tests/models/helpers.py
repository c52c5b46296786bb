"""Small encoders to run, and any of them traced, which computes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import models
from jaxdml.models.resnet import BasicBlock, ResNet

# Small enough to run; the sizes that papers use are only traced.
SMALL = {
  "convnet": functools.partial(models.ConvNet, widths=(4, 8)),
  "resnet": functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=4),
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


def traced(model, shape):
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
  return variables, *jax.eval_shape(apply, variables, images)
