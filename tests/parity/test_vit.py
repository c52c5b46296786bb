"""Vision transformers against timm's: DeiT's and DINO's architecture, and DINOv2's."""

import functools

import jax
import numpy as np
import pytest

from jaxdml import models, pretrained
from jaxdml.pretrained import conversion
from tests.parity import torch_models

torch = torch_models.torch


@functools.cache
def timm_vit(name, classes=10, **kwargs):
  create = torch_models.peer("timm").create_model
  module = create(name, dynamic_img_size=True, num_classes=classes, **kwargs)
  return torch_models.randomize(module, seed=2)


def rename_for(encoder, state):
  """The weights of a ViT of any size; all have one table of names."""
  return conversion.rename(encoder, models.ENCODERS["vit_s16"].published, state)


def images_of(height, width, n=2):
  square, _ = torch_models.pixels(max(height, width), n)
  images = square[:, :height, :width]
  return images, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@functools.lru_cache
def applied(encoder):
  return jax.jit(functools.partial(encoder.apply, train=False))


def check(encoder, weights, module, height, width, with_patches=True):
  """Class token, logits and patches."""
  images, tensor = images_of(height, width)
  with torch.no_grad():
    tokens = module.forward_features(tensor)
    theirs = module.forward_head(tokens)
  variables = {"params": weights["params"]}
  token = applied(encoder)(variables, images)
  found = [torch_models.difference(token, tokens[:, 0])]
  if weights["classifier"]:
    logits = pretrained.logits(token, weights["classifier"])
    found.append(torch_models.difference(logits, theirs))
  if with_patches:
    patches = applied(encoder.clone(pooling="none"))(variables, images)
    patches = patches.reshape(len(images), -1, encoder.width)
    found.append(torch_models.difference(patches, tokens[:, module.num_prefix_tokens :]))
  assert max(found) <= torch_models.TOLERANCE, found
  print(f"{height}x{width}:", " ".join(f"{x:.1e}" for x in found))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 48)])
@pytest.mark.parametrize(
  ("arch", "peer"), [("vit_s16", "vit_small_patch16_224"), ("vit_b16", "vit_base_patch16_224")]
)
def test_two_blocks_with_shrunk_positions(arch, peer, height, width):
  module = timm_vit(peer, depth=2)
  encoder = models.create(arch).clone(depth=2)
  weights = rename_for(encoder, torch_models.state_of(module))
  check(encoder, weights, module, height, width)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (112, 64)])
def test_grown_positions(height, width):
  """Three by three positions: as they are, and for more patches than there were."""
  module = timm_vit("vit_small_patch16_224", depth=1, img_size=48)
  encoder = models.create("vit_s16").clone(depth=1, grid=3)
  weights = rename_for(encoder, torch_models.state_of(module))
  check(encoder, weights, module, height, width)


@pytest.mark.parametrize("size", [28, 42])
def test_dinov2(size):
  """The whole network from its file's names; the file has no classifier, but a mask token."""
  module = timm_vit("vit_small_patch14_dinov2", classes=0)
  state = torch_models.state_of(module)
  state["mask_token"] = np.ones((1, 384), np.float32)
  weights = torch_models.renamed("dinov2_s14", state)
  assert weights["classifier"] == {}
  encoder = models.create("dinov2_s14", interpolation="antialias")
  check(encoder, weights, module, size, size, with_patches=False)


def test_dinov2_with_registers():
  module = timm_vit("vit_small_patch14_reg4_dinov2", classes=0, depth=2)
  state = torch_models.state_of(module)
  # DINOv2's own files name registers otherwise, and keep a position for the class token.
  state["register_tokens"] = state.pop("reg_token")
  position = np.full((1, 1, 384), 0.25, np.float32)
  state["cls_token"] = state["cls_token"] - position
  state["pos_embed"] = np.concatenate([position, state["pos_embed"]], axis=1)
  encoder = models.create("dinov2_s14_reg").clone(depth=2)
  check(encoder, rename_for(encoder, state), module, 42, 42)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize(
  ("arch", "peer"), [("vit_s16", "vit_small_patch16_224"), ("vit_b16", "vit_base_patch16_224")]
)
def test_whole(arch, peer, size):
  module = timm_vit(peer, classes=1000)
  weights = torch_models.renamed(arch, torch_models.state_of(module))
  check(models.create(arch), weights, module, size, size, with_patches=False)
