"""BN-Inception as ported from Caffe to PyTorch (package pretrainedmodels)."""

from __future__ import annotations

import numpy as np

from jaxdml.models import registry
from jaxdml.pretrained import mapping

_STEM = {"conv1": "conv1_7x7_s2", "conv2_reduce": "conv2_3x3_reduce", "conv2": "conv2_3x3"}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "1x1", "bn", "scale") -> "inception_3a_1x1_bn.weight"."""
  *blocks, unit, kind, leaf = path[1:]
  layer = "_".join((*blocks, unit)) if blocks else _STEM[unit]
  return f"{layer}{'_bn' if kind == 'bn' else ''}.{mapping.leaf_name(leaf)}"


def rename(state: mapping.State) -> mapping.Weights:
  """The weights of bn_inception from the state dict of pretrainedmodels' bninception.

  The published file has BatchNorm's arrays as [1, n]; [n] is taken too.

  Raises:
    ConvertError: the state dict is of something else.
  """
  state = {
    name: array[0] if "_bn." in name and np.ndim(array) == 2 and len(array) == 1 else array
    for name, array in state.items()
  }
  return mapping.rename(
    registry.create("bn_inception"),
    state,
    _name_of,
    classifier=("last_linear.weight", "last_linear.bias"),
  )
