"""Preparation of pixels as timm, transformers and OpenCLIP write it down beside their weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdml.models.base import Preprocessing

FILES = ("config.json", "preprocessor_config.json", "open_clip_config.json")
"""Their files, in the order in which they are asked: config.json is timm's where it says so."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which transformers writes


def beside(source: Path, usual: Preprocessing) -> Preprocessing | None:
  """Returns what the first of `FILES` beside a file of weights says; None if there is none."""
  found = (read(source.parent / name, usual) for name in FILES)
  return next((pixels for pixels in found if pixels), None)


def read(path: Path, usual: Preprocessing) -> Preprocessing | None:
  """Returns the preparation of pixels in one of `FILES`, whatever its name.

  None if it is no such file; what it leaves out, or filters that are not known here, are as in
  `usual`. Pictures that a model's authors squashed to a square are resized by their shorter side
  and cropped whole (`crop_pct` 1).
  """
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
    if "image_mean" in config or "do_normalize" in config:
      return _transformers(config, usual)
    pixels = config.get("pretrained_cfg") or config.get("preprocess_cfg") or config
    mean, std = _numbers(pixels["mean"]), _numbers(pixels["std"])
    size = pixels.get("input_size") or pixels.get("size") or usual.image_size
    size = int(size if isinstance(size, int) else size[-1])
    # OpenCLIP crops the whole shorter side, and says nothing of it.
    crop = 1.0 if "preprocess_cfg" in config else float(pixels.get("crop_pct") or usual.crop_pct)
    return _checked(mean, std, size, crop, pixels.get("interpolation"), usual)
  except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
    return None


def _transformers(config: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
  """An image processor's preprocessor_config.json.

  It shows the network (pixel * rescale_factor - mean) / std; `Preprocessing` counts from
  pixel / 255.
  """
  mean, std = (0.0,) * 3, (1.0,) * 3
  if config.get("do_normalize", True):
    mean, std = _numbers(config["image_mean"]), _numbers(config["image_std"])
  scale = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
  mean, std = (tuple(round(x / (255 * scale), 12) for x in values) for values in (mean, std))
  resized = _side(config.get("size"), usual.image_size)
  size, crop = resized, 1.0
  if config.get("crop_pct"):  # ConvNeXt's own: from 384 pixels on it squashes.
    crop = float(config["crop_pct"]) if resized < 384 else 1.0
  elif config.get("do_center_crop") and config.get("crop_size"):
    size = _side(config["crop_size"], resized)
    crop = min(size / resized, 1.0)
  return _checked(mean, std, size, crop, _RESAMPLE.get(config.get("resample")), usual)


def _side(size: Any, usual: int) -> int:
  if isinstance(size, Mapping):
    size = size.get("shortest_edge") or size.get("height")
  return int(size or usual)


def _numbers(values: Any) -> tuple[float, ...]:
  return tuple(float(x) for x in values)


def _checked(
  mean: tuple[float, ...], std: tuple[float, ...], size: int, crop: float, interpolation: Any,
  usual: Preprocessing,
) -> Preprocessing:  # fmt: skip
  if not (len(mean) == len(std) == 3 and min(std) > 0 and size > 0 and 0 < crop <= 1):
    raise ValueError("no preparation of RGB pixels")
  kind = interpolation if interpolation in _RESAMPLE.values() else usual.interpolation
  return Preprocessing(mean, std, "rgb", size, crop, kind)
