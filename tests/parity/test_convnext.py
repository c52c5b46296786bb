"""ConvNeXt, V2 and DINOv3's against timm and transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdml import models, pretrained
from jaxdml.models.layers import POOLINGS
from jaxdml.pretrained import conversion
from tests.parity import torch_models

torch = torch_models.torch
TOLERANCE = 1e-5
SMALL = {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 40)}
SIZES = [(64, 64), (70, 97)]
FAMILIES = {  # family -> ours, timm's name, the classes of transformers
  "convnext": ({}, "convnext_tiny", "ConvNext"),
  "convnextv2": (
    {"layer_scale": None, "response_norm": True}, "convnextv2_tiny", "ConvNextV2"
  ),
  "dinov3_convnext": ({}, "convnext_tiny.dinov3_lvd1689m", "DINOv3ConvNext"),
}  # fmt: skip
families = pytest.mark.parametrize("family", FAMILIES)


def encoder_of(family, **options):
  return models.ConvNeXt(**SMALL, **FAMILIES[family][0], **options)


def published(family):
  return models.ENCODERS[f"{family}_tiny"].published


@functools.cache
def timm_s(family, classes=10, small=True):
  sizes = {"depths": SMALL["depths"], "dims": SMALL["widths"]} if small else {}
  create = torch_models.peer("timm").create_model
  return torch_models.randomize(create(FAMILIES[family][1], num_classes=classes, **sizes), seed=5)


def images_of(height, width):
  square, _ = torch_models.pixels(max(height, width))
  images = square[:, :height, :width]
  return images, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@functools.lru_cache
def applied(*encoders):
  """The features of encoders that differ in their pooling alone, by one program."""
  return jax.jit(lambda variables, x: [e.apply(variables, x, False) for e in encoders])


def check(found, bound=TOLERANCE):
  print(" ".join(f"{x:.1e}" for x in found))
  assert max(found) <= bound, found


@families
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_timm(family, height, width):
  """Features, logits and the map."""
  module = timm_s(family)
  weights = conversion.rename(encoder_of(family), published(family), torch_models.state_of(module))
  images, tensor = images_of(height, width)
  with torch.no_grad():
    whole = module.forward_features(tensor)
    theirs = module.forward_head(whole, pre_logits=True)
    logits, grid = module.head.fc(theirs), module.head.norm(whole).permute(0, 2, 3, 1)
  encoders = encoder_of(family), encoder_of(family, pooling="none", remat=True)
  features, ours = applied(*encoders)({"params": weights["params"]}, images)
  found = (features, theirs), (ours, grid)
  found += ((pretrained.logits(features, weights["classifier"]), logits),)
  check([torch_models.difference(a, b) for a, b in found])


def test_every_pooling(family="convnextv2"):
  module = timm_s(family)
  weights = conversion.rename(encoder_of(family), published(family), torch_models.state_of(module))
  images, tensor = images_of(*SIZES[1])
  with torch.no_grad():
    x = module.forward_features(tensor)
    mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    gem = (x.clamp(min=1e-6) ** 3).mean((2, 3), keepdim=True) ** (1 / 3)
    pooled = {"avg": mean, "max": most, "avg+max": mean + most, "gem": gem, "none": x}
    theirs = [module.head.norm(pooled[kind]).permute(0, 2, 3, 1) for kind in POOLINGS]
  params = weights["params"] | {"pool": {"p": jnp.array(3.0)}}
  ours = applied(*(encoder_of(family, pooling=kind) for kind in POOLINGS))(
    {"params": params}, images
  )
  check([
    torch_models.difference(a.reshape(b.shape), b) for a, b in zip(ours, theirs, strict=True)
  ])  # fmt: skip


@families
def test_bfloat16(family):
  """Within 5 % of float32's largest value."""
  module = timm_s(family)
  weights = conversion.rename(encoder_of(family), published(family), torch_models.state_of(module))
  images, tensor = images_of(*SIZES[0])
  with torch.no_grad():
    theirs = module.forward_head(module.forward_features(tensor), pre_logits=True)
  (ours,) = applied(encoder_of(family, dtype=jnp.bfloat16))({"params": weights["params"]}, images)
  assert ours.dtype == jnp.float32
  found = torch_models.difference(ours, theirs)
  check([found], 0.05)
  assert found > TOLERANCE


def transformers_model(family, classes, sizes):
  """With a classifier where the library has one."""
  transformers, kind = torch_models.peer("transformers"), FAMILIES[family][2]
  options = {"hidden_sizes": list(sizes["widths"]), "depths": list(sizes["depths"])}
  config = getattr(transformers, f"{kind}Config")(num_labels=classes, **options)
  classified = classes and family != "dinov3_convnext"
  return getattr(transformers, f"{kind}{'ForImageClassification' if classified else 'Model'}")(
    config
  )


