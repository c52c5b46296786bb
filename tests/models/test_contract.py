"""The contract of every encoder in the registry, traced alone, and of those of one's own."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxdml import models
from jaxdml.models.googlenet import INCEPTION
from tests.models.helpers import traced_init


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


def googlenet_parameters(batch_norm=False):
  units = list(googlenet_units())
  assert len(units) == 57
  # A bias, or the scale and bias of BatchNorm.
  return sum(i * o * k * k + (1 + batch_norm) * o for i, o, k in units)


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


def vit_parameters(width, depth, patch, tokens, *, hidden=None, swiglu=False, scale=False, qkv=3):
  """With `tokens` positions, class tokens and registers, and biases of `qkv` of three matrices."""
  hidden = hidden or 4 * width
  mlp = (2 + swiglu) * width * hidden + (1 + swiglu) * hidden + width
  block = 4 * width * width + (qkv + 1) * width + mlp + 4 * width + 2 * scale * width
  return (3 * patch * patch + 1) * width + tokens * width + depth * block + 2 * width


FLAT_HEAD = 49 * 768 * 768 + 2 * 768 + 768 * 512 + 2 * 512

# Features, parameters as published or counted by hand, and blocks that remat checkpoints.
SIZES = {
  "convnet": (512, 27 * 32 + 64 + 288 * 64 + 128 + 576 * 128 + 256, 0),
  "googlenet": (1024, googlenet_parameters(), 9),
  # torchvision says 6,624,904 with the classifier of 1000 classes.
  "googlenet_bn": (1024, 6_624_904 - 1025 * 1000, 9),
  "bn_inception": (1024, bn_inception_parameters(), 10),
  "resnet18": (512, 11_176_512, 8),
  "resnet50": (2048, resnet50_parameters(), 16),
  # 4,652,008 with a classifier of 1000 classes.
  "efficientnet_lite0": (1280, 4_652_008 - 1281 * 1000, 16),
  "efficientnet_lite1": (1280, 5_416_680 - 1281 * 1000, 21),
  "efficientnet_lite2": (1280, 6_092_072 - 1281 * 1000, 21),
  # The papers' counts, with a classifier of 1000 classes; V2's by timm.
  **{
    name: (dim, with_classes - 1000 * (dim + 1), blocks)
    for names, dim, with_classes, blocks in (
      (("convnext_tiny", "dinov3_convnext_tiny"), 768, 28_589_128, 18),
      (("convnext_small", "dinov3_convnext_small"), 768, 50_223_688, 36),
      (("convnext_base", "dinov3_convnext_base"), 1024, 88_591_464, 36),
      (("convnext_large", "dinov3_convnext_large"), 1536, 197_767_336, 36),
      (("convnextv2_tiny",), 768, 28_635_496, 18),
      (("convnextv2_base",), 1024, 88_717_800, 36),
      (("convnextv2_large",), 1536, 197_956_840, 36),
    )
    for name in names
  },
  # timm's counts, with a classifier of 1000 classes.
  "vit_s16": (384, 22_050_664 - 385 * 1000, 12),
  "vit_b16": (768, 86_567_656 - 769 * 1000, 12),
  "dinov2_s14": (384, 22_056_576 - 384, 12),  # less the mask token
  "dinov2_s14_reg": (384, vit_parameters(384, 12, 14, 37**2 + 2 + 4, scale=True), 12),
  "dinov3_s16plus": (384, vit_parameters(384, 12, 16, 5, swiglu=True, scale=True, qkv=2), 12),
  # The pooling's attention, normalisation and MLP are a block's, but for one normalisation.
  "siglip_b16": (768, vit_parameters(768, 13, 16, 196 - 1), 12),
  "clip_b32": (768, 87_849_216 - 512 * 768, 12),  # OpenAI's count, less the projection
  "unicom_b32": (512, vit_parameters(768, 12, 32, 49, qkv=0) + FLAT_HEAD, 12),
}  # fmt: skip
SIDES = {"dinov2_s14": 70, "dinov2_s14_reg": 70, "unicom_b32": 224}
# One of each family; docs/encoders.md and tests/pretrained/test_docs.py have them all.
TRACED = [name for name in models.ENCODERS
          if name in SIZES or not isinstance(models.create(name), models.ViT)]  # fmt: skip


def test_the_sizes_are_those_of_the_papers():
  found = [SIZES[name][1] for name in ("resnet50", "googlenet", "bn_inception")]
  assert found == [23_508_032, 5_973_552, 10_270_240]
  _, _, variables, _ = traced_init("googlenet", batch_norm=True)
  assert models.count_parameters(variables["params"]) == googlenet_parameters(batch_norm=True)
  _, _, variables, _ = traced_init("googlenet_bn")
  assert variables["params"]["inception_3a"]["5x5"]["conv"]["kernel"].shape == (3, 3, 16, 32)


@pytest.mark.parametrize("name", TRACED)
def test_features_sizes_and_stages(name):
  model, features, variables, paths = traced_init(name, SIDES.get(name, 64))
  dim, parameters, _ = SIZES[name]
  assert isinstance(model, models.Encoder)
  assert features.shape == (2, dim) == (2, model.feature_dim)
  assert features.dtype == jnp.float32
  assert models.count_parameters(variables["params"]) == parameters
  assert tuple(dict.fromkeys(map(model.stage_of, paths))) == model.stages
  for path in flatten_dict(variables.get("batch_stats", {})):
    assert model.stage_of(path) in model.stages


@pytest.mark.parametrize("name", sorted(set(TRACED) - {"convnet"}))
def test_maps_and_remat(name):
  """Without pooling there is the map; every block is checkpointed; training moves statistics."""
  side = SIDES.get(name, 64)
  _, _, variables, _ = traced_init(name, side)
  model = models.create(name, pooling="none", remat=True)
  apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
  images = jax.ShapeDtypeStruct((2, side, side + model.sides[0], 3), jnp.float32)
  program, (maps, updates) = jax.make_jaxpr(apply, return_shape=True)(variables, images)
  shrinks = model.sides[0] if model.sides[1] > 1 else 32
  assert maps.shape == (2, side // shrinks, side // shrinks + 1, model.feature_dim)
  assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(
    variables.get("batch_stats", {})
  )
  remat = sum(eqn.primitive.name.startswith("remat") for eqn in program.eqns)
  assert remat == SIZES[name][2]


def test_gem_is_a_stage_of_its_own():
  for name in ("resnet18", "googlenet", "bn_inception", "efficientnet_lite0"):
    model = models.create(name, pooling="gem")
    assert model.stages == (*models.create(name).stages, "pool")
    assert model.stage_of(("pool", "p")) == "pool"
  _, plain, without, _ = traced_init("resnet18")
  _, features, variables, _ = traced_init("resnet18", pooling="gem")
  assert features.shape == plain.shape
  params = dict(variables["params"])
  assert params.pop("pool")["p"].shape == ()
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, without["params"])


def test_unknown_poolings_are_refused():
  for name, pooling in (("resnet18", "mean"), ("vit_s16", "mean")):
    with pytest.raises(ValueError, match="pooling: expected one of"):
      traced_init(name, pooling=pooling)


def test_bn_inception_takes_sides_that_pooling_does_not_halve():
  """240 pixels come to 15 before the last halving, where the Caffe model's branches differ."""
  model, _, variables, _ = traced_init("bn_inception")
  apply = functools.partial(model.clone(pooling="none").apply, train=False)
  images = jax.ShapeDtypeStruct((1, 240, 208, 3), jnp.float32)
  assert jax.eval_shape(apply, variables, images).shape == (1, 8, 7, 1024)


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


