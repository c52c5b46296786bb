"""Encoders at work: precision, frozen and synchronised BatchNorm, gradients, wrong input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.googlenet import ConvUnit, Inception
from tests.models.helpers import SMALL, applied, images_of, initialized

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


@small
def test_bfloat16_keeps_parameters_statistics_and_features_float32(make):
  images = images_of(4)
  model, reference = make(dtype=jnp.bfloat16), make()
  variables = initialized(model, images)
  features, updates = applied(model, variables, images, train=True)
  assert features.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}
  exact, _ = applied(reference, variables, images, train=True)
  assert not np.array_equal(features, exact)
  np.testing.assert_allclose(features, exact, atol=0.05 * np.abs(exact).max())


@small
def test_training_moves_running_statistics_and_evaluation_does_not(make):
  images = images_of(4)
  model = make()
  variables = initialized(model, images)
  for leaf in jax.tree.leaves(variables["batch_stats"]):
    assert set(np.unique(leaf)) <= {0.0, 1.0}, "initialisation counts as no batch"
  apply = functools.partial(applied, model, variables, images)
  _, evaluated = apply(train=False)
  _, trained = apply(train=True)
  for old, same, new in zip(
    *map(
      jax.tree.leaves, (variables["batch_stats"], *(u["batch_stats"] for u in (evaluated, trained)))
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(old, same)
    assert not np.array_equal(old, new)


@small
def test_frozen_batchnorm(make):
  images = images_of(4)
  model = make(frozen_bn=True)
  variables = initialized(model, images)
  features, updates = applied(model, variables, images, train=True)
  jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
  alone, _ = applied(model, variables, images[:1], train=True)
  np.testing.assert_allclose(features[:1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("affine", [False, True])
def test_frozen_batchnorm_trains_its_scale_unless_told_not_to(affine):
  images = images_of(4)
  model = models.ConvNet(widths=(4, 8), frozen_bn=True, frozen_bn_affine=affine)
  variables = initialized(model, images)

  def loss(params):
    return jnp.sum(model.apply({**variables, "params": params}, images, train=True) ** 2)

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  assert np.any(gradient["conv0"]["kernel"])
  assert np.any(gradient["bn0"]["scale"]) == (not affine)
  assert np.any(gradient["bn1"]["bias"]) == (not affine)


@small
def test_gradients_are_finite_even_for_blank_images(make):
  model = make()

  @jax.jit
  def gradients(variables, images):
    def loss(params):
      state = {**variables, "params": params}
      features, _ = model.apply(state, images, train=True, mutable=["batch_stats"])
      return jnp.sum(features**2)

    return jax.grad(loss)(variables["params"])

  variables = initialized(model, images_of(4))
  for images in (images_of(4), jnp.zeros((4, 32, 32, 3)), jnp.repeat(images_of(1), 4, axis=0)):
    for leaf in jax.tree.leaves(gradients(variables, images)):
      assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
  ("name", "spread"), [("convnet", "vmap"), ("convnet", "pmap"), ("resnet", "pmap")]
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


@pytest.mark.parametrize(
  ("name", "shape", "match"),
  [
    ("convnet", (1, 30, 30, 1), "multiples of 16, got 30x30"),
    ("convnet", (32, 32, 1), "batch or channel axis"),
    ("resnet18", (1, 16, 64, 3), "at least 32 pixels"),
    ("googlenet", (1, 16, 16, 3), "at least 32 pixels"),
  ],
)
def test_wrong_images_are_refused(name, shape, match):
  with pytest.raises(ValueError, match=match):
    models.create(name).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_undecoded_pixels_are_refused():
  with pytest.raises(TypeError, match="uint8"):
    models.ConvNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 1), jnp.uint8), train=False)


def test_registry_refuses_unknown_names_and_attributes():
  with pytest.raises(ValueError, match=r"convnet, googlenet, .*resnet50.*; got 'resnet5'"):
    models.create("resnet5")
  with pytest.raises(ValueError, match="widths; got 'width'; did you mean 'widths'"):
    models.create("convnet", width=3)
  with pytest.raises(ValueError, match="stage_sizes"):
    models.create("resnet50", stage_sizes=(1, 1))
  assert models.create("resnet18", dtype=jnp.bfloat16).dtype == jnp.bfloat16
