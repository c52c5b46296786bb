"""Models that need no training, and folders of small pictures."""

import types

import cv2
import jax
import numpy as np

from jaxdml import training
from jaxdml.data import preprocess
from jaxdml.training import checkpoints
from jaxdml.training import program as program_lib
from jaxdml.training import workdir as workdir_lib
from tests.training.test_loop import digits_config

SIDE, DIMENSION = 8, 5
PATHS = ["cat/1.png", "cat/deep/er/2.JPG", "dog/3.png", "dog/4.png", "loose.png", "sea/5.png",
         "sea/6.png", "tree/7.png", "tree/8.png", "tree/9.png"]  # fmt: skip


class FakeModel:
  """A fixed random projection of the pixels; `fails_after` batches it dies, as if killed."""

  workdir, step, distance_fn = "runs/fake", 3, None
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


def make_workdir(workdir, data_dir, seed=0, **overrides):
  """A workdir as training leaves it, with random parameters: nothing is compiled."""
  config = training.resolve(digits_config(data_dir, **overrides))
  workdir_lib.check(config, workdir, 29)
  program = program_lib.build(config, num_classes=2, total_steps=8, steps_per_epoch=29)
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if "var" in jax.tree_util.keystr(path) or not np.issubdtype(leaf.dtype, np.floating):
      return np.ones(leaf.shape, leaf.dtype)
    return rng.normal(size=leaf.shape).astype(leaf.dtype)

  abstract = jax.eval_shape(program.init, jax.random.key(0))
  state = jax.tree_util.tree_map_with_path(fill, abstract)
  manager = checkpoints.Checkpoints(workdir, keep=1)
  manager.save("best", 3, state, checkpoints.Progress(0.0, 3))
  manager.wait()
  manager.close()
  return workdir
