"""A model that needs no training, and folders of small pictures."""

import types

import cv2
import numpy as np

from jaxdml.data import preprocess

SIDE, DIMENSION = 8, 5


class FakeModel:
  """A fixed random projection of the pixels; `fails_after` batches it dies, as if killed."""

  workdir, step = "runs/fake", 3
  config = types.SimpleNamespace(embedding=types.SimpleNamespace(unit_norm=False))
  preprocessing = preprocess.create("digits", SIDE, False, 1)

  def __init__(self, fingerprint="abc", dimension=DIMENSION, fails_after=None):
    self.fingerprint, self.dimension, self.batches = fingerprint, dimension, 0
    self._fails_after = fails_after
    self._weights = np.random.default_rng(0).normal(size=(SIDE * SIDE, dimension))

  def embed_batch(self, images):
    if self.batches == self._fails_after:
      raise KeyboardInterrupt
    self.batches += 1
    return (images.reshape(len(images), -1) @ self._weights).astype(np.float32)


def png(seed, side=SIDE):
  """A random grey picture, encoded."""
  pixels = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
  return cv2.imencode(".png", pixels)[1].tobytes()


def write_images(root, paths):
  """Writes a different picture at each path."""
  for seed, path in enumerate(paths):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(png(seed))
  return root
