"""`models.from_functions`: the same values, statistics and stages as the functions alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxdml import models

IMAGES = jax.random.uniform(jax.random.key(1), (4, 6, 6, 3))


class Layer:
  """A node of one's own among the parameters, as Equinox has them."""

  def __init__(self, weight):
    self.weight = weight


jax.tree_util.register_pytree_with_keys(
  Layer,
  lambda layer: ([(jax.tree_util.GetAttrKey("weight"), layer.weight)], None),
  lambda _, children: Layer(*children),
)


def init(key, images):
  first, second = jax.random.split(key)
  width = images.shape[-1]
  layers = [Layer(jax.random.normal(k, (width, width))) for k in (first, second)]
  stats = {"mean": jnp.zeros(width), "steps": jnp.int32(0)}
  return {"params": {"layers": layers, "scale": jnp.ones(width)}, "batch_stats": stats}


def apply(variables, images, train):
  params, stats = variables["params"], variables["batch_stats"]
  x = images.mean((1, 2))
  mean = x.mean(0) if train else stats["mean"].astype(x.dtype)
  y = (x - mean) * params["scale"]
  for layer in params["layers"]:
    y = y @ layer.weight
  moved = 0.5 * stats["mean"] + 0.5 * mean
  return y, {"mean": moved, "steps": stats["steps"] + 1}


STAGES = ("scale", "layers.0", "layers.1")


def test_is_the_functions():
  encoder = models.from_functions(init, apply, 3, stages=STAGES)
  key = jax.random.key(0)
  variables = jax.jit(encoder.init, static_argnames="train")(key, IMAGES, train=False)
  names = {".".join(path) for path in flatten_dict(variables["params"])}
  assert names == {"scale", "layers.0.weight", "layers.1.weight"}
  assert {encoder.stage_of(path) for path in flatten_dict(variables["params"])} == set(STAGES)
  assert encoder.stage_of(("layers", "10", "weight")) == "scale"
  own = {"params": None}
  own["params"] = {
    "layers": [Layer(variables["params"]["layers"][i]["weight"]) for i in "01"],
    "scale": variables["params"]["scale"],
  }
  own["batch_stats"] = dict(variables["batch_stats"])
  for train in (False, True):
    expected, stats = apply(own, IMAGES, train)
    features, updates = encoder.apply(variables, IMAGES, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    jax.tree.map(
      np.testing.assert_allclose, updates["batch_stats"], stats if train else own["batch_stats"]
    )
  np.testing.assert_allclose(encoder.apply(variables, IMAGES, train=True), expected, rtol=1e-6)


def test_frozen_statistics_and_bfloat16():
  encoder = models.from_functions(init, apply, 3, frozen_bn=True, dtype=jnp.bfloat16)
  variables = encoder.init(jax.random.key(0), IMAGES, train=False)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables["params"]))
  features, updates = encoder.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
  jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
  exact = models.from_functions(init, apply, 3).apply(variables, IMAGES, train=False)
  assert features.dtype == jnp.float32
  error = np.abs(features - exact).max() / np.abs(exact).max()
  assert 1e-4 < error < 3e-2


def test_statistics_are_the_mean_over_the_devices():
  encoder = models.from_functions(init, apply, 3, axis_name="devices")
  variables = encoder.init(jax.random.key(0), IMAGES, train=False)
  step = lambda images: encoder.apply(variables, images, train=True, mutable=["batch_stats"])[1]
  stats = jax.vmap(step, axis_name="devices")(IMAGES.reshape(2, 2, 6, 6, 3))["batch_stats"]
  expected = 0.5 * np.asarray(IMAGES).mean((0, 1, 2))
  np.testing.assert_allclose(stats["mean"], np.stack([expected] * 2), rtol=1e-5)
  np.testing.assert_array_equal(stats["steps"], [1, 1])


def test_wrong_functions_are_told():
  other = lambda variables, images, train: (images.mean((1, 2)), {"mean": jnp.zeros(3)})
  encoder = models.from_functions(init, other, 3)
  variables = encoder.init(jax.random.key(0), IMAGES, train=False)
  with pytest.raises(ValueError, match="apply: expected new statistics of the same structure as"):
    encoder.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
  bare = models.from_functions(lambda key, images: {"w": jnp.ones(3)}, apply, 3)
  with pytest.raises(ValueError, match=r"init: expected a dict of params and.*; got 'w'"):
    bare.init(jax.random.key(0), IMAGES, train=False)
