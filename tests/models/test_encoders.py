"""Encoders at work: precision, frozen and synchronised BatchNorm, gradients, wrong input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.googlenet import ConvUnit, Inception
from tests.models.helpers import SMALL, applied, images_of, initialized, step

small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def test_inception_concatenates_its_four_branches():
  block = Inception((1, (2, 3), (2, 4), 5), ConvUnit)
  x = images_of(2, side=4)
  apply = functools.partial(
    block.apply, train=False, capture_intermediates=True, mutable=["intermediates"]
  )
  y, state = jax.jit(apply)(initialized(block, x), x)
  branches = [
    state["intermediates"][name]["__call__"][0] for name in ("1x1", "3x3", "5x5", "pool_proj")
  ]
  assert [branch.shape[-1] for branch in branches] == [1, 3, 4, 5]
  np.testing.assert_array_equal(y, np.concatenate(branches, axis=-1))
  assert (np.asarray(y) >= 0).all()


def test_convnet_features():
  model = models.create("convnet", widths=(4, 8), grid=2)
  images = images_of(3, channels=1)
  features, _ = applied(model, initialized(model, images), images, train=False)
  assert features.shape == (3, 32) == (3, model.feature_dim)
  assert features.dtype == jnp.float32


def test_convnet_keeps_layout():
  """Moving the picture to another quadrant moves the features to another part."""
  model = models.ConvNet(widths=(4, 8), grid=2)
  patch = images_of(1, side=16, channels=1)
  left = jnp.pad(patch, ((0, 0), (0, 16), (0, 16), (0, 0)))
  right = jnp.pad(patch, ((0, 0), (0, 16), (16, 0), (0, 0)))
  variables = initialized(model, left)
  a, b = (applied(model, variables, x, train=False)[0].reshape(2, 2, 8) for x in (left, right))
  np.testing.assert_allclose(a[0, 0], b[0, 1], rtol=0.2, atol=0.05)
  assert np.abs(a[0, 0] - b[0, 0]).max() > 0.1


@pytest.mark.slow
@small
def test_bfloat16_keeps_parameters_statistics_gradients_and_features_float32(make):
  images = images_of(4)
  variables = initialized(make(), images)
  exact = step(make(), variables, images)
  found = step(make(dtype=jnp.bfloat16), variables, images)
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
  assert not np.array_equal(found[0], exact[0])
  np.testing.assert_allclose(found[0], exact[0], atol=0.05 * np.abs(exact[0]).max())


@small
def test_training_moves_running_statistics_and_evaluation_does_not(make):
  images, model = images_of(4), make()
  variables = initialized(model, images)
  for leaf in jax.tree.leaves(variables["batch_stats"]):
    assert set(np.unique(leaf)) <= {0.0, 1.0}, "initialisation counts as no batch"
  _, evaluated = applied(model, variables, images, train=False)
  _, trained, _ = step(model, variables, images)
  for old, same, new in zip(
    *map(
      jax.tree.leaves, (variables["batch_stats"], *(u["batch_stats"] for u in (evaluated, trained)))
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(old, same)
    assert not np.array_equal(old, new)


@small
def test_frozen_batchnorm_trains_as_it_evaluates(make):
  """Its scale and bias have gradients unless told not to, its statistics stay."""
  images = images_of(4)
  variables = initialized(make(), images)
  expected, _ = applied(make(), variables, images, train=False)
  for affine in (False, True):
    model = make(frozen_bn=True, frozen_bn_affine=affine)
    features, updates, gradients = step(model, variables, images)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    kinds = {"kernel": [], "scale": [], "bias": []}
    for path, leaf in jax.tree.leaves_with_path(gradients):
      kinds[path[-1].key].append(bool(np.any(np.asarray(leaf))))
    assert all(kinds["kernel"])
    assert set(kinds["scale"]) == set(kinds["bias"]) == {not affine}


@small
def test_gradients_are_finite_even_for_blank_images(make):
  variables = initialized(make(), images_of(4))
  for images in (jnp.zeros((4, 32, 32, 3)), jnp.repeat(images_of(1), 4, axis=0)):
    _, _, gradients = step(make(), variables, images)
    for leaf in jax.tree.leaves(gradients):
      assert np.isfinite(leaf).all()


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_remat_changes_no_value_statistic_or_gradient(name):
  images = images_of(4)
  variables = initialized(SMALL[name](), images)
  plain, checkpointed = (
    step(SMALL[name](remat=remat), variables, images) for remat in (False, True)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
  jax.tree.map(close, checkpointed, plain)


def test_efficientnet_stages():
  model = SMALL["efficientnet"](pooling="gem")
  assert model.stages == ("stem", "stage1", "stage2", "head", "pool")
  assert model.stage_of(("stage2_1", "expand_bn", "scale")) == "stage2"


def test_blocks_are_left_out_where_the_shape_stays():
  """With its last scale at zero a block is the identity, unless it changes the shape."""
  model = SMALL["efficientnet"](pooling="none")
  variables = initialized(model, images_of(2))
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


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "spread"),
  [("convnet", "vmap"), ("convnet", "pmap"), ("resnet", "pmap"), ("efficientnet", "pmap")],
)
def test_eight_devices_equal_one(name, spread):
  """Features, updated statistics and gradients of 8 x 2 images equal those of 16 at once."""
  assert jax.device_count() == 8, "tests/conftest.py sets XLA_FLAGS before JAX starts"
  make = SMALL[name]
  images = images_of(16)
  variables = initialized(make(), images)
  targets = jnp.asarray(np.random.default_rng(5).normal(size=(16, make().feature_dim)), jnp.float32)

  def step(model, params, images, targets):
    def loss(params):
      state = {**variables, "params": params}
      features, updates = model.apply(state, images, train=True, mutable=["batch_stats"])
      return jnp.mean((features - targets) ** 2), (features, updates)

    gradients, outputs = jax.grad(loss, has_aux=True)(params)
    return gradients, *outputs

  expected = jax.jit(functools.partial(step, make()))(variables["params"], images, targets)

  def local(params, images, targets):
    gradients, features, updates = step(make(axis_name="batch"), params, images, targets)
    return jax.lax.pmean(gradients, "batch"), features, updates

  mapped = {"vmap": jax.vmap, "pmap": jax.pmap}[spread](
    local, axis_name="batch", in_axes=(None, 0, 0)
  )
  gradients, features, updates = mapped(
    variables["params"], images.reshape(8, 2, 32, 32, 3), targets.reshape(8, 2, -1)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
  close(features.reshape(16, -1), expected[1])
  for device in (0, 7):
    jax.tree.map(lambda a, b, device=device: close(a[device], b), updates, expected[2])
    jax.tree.map(lambda a, b, device=device: close(a[device], b), gradients, expected[0])