@families
@pytest.mark.parametrize("classes", [0, 10])
def test_transformers(family, classes):
  module = torch_models.randomize(transformers_model(family, classes, SMALL), seed=6)
  weights = conversion.rename(encoder_of(family), published(family), torch_models.state_of(module))
  assert bool(weights["classifier"]) == (classes > 0 and family != "dinov3_convnext")
  for height, width in SIZES:
    images, tensor = images_of(height, width)
    encoders = encoder_of(family), encoder_of(family, pooling="none", remat=True)
    features, grid = applied(*encoders)({"params": weights["params"]}, images)
    with torch.no_grad():
      theirs = module(pixel_values=tensor)
    if weights["classifier"]:
      logits = pretrained.logits(features, weights["classifier"])
      found = [torch_models.difference(logits, theirs.logits)]
    else:
      found = [torch_models.difference(features, theirs.pooler_output)]
    if family == "dinov3_convnext":
      tokens = theirs.last_hidden_state[:, 1:]
      found.append(torch_models.difference(grid.reshape(tokens.shape), tokens))
    check(found)


PEERS = [
  (f"{family}_{size}", timm.replace("tiny", size), classes)
  for family, (_, timm, classes) in FAMILIES.items()
  for size in ("tiny", "small", "base", "large")
  if (family, size) != ("convnextv2", "small")
]


@pytest.mark.parametrize(("arch", "timm", "kind"), PEERS)
def test_names_and_shapes_of_every_checkpoint(arch, timm, kind):
  """At its true size, and of transformers' as well; nothing is computed."""
  encoder, entry = models.create(arch), models.ENCODERS[arch].published
  ours = {
    entry.name_of(path): conversion.source_shape(path, leaf.shape)
    for path, leaf in conversion.leaves(encoder).items()
  }
  family = next(family for family, (_, _, k) in FAMILIES.items() if k == kind)
  sizes = {"depths": encoder.depths, "widths": encoder.widths}
  with torch.device("meta"):
    peers = [torch_models.peer("timm").create_model(timm), transformers_model(family, 0, sizes)]
  for module in peers:
    state = {n: np.broadcast_to(np.float32(0), t.shape) for n, t in module.state_dict().items()}
    theirs = {name: array.shape for name, array in entry.tidied(state).items()}
    head = [theirs.pop(name, None) for name in entry.classifier]
    # A cheap look tells sizes and versions apart, but not the authors of the weights.
    alike = [a for a, _, _ in PEERS if models.ENCODERS[a].published.fits(entry.tidied(state))]
    assert arch in alike and len(alike) == (1 if family == "convnextv2" else 2)
    assert theirs == ours and head in ([None, None], [(1000, encoder.feature_dim), (1000,)])


@families
def test_the_authors_own_names(family):
  """As in their repositories: two lists of modules, V2's gamma and beta, DINOv3's second norm."""
  state = torch_models.state_of(timm_s(family))
  expected = conversion.rename(encoder_of(family), published(family), state)
  own = {}
  for name, array in state.items():
    parts = name.split(".")
    if parts[0] == "stem":
      name = ".".join(["downsample_layers", "0", *parts[1:]])
    elif parts[2:3] == ["downsample"]:
      name = ".".join(["downsample_layers", parts[1], *parts[3:]])
    else:
      name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
      name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
      name = name.replace("head.fc.", "head.").replace("head.norm.", "norm.")
    own[name] = array[None, None, None] if ".grn." in name else array
  if family == "dinov3_convnext":
    own |= {"norms.3.weight": own["norm.weight"], "norms.3.bias": own["norm.bias"]}
  found = conversion.rename(encoder_of(family), published(family), own)
  flat, theirs = (traverse_util.flatten_dict(tree) for tree in (found, expected))
  assert flat.keys() == theirs.keys()
  for path, array in theirs.items():
    np.testing.assert_array_equal(flat[path], array)


@pytest.mark.slow
@families
def test_whole(family):
  module = timm_s(family, classes=0 if family == "dinov3_convnext" else 1000, small=False)
  arch = f"{family}_tiny"
  weights = torch_models.renamed(arch, torch_models.state_of(module))
  images, tensor = images_of(96, 64)
  with torch.no_grad():
    theirs = module.forward_head(module.forward_features(tensor), pre_logits=True)
  (ours,) = applied(models.create(arch))({"params": weights["params"]}, images)
  check([torch_models.difference(ours, theirs)])
