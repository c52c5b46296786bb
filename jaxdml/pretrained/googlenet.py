"""GoogLeNet: torchvision's with BatchNorm, and Caffe's in a NumPy archive."""

from __future__ import annotations

import re

import numpy as np

from jaxdml.models import registry
from jaxdml.pretrained import mapping

# torchvision's modules: three units before the blocks, then branches of one or two units each.
_STEM = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
_BRANCHES = {
  "1x1": "branch1",
  "3x3_reduce": "branch2.0",
  "3x3": "branch2.1",
  "5x5_reduce": "branch3.0",
  "5x5": "branch3.1",
  "pool_proj": "branch4.1",
}
# Caffe's layers before the blocks; the blocks' have the names that ours have.
_CAFFE_STEM = {"conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3"}
# Suffixes of weights and biases: ours; Caffe2's; ONNX's model zoo.
_SUFFIXES = (("/weights", "/biases"), ("_w", "_b"), ("_w_0", "_b_0"))


def _torchvision_name(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "5x5", "bn", "scale") -> "inception3a.branch3.1.bn.weight"."""
  *blocks, unit, kind, leaf = path[1:]
  where = [b.replace("_", "") for b in blocks] + [(_BRANCHES if blocks else _STEM)[unit]]
  return ".".join((*where, kind, mapping.leaf_name(leaf)))


def rename_torchvision(state: mapping.State) -> mapping.Weights:
  """The weights of googlenet_bn from torchvision's state dict; auxiliary classifiers are left out.

  Raises:
    ConvertError: the state dict is of something else.
  """
  return mapping.rename(
    registry.create("googlenet_bn"),
    state,
    _torchvision_name,
    classifier=("fc.weight", "fc.bias"),
    ignore=r".*\.num_batches_tracked|aux[12]\..*",
  )


def _caffe_name(path: tuple[str, ...]) -> str:
  """("params", "inception_3a", "5x5", "conv", "kernel") -> "inception_3a/5x5/weights"."""
  *blocks, unit, _, leaf = path[1:]
  layer = "/".join((*blocks, unit)) if blocks else _CAFFE_STEM[unit]
  return layer + _SUFFIXES[0][leaf == "bias"]


def rename_caffe(state: mapping.State) -> mapping.Weights:
  """The weights of googlenet from Caffe's blobs, by layer.

  Each layer has two arrays in Caffe's layout (weights [out, in, height, width]): "LAYER/weights"
  and "LAYER/biases", or as Caffe2 names them "LAYER_w" and "LAYER_b", or as ONNX's model zoo does
  "LAYER_w_0" and "LAYER_b_0"; LAYER is "conv1/7x7_s2", "inception_3a/5x5_reduce", ...,
  "loss3/classifier". The training prototxt's other classifiers are left out.

  Raises:
    ConvertError: the archive is of something else.
  """
  ours = {}
  for name, array in state.items():
    ours[_our_suffix(name)] = _without_ones(np.asarray(array), name)
  return mapping.rename(
    registry.create("googlenet"),
    ours,
    _caffe_name,
    classifier=tuple("loss3/classifier" + suffix for suffix in _SUFFIXES[0]),
    ignore=r"loss[12]/.*|OC2_DUMMY_\d+",
  )


def _our_suffix(name: str) -> str:
  for theirs in _SUFFIXES[:0:-1]:
    for suffix, ours in zip(theirs, _SUFFIXES[0], strict=True):
      if name.endswith(suffix):
        return name.removesuffix(suffix) + ours
  return name


def _without_ones(array: np.ndarray, name: str) -> np.ndarray:
  """Older Caffe kept biases as [1, 1, 1, n] and dense weights as [1, 1, n, m]."""
  dims = 1 if re.search(r"(/biases|_b|_b_0)$", name) else 2
  dense = dims == 1 or "classifier" in name
  if dense and array.ndim == 4 and array.shape[: 4 - dims] == (1,) * (4 - dims):
    return array.reshape(array.shape[4 - dims :])
  return array
