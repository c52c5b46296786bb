"""Folders that timm and transformers write themselves, through the hub's protocol, at true size."""

import functools
import json

import jax
import numpy as np
import pytest

from jaxdml import models
from jaxdml.pretrained import hub, store
from tests.parity import torch_models
from tests.pretrained.test_hub import caches as caches
from tests.pretrained.test_hub import server as server

torch = torch_models.torch
ARCH = "dinov2_s14"
# What facebook/dinov2-small says of its pixels, in transformers' words.
PROCESSOR = {
  "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True,
  "do_normalize": True, "do_rescale": True, "do_resize": True,
  "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "BitImageProcessor",
  "image_std": [0.229, 0.224, 0.225], "resample": 3, "rescale_factor": 0.00392156862745098,
  "size": {"shortest_edge": 256},
}  # fmt: skip


def from_timm(folder):
  timm = torch_models.peer("timm")
  model = torch_models.randomize(
    timm.create_model("vit_small_patch14_dinov2", dynamic_img_size=True), seed=4
  )
  timm.models.save_for_hf(model, folder, safe_serialization=True)
  return model, (518, 1.0, "bicubic")


def from_transformers(folder):
  torch_models.peer("timm")  # It defines what transformers needs of torchvision, too.
  library = torch_models.peer("transformers")
  config = library.Dinov2Config(
    hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
  )
  model = torch_models.randomize(library.Dinov2Model(config), seed=5)
  model.save_pretrained(folder, max_shard_size="40MB")
  (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
  return lambda images: model(pixel_values=images).pooler_output, (224, 0.875, "bicubic")


@pytest.mark.parametrize("write", [from_timm, from_transformers])
def test_what_they_save_is_what_they_compute(write, server, tmp_path):
  folder = tmp_path / "snapshot"
  folder.mkdir()
  forward, pixels = write(folder)
  server.add("someone/dino", {path.name: path.read_bytes() for path in folder.iterdir()})
  assert len(list(folder.glob("*.safetensors"))) == (1 if write is from_timm else 3)
  weights, card = hub.load("hf:someone/dino", ARCH)
  found = card.preprocessing
  assert (found.image_size, found.crop_pct, found.interpolation) == pixels
  encoder = models.create(ARCH)
  params, _ = store.fit(weights, card, encoder)
  # Of the size that its positions are for: nothing is interpolated.
  images = np.random.default_rng(0).normal(size=(1, 518, 518, 3)).astype(np.float32)
  with torch.no_grad():
    expected = forward(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
  apply = jax.jit(functools.partial(encoder.apply, train=False))
  ours = apply({"params": params}, images)
  assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()
