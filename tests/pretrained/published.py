"""Files as others publish them, with random arrays; no library of theirs is needed."""

import numpy as np

from jaxdml import models
from jaxdml.pretrained import conversion


def published(arch, classes=7, seed=0):
  """Arrays by the published names of `arch`, in the published shapes, all of them different."""
  encoder, published_weights = models.create(arch), models.ENCODERS[arch].published
  name_of = published_weights.name_of
  variables = conversion.leaves(encoder)
  weight, bias = published_weights.classifier
  shapes = {
    name_of(path): conversion.source_shape(path, leaf.shape) for path, leaf in variables.items()
  }
  shapes |= {weight: (classes, encoder.feature_dim), bias: (classes,)}
  rng = np.random.default_rng(seed)
  return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def without_libraries(monkeypatch, *libraries):
  """Lets `import` of the libraries fail as if they were not installed."""
  for library in libraries:
    monkeypatch.setitem(__import__("sys").modules, library, None)
