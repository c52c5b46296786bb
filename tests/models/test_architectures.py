"""Every convolutional encoder's size, pooling, stages and checkpointing, mostly traced alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxdml import models
from jaxdml.models.googlenet import INCEPTION
from tests.models.helpers import SMALL, images_of, initialized, traced


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


def test_googlenet_bn_is_the_published_size():
  model = models.create("googlenet_bn")
  variables, features, _ = traced(model, (2, 224, 224, 3))
  assert features.shape == (2, 1024)
  # torchvision says 6,624,904 with the classifier of 1000 classes.
  assert models.count_parameters(variables["params"]) == 6_624_904 - 1025 * 1000
  assert variables["params"]["inception_3a"]["5x5"]["conv"]["kernel"].shape == (3, 3, 16, 32)


def bn_inception_parameters():
  """From table 1 of arXiv 1502.03167, with pooling projections of 128 in 4c and 4d."""
  unit = lambda inputs, outputs, side: inputs * outputs * side * side + 3 * outputs
  total = unit(3, 64, 7) + unit(64, 64, 1) + unit(64, 192, 3)
  inputs = 192
  for single, reduce3, out3, reduce2, out2, projection in (
    (64, 64, 64, 64, 96, 32), (64, 64, 96, 64, 96, 64), (0, 128, 160, 64, 96, 0),
    (224, 64, 96, 96, 128, 128), (192, 96, 128, 96, 128, 128), (160, 128, 160, 128, 160, 128),
    (96, 128, 192, 160, 192, 128), (0, 128, 192, 192, 256, 0),
    (352, 192, 320, 160, 224, 128), (352, 192, 320, 192, 224, 128),
  ):  # fmt: skip
    total += unit(inputs, reduce3, 1) + unit(reduce3, out3, 3)
    total += unit(inputs, reduce2, 1) + unit(reduce2, out2, 3) + unit(out2, out2, 3)
    if single:
      total += unit(inputs, single, 1) + unit(inputs, projection, 1)
    inputs = single + out3 + out2 + (projection or inputs)
  assert inputs == 1024
  return total


def test_bn_inception_is_the_published_size():
  model = models.create("bn_inception")
  variables, features, _ = traced(model, (2, 227, 227, 3))
  assert features.shape == (2, 1024) == (2, model.feature_dim)
  assert models.count_parameters(variables["params"]) == bn_inception_parameters() == 10_270_240


def test_bn_inception_takes_sides_that_pooling_does_not_halve():
  """240 pixels come to 15 before the last halving, where the Caffe model's branches differ."""
  _, features, _ = traced(models.create("bn_inception", pooling="none"), (1, 240, 208, 3))
  assert features.shape == (1, 8, 7, 1024)


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


POOLED = ("resnet18", "googlenet", "googlenet_bn", "bn_inception")


@pytest.mark.parametrize("name", POOLED)
def test_pooling_and_stages(name):
  plain, features, _ = traced(models.create(name), (2, 64, 64, 3))
  for pooling in ("max", "avg+max", "gem"):
    model = models.create(name, pooling=pooling)
    variables, pooled, _ = traced(model, (2, 64, 64, 3))
    assert pooled.shape == features.shape == (2, model.feature_dim)
    params = dict(variables["params"])
    assert (pooling == "gem") == ("pool" in params) == ("pool" in model.stages)
    params.pop("pool", None)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, plain["params"])
  _, spatial, _ = traced(models.create(name, pooling="none"), (2, 64, 96, 3))
  assert spatial.shape == (2, 2, 3, model.feature_dim)
  with pytest.raises(ValueError, match="pooling: expected one of"):
    traced(models.create(name, pooling="mean"), (2, 64, 64, 3))


@pytest.mark.parametrize("name", [*POOLED, "convnet"])
def test_every_parameter_and_statistic_has_a_stage_and_stages_are_in_order(name):
  model = models.create(name)
  variables, _, _ = traced(model, (2, 64, 64, 3))
  found = [model.stage_of(path) for path in flatten_dict(variables["params"])]
  # Linen keeps the order in which modules are called.
  assert tuple(dict.fromkeys(found)) == model.stages
  for path in flatten_dict(variables.get("batch_stats", {})):
    assert model.stage_of(path) in model.stages


@pytest.mark.parametrize("name", POOLED)
def test_remat_checkpoints_every_block(name):
  blocks = {"resnet18": 8, "googlenet": 9, "googlenet_bn": 9, "bn_inception": 10}[name]
  images = jnp.zeros((2, 64, 64, 3))
  counts = {}
  for remat in (False, True):
    model = models.create(name, remat=remat)
    variables, _, _ = traced(model, (2, 64, 64, 3))
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    program = jax.make_jaxpr(apply)(variables, images)
    counts[remat] = sum(eqn.primitive.name.startswith("remat") for eqn in program.eqns)
  assert counts == {False: 0, True: blocks}


def test_remat_changes_no_value_statistic_or_gradient():
  images = images_of(4)
  variables = initialized(SMALL["resnet"](), images)

  def loss(params, model):
    state = {**variables, "params": params}
    features, updates = model.apply(state, images, train=True, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(features)), (features, updates)

  step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
  plain, checkpointed = (
    step(variables["params"], SMALL["resnet"](remat=remat)) for remat in (False, True)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, checkpointed, plain)
