"""Encoders by name, as configs ask for them."""

from __future__ import annotations

import dataclasses
import difflib
from functools import partial
from typing import Any

import flax.linen as nn

from jaxdml.models.bn_inception import BNInception
from jaxdml.models.convnet import ConvNet
from jaxdml.models.efficientnet import EfficientNetLite
from jaxdml.models.googlenet import GoogLeNet, GoogLeNetBN
from jaxdml.models.resnet import ResNet18, ResNet50
from jaxdml.models.vit import DinoV2S14, ViTB16, ViTS16

ENCODERS = {
  "convnet": ConvNet,
  "googlenet": GoogLeNet,
  "googlenet_bn": GoogLeNetBN,
  "bn_inception": BNInception,
  "resnet18": ResNet18,
  "resnet50": ResNet50,
  "efficientnet_lite0": EfficientNetLite,
  "vit_s16": ViTS16,
  "vit_b16": ViTB16,
  "dinov2_s14": DinoV2S14,
}
"""Name -> what makes the encoder."""


def create(name: str, **kwargs: Any) -> nn.Module:
  """Returns the encoder called `name`, a linen module with a `feature_dim`.

  Every encoder maps images [n, h, w, c] float32 to features [n, feature_dim] float32 by
  `encoder.apply(variables, images, train, mutable=["batch_stats"])`, and takes at least
  `axis_name`, `frozen_bn`, `frozen_bn_affine`, `momentum` and `dtype`; all but the ConvNet take
  `pooling` and `remat`. Its `stages` names its groups of parameters from input to output, and
  `stage_of(path)` says to which of them the leaf at `path` belongs.

  Args:
    name: one of `ENCODERS`.
    **kwargs: the encoder's attributes.

  Raises:
    ValueError: unknown name or attribute; the message lists the valid ones.

  >>> create("resnet50").feature_dim
  2048
  """
  if name not in ENCODERS:
    raise ValueError(
      f"name: expected one of {', '.join(ENCODERS)}; got {name!r}{_nearest(name, ENCODERS)}"
    )
  maker = ENCODERS[name]
  fixed = set(maker.keywords) if isinstance(maker, partial) else set()
  module = maker.func if isinstance(maker, partial) else maker
  valid = sorted(
    field.name
    for field in dataclasses.fields(module)
    if field.name not in {"parent", "name"} | fixed
  )
  for key in kwargs:
    if key not in valid:
      raise ValueError(
        f"kwargs: {name} takes {', '.join(valid)}; got {key!r}{_nearest(key, valid)}"
      )
  return maker(**kwargs)


def _nearest(word: Any, valid: Any) -> str:
  close = difflib.get_close_matches(str(word), list(valid), n=1)
  return f"; did you mean {close[0]!r}?" if close else ""
