"""GoogLeNet: torchvision's, and Caffe's by its prototxt, written here in PyTorch."""

import functools

import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.googlenet import INCEPTION
from tests.parity import torch_models

pytest.importorskip("torch", reason="needs pip install '.[parity]'")

import torch
from torch import nn


@functools.cache
def of_torchvision(**kwargs):
  make = torch_models.peer("torchvision.models").googlenet
  return torch_models.randomize(make(aux_logits=False, init_weights=False, **kwargs))


def torchvision_features(module, images):
  kept = []
  hook = module.dropout.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
  module(images)
  hook.remove()
  return kept[0]


def torchvision_logits(module, features):
  return module.fc(features)


@pytest.mark.parametrize("size", [64, 97])
def test_evaluation_equals_torchvision(size):
  torch_models.check_evaluation(
    "googlenet_bn", of_torchvision(), torchvision_features, torchvision_logits, size
  )


@pytest.mark.parametrize("size", [64, 97])
def test_training_equals_torchvision(size):
  torch_models.check_training("googlenet_bn", of_torchvision(), torchvision_features, size)


def test_the_card_does_what_torchvision_does_to_the_pixels_of_its_weights():
  """Its published weights go with transform_input=True, behind ImageNet's normalisation."""
  pixels = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
  usual = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
  module = of_torchvision(transform_input=True)
  theirs = module._transform_input(torch.tensor(usual.transpose(0, 3, 1, 2)))
  card = models.ENCODERS["googlenet_bn"].published.preprocessing
  ours = (pixels - card.mean) / card.std
  np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)


class CaffeGoogLeNet(nn.Module):
  """BVLC's deploy.prototxt."""

  def __init__(self):
    super().__init__()
    self.layers = nn.ModuleDict()

    def conv(layer, inputs, outputs, size, stride=1):
      self.layers[layer] = nn.Conv2d(inputs, outputs, size, stride, size // 2)

    conv("conv1/7x7_s2", 3, 64, 7, 2)
    conv("conv2/3x3_reduce", 64, 64, 1)
    conv("conv2/3x3", 64, 192, 3)
    inputs = 192
    for name, (single, (reduce3, out3), (reduce5, out5), projection) in INCEPTION.items():
      conv(f"inception_{name}/1x1", inputs, single, 1)
      conv(f"inception_{name}/3x3_reduce", inputs, reduce3, 1)
      conv(f"inception_{name}/3x3", reduce3, out3, 3)
      conv(f"inception_{name}/5x5_reduce", inputs, reduce5, 1)
      conv(f"inception_{name}/5x5", reduce5, out5, 5)
      conv(f"inception_{name}/pool_proj", inputs, projection, 1)
      inputs = single + out3 + out5 + projection
    self.layers["loss3/classifier"] = nn.Linear(inputs, 1000)
    self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    self.same = nn.MaxPool2d(3, 1, 1)

  def forward(self, x):
    run = lambda name, x: torch.relu(self.layers[name](x))
    x = self.norm(self.pool(run("conv1/7x7_s2", x)))
    x = self.pool(self.norm(run("conv2/3x3", run("conv2/3x3_reduce", x))))
    for name in INCEPTION:
      if name in ("4a", "5a"):
        x = self.pool(x)
      block = lambda branch, x, name=name: run(f"inception_{name}/{branch}", x)
      x = torch.cat(
        [
          block("1x1", x),
          block("3x3", block("3x3_reduce", x)),
          block("5x5", block("5x5_reduce", x)),
          block("pool_proj", self.same(x)),
        ],
        1,
      )
    return x.mean((2, 3))


def caffe_arrays(module):
  kinds = {"weight": "weights", "bias": "biases"}
  arrays = {}
  for name, array in torch_models.state_of(module).items():
    layer, _, kind = name.removeprefix("layers.").rpartition(".")
    arrays[f"{layer}/{kinds[kind]}"] = array
  return arrays


@pytest.mark.parametrize("size", [64, 97])
def test_evaluation_equals_caffes_definition(size):
  """Pixels as Caffe has them, in the hundreds, where the response normalisation matters."""
  module = torch_models.randomize(CaffeGoogLeNet())
  classify = lambda module, features: module.layers["loss3/classifier"](features)
  torch_models.check_evaluation(
    "googlenet", module, lambda m, x: m(x), classify, size, caffe_arrays, scale=100
  )
