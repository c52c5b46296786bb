"""Every encoder: shapes, sizes, precision, frozen and synchronised BatchNorm, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.googlenet import INCEPTION, ConvUnit, Inception
from jaxdml.models.resnet import BasicBlock, ResNet

# Small enough to run; the sizes that papers use are only traced.
SMALL = {
  "convnet": functools.partial(models.ConvNet, widths=(4, 8)),
  "resnet": functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=4),
}
small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


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


def bottleneck_parameters(inputs, width, projects):
  convolutions = inputs * width + 9 * width * width + width * 4 * width
  norms = 2 * (width + width + 4 * width)
  return convolutions + norms + projects * (inputs * 4 * width + 2 * 4 * width)


def resnet50_parameters():
  total, inputs = 49 * 3 * 64 + 2 * 64, 64
  for stage, blocks in enumerate((3, 4, 6, 3)):
    for block in range(blocks):
      total += bottleneck_parameters(inputs, 64 * 2**stage, projects=block == 0)
      inputs = 4 * 64 * 2**stage
  return total


def googlenet_units():
  """(inputs, outputs, kernel side) of every convolution in table 1 of arXiv 1409.4842."""
  yield from [(3, 64, 7), (64, 64, 1), (64, 192, 3)]
  inputs = 192
  for single, (reduce3, out3), (reduce5, out5), projection in INCEPTION.values():
    yield from [(inputs, single, 1), (inputs, reduce3, 1), (reduce3, out3, 3)]
    yield from [(inputs, reduce5, 1), (reduce5, out5, 5), (inputs, projection, 1)]
    inputs = single + out3 + out5 + projection


def test_resnet50_is_the_published_size():
  model = models.create("resnet50")
  variables, features, updates = traced(model, (2, 224, 224, 3))
  assert features.shape == (2, 2048) == (2, model.feature_dim)
  assert features.dtype == jnp.float32
  assert models.count_parameters(variables["params"]) == resnet50_parameters() == 23_508_032
  assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_resnet18_is_the_published_size():
  model = models.create("resnet18")
  variables, features, _ = traced(model, (2, 64, 96, 3))
  assert features.shape == (2, 512) == (2, model.feature_dim)
  assert models.count_parameters(variables["params"]) == 11_176_512


@pytest.mark.parametrize("batch_norm", [False, True])
def test_googlenet_is_the_published_size(batch_norm):
  model = models.create("googlenet", batch_norm=batch_norm)
  variables, features, _ = traced(model, (2, 227, 227, 3))
  units = list(googlenet_units())
  assert len(units) == 57
  # A bias, or the scale and bias of BatchNorm.
  expected = sum(i * o * k * k + (1 + batch_norm) * o for i, o, k in units)
  assert features.shape == (2, 1024) == (2, model.feature_dim)
  assert models.count_parameters(variables["params"]) == expected
  assert batch_norm or expected == 5_973_552
  assert ("batch_stats" in variables) == batch_norm


def test_googlenet_maps_shrink_as_in_the_paper():
  model = models.GoogLeNet()
  _, state = jax.eval_shape(
    lambda key, images: model.init_with_output(
      key, images, train=False, capture_intermediates=True, mutable=["params", "intermediates"]
    ),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
  )
  shape = {
    k: v["__call__"][0].shape[1:] for k, v in state["intermediates"].items() if k != "__call__"
  }
  assert shape["conv1"] == (112, 112, 64)
  assert shape["conv2"] == (56, 56, 192)
  assert shape["inception_3a"] == (28, 28, 256)
  assert shape["inception_3b"] == (28, 28, 480)
  assert shape["inception_4e"] == (14, 14, 832)
  assert shape["inception_5b"] == (7, 7, 1024)


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
  with pytest.raises(ValueError, match="convnet, googlenet, .*resnet50.*; got 'resnet5'"):
    models.create("resnet5")
  with pytest.raises(ValueError, match="widths; got 'width'; did you mean 'widths'"):
    models.create("convnet", width=3)
  with pytest.raises(ValueError, match="stage_sizes"):
    models.create("resnet50", stage_sizes=(1, 1))
  assert models.create("resnet18", dtype=jnp.bfloat16).dtype == jnp.bfloat16