@pytest.mark.parametrize(
  ("name", "shape", "match"),
  [
    ("convnet", (1, 30, 30, 1), "multiples of 16, got 30x30"),
    ("convnet", (32, 32, 1), "batch or channel axis"),
    ("resnet18", (1, 16, 64, 3), "at least 32 pixels"),
    ("googlenet", (1, 16, 16, 3), "at least 32 pixels"),
    ("vit_s16", (1, 40, 32, 3), "multiples of 16, got 40x32"),
  ],
)
def test_wrong_images_are_refused(name, shape, match):
  with pytest.raises(ValueError, match=match):
    models.create(name).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_undecoded_pixels_are_refused():
  with pytest.raises(TypeError, match="uint8"):
    models.ConvNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 1), jnp.uint8), train=False)


def make_own(width=4):
  return models.ConvNet(widths=(width,))


def make_dict():
  return {}


NO_FACTORY = 3


def test_names():
  with pytest.raises(ValueError, match=r"convnet, .*googlenet, .*resnet50.*; got 'resnet5'"):
    models.create("resnet5")
  with pytest.raises(ValueError, match="widths; got 'width'; did you mean 'widths'"):
    models.create("convnet", width=3)
  with pytest.raises(ValueError, match="stage_sizes"):
    models.create("resnet50", stage_sizes=(1, 1))
  assert models.create("resnet18", dtype=jnp.bfloat16).dtype == jnp.bfloat16
  with pytest.raises(ValueError, match="'convnet' is registered already"):
    models.register("convnet", models.ConvNet)


def test_names_of_ones_own():
  assert models.create(f"{__name__}:make_own", width=8).widths == (8,)
  assert models.create("jaxdml.models:ResNet18", width=8).feature_dim == 64
  with pytest.raises(ValueError, match="did you mean 'widths'"):
    models.create("jaxdml.models:ConvNet", width=3)
  with pytest.raises(TypeError, match=r"make_dict returned dict; expected a jaxdml\.models\.Encod"):
    models.create(f"{__name__}:make_dict")
  for name, match in (
    ("nowhere:make", "cannot import 'nowhere:make': No module named 'nowhere'"),
    (f"{__name__}:make_it", "has no attribute 'make_it'"),
    (f"{__name__}:NO_FACTORY", "is 3"),
    (":make", "cannot import"),
  ):
    with pytest.raises(ValueError, match=match):
      models.create(name)
