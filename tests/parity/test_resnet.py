"""ResNet-18 and ResNet-50 v1.5 against torchvision's and timm's."""

import functools

import pytest

from tests.parity import torch_models

ARCHS = ("resnet18", "resnet50")


@functools.cache
def of_torchvision(arch):
  return torch_models.randomize(getattr(torch_models.peer("torchvision.models"), arch)())


@functools.cache
def of_timm(arch):
  return torch_models.randomize(torch_models.peer("timm").create_model(arch), seed=3)


def torchvision_features(module, images):
  x = module.maxpool(module.relu(module.bn1(module.conv1(images))))
  return module.layer4(module.layer3(module.layer2(module.layer1(x)))).mean((2, 3))


def timm_features(module, images):
  return module.forward_head(module.forward_features(images), pre_logits=True)


def logits(module, features):
  return module.fc(features)


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("arch", ARCHS)
def test_evaluation_equals_torchvision(arch, size):
  torch_models.check_evaluation(arch, of_torchvision(arch), torchvision_features, logits, size)


@pytest.mark.parametrize("arch", ARCHS)
def test_evaluation_equals_timm(arch):
  torch_models.check_evaluation(arch, of_timm(arch), timm_features, logits, 64)


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("arch", ARCHS)
def test_training_equals_torchvision(arch, size):
  torch_models.check_training(arch, of_torchvision(arch), torchvision_features, size)
