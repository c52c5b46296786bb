"""BN-Inception against pretrainedmodels', whose weights metric-learning papers start from."""

import functools

import pytest

from tests.parity import torch_models


@functools.cache
def of_pretrainedmodels():
  module = torch_models.peer("pretrainedmodels").bninception(pretrained=None)
  return torch_models.randomize(module)


def features_of(module, images):
  # Its own pooling is for 224 pixels alone.
  return module.features(images).mean((2, 3))


def logits_of(module, features):
  return module.last_linear(features)


@pytest.mark.parametrize("size", [64, 97])
def test_evaluation_equals_pretrainedmodels(size):
  torch_models.check_evaluation("bn_inception", of_pretrainedmodels(), features_of, logits_of, size)


@pytest.mark.parametrize("size", [64, 97])
def test_training_equals_pretrainedmodels(size):
  torch_models.check_training("bn_inception", of_pretrainedmodels(), features_of, size)
