"""ResNet-18 and ResNet-50 from torchvision or timm: one and the same names."""

from __future__ import annotations

import re

from jaxdml.models import registry
from jaxdml.pretrained import mapping

_PARTS = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "layer1_0", "downsample_bn", "scale") -> "layer1.0.downsample.1.weight"."""
  modules = (re.sub(r"^(layer\d+)_", r"\1.", _PARTS.get(m, m)) for m in path[1:-1])
  return ".".join((*modules, mapping.leaf_name(path[-1])))


def rename(arch: str, state: mapping.State) -> mapping.Weights:
  """The weights of resnet18 or resnet50 (v1.5) from a state dict of torchvision or timm.

  Raises:
    ConvertError: the state dict is of something else.
  """
  encoder = registry.create(arch)
  return mapping.rename(encoder, state, _name_of, classifier=("fc.weight", "fc.bias"))
