"""EfficientNet-Lite: size, stages, and the depthwise convolution that is written for CPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdml import models
from jaxdml.models import depthwise
from jaxdml.models.efficientnet import Stage

tiny = functools.partial(
  models.EfficientNetLite,
  layout=(Stage(1, 3, 1, 1, 4), Stage(2, 3, 2, 2, 6)),
  stem_width=4,
  head_width=8,
)


def images_of(n, side=32, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, side, side, 3)), jnp.float32)


@functools.lru_cache
def initialized(model):
  init = jax.jit(functools.partial(model.init, train=False))
  return init(jax.random.key(1, impl="rbg"), images_of(1))


@functools.partial(jax.jit, static_argnums=0)
def step(model, variables, images):
  """Features, updated statistics, gradients of the sum of squares; in training mode."""

  def loss(params):
    state = {**variables, "params": params}
    features, updates = model.apply(state, images, train=True, mutable=["batch_stats"])
    return jnp.sum(jnp.square(features)), (features, updates)

  gradients, (features, updates) = jax.grad(loss, has_aux=True)(variables["params"])
  return features, updates, gradients


def test_lite0_is_the_published_size():
  model = models.create("efficientnet_lite0")
  init = functools.partial(model.init, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
  # 4,652,008 with a classifier of 1000 classes.
  assert models.count_parameters(variables["params"]) == 4_652_008 - 1281 * 1000
  maps = model.clone(pooling="none")
  shape = jax.eval_shape(functools.partial(maps.apply, train=False), variables, images_of(2, 97))
  assert shape.shape == (2, 4, 4, 1280) and model.feature_dim == 1280


def test_stages_follow_each_other_from_input_to_output():
  model = tiny(pooling="gem")
  paths = traverse_util.flatten_dict(initialized(model)["params"])
  assert model.stages == ("stem", "stage1", "stage2", "head", "pool")
  assert {model.stage_of(path) for path in paths} == set(model.stages)
  assert model.stage_of(("stage2_1", "expand_bn", "scale")) == "stage2"


def test_blocks_are_left_out_where_the_shape_stays():
  """With its last scale at zero a block is the identity, unless it changes the shape."""
  model = tiny(pooling="none")
  variables = initialized(model)
  without = jax.tree.map(lambda x: x, variables)
  without["params"]["stage2_1"]["project_bn"]["scale"] *= 0
  _, state = jax.jit(
    functools.partial(
      model.apply, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
  )(without, images_of(2))
  maps = {k: v["__call__"][0] for k, v in state["intermediates"].items() if k != "__call__"}
  np.testing.assert_array_equal(maps["stage2_1"], maps["stage2_0"])
  assert maps["stage1_0"].shape == (2, 16, 16, 4) and maps["stage2_0"].shape == (2, 8, 8, 6)


def test_remat_changes_nothing_but_memory():
  expected = step(tiny(), initialized(tiny()), images_of(4))
  found = step(tiny(remat=True), initialized(tiny()), images_of(4))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, expected)


def test_bfloat16_keeps_parameters_statistics_gradients_and_features_float32():
  exact = step(tiny(), initialized(tiny()), images_of(4))
  found = step(tiny(dtype=jnp.bfloat16), initialized(tiny()), images_of(4))
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
  assert not np.array_equal(found[0], exact[0])
  np.testing.assert_allclose(found[0], exact[0], atol=0.05 * np.abs(exact[0]).max())


@pytest.mark.slow
def test_two_devices_equal_one():
  images = images_of(8)
  variables = initialized(tiny())
  features, updates, _ = step(tiny(), variables, images)
  spread = jax.pmap(functools.partial(step, tiny(axis_name="batch")), "batch", in_axes=(None, 0))
  found, moved, _ = spread(variables, images.reshape(2, 4, 32, 32, 3))
  np.testing.assert_allclose(found.reshape(features.shape), features, rtol=2e-4, atol=2e-5)
  for a, b in zip(*map(jax.tree.leaves, (moved, updates)), strict=True):
    np.testing.assert_allclose(a[1], b, rtol=2e-4, atol=2e-5)


def test_frozen_batchnorm():
  variables = initialized(tiny())
  model = tiny(frozen_bn=True, frozen_bn_affine=True)
  features, updates, gradients = step(model, variables, images_of(4))
  jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
  alone = jax.jit(model.apply, static_argnums=2)(variables, images_of(4)[:1], False)
  np.testing.assert_allclose(features[:1], alone, rtol=1e-4, atol=1e-5)
  assert np.any(gradients["stem_conv"]["kernel"])
  assert not np.any(gradients["stage2_0"]["depthwise_bn"]["scale"])


@pytest.mark.parametrize(
  ("height", "width", "size", "stride"),
  [(8, 6, 3, 1), (9, 7, 3, 2), (8, 10, 5, 2), (2, 1, 5, 2), (1, 3, 5, 1), (4, 5, 3, 3)],
)
def test_depthwise_is_xlas(height, width, size, stride):
  """Values and both gradients, of the sum that CPUs run and of the convolution that others do."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(size, size, 1, 3)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(convolve, x, kernel):
    value = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, stride)))
    return convolve(x, kernel, stride), *jax.grad(value, (0, 1))(x, kernel)

  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
  jax.tree.map(close, run(depthwise.depthwise, x, kernel), run(depthwise._native, x, kernel))


def test_depthwise_runs_no_convolution_on_a_cpu_alone():
  """Both ways are lowered where the platform is not known, one of them where it is."""
  x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
  gradients = jax.grad(lambda x, k: depthwise.depthwise(x, k, 1).sum(), (0, 1))
  for function in (functools.partial(depthwise.depthwise, stride=1), gradients):
    traced = jax.jit(function).trace(x, kernel)
    assert "convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()
