"""Files as others publish them, with random arrays; no library of theirs is needed."""

from unittest import mock

import numpy as np

from jaxdml.pretrained import mapping, names


def published(arch, classes=7, seed=0):
  """Arrays by the published names of `arch`, in the published shapes, all of them different."""
  with mock.patch.object(mapping, "rename") as recorder:
    names.FAMILIES[arch].rename({})
  (encoder, _, name_of), options = recorder.call_args.args, recorder.call_args.kwargs
  variables = mapping.traverse_util.flatten_dict(mapping.abstract(encoder))
  weight, bias = options["classifier"]
  shapes = {
    name_of(path): mapping.source_shape(path, leaf.shape) for path, leaf in variables.items()
  }
  shapes |= {weight: (classes, encoder.feature_dim), bias: (classes,)}
  rng = np.random.default_rng(seed)
  return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def without_libraries(monkeypatch, *libraries):
  """Lets `import` of the libraries fail as if they were not installed."""
  for library in libraries:
    monkeypatch.setitem(__import__("sys").modules, library, None)
