"""What travels with weights: where they come from, and the pixels that they were trained on."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How the published model's evaluation prepares an image.

  The network sees (pixel / 255 - mean) / std of 8-bit pixels, channels in `channel_order`.

  Attributes:
    mean: one a channel, in the network's order, where pixels are 0..1.
    std: likewise. 1 / 255 for models that took 8-bit values without scaling (Caffe's).
    channel_order: "rgb" or "bgr".
    image_size: side of the input.
    crop_pct: share of the resized image's shorter side that the centre crop keeps.
    interpolation: "bilinear" or "bicubic", of the resize.
  """

  mean: tuple[float, ...] = (0.485, 0.456, 0.406)
  std: tuple[float, ...] = (0.229, 0.224, 0.225)
  channel_order: str = "rgb"
  image_size: int = 224
  crop_pct: float = 0.875
  interpolation: str = "bilinear"

  def __str__(self) -> str:
    """One line for people."""
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
    return (
      f"{self.channel_order} mean ({mean}) std ({std}) of pixels 0..1, "
      f"{self.image_size} px, {self.interpolation}, crop {self.crop_pct:.4g}"
    )


@dataclasses.dataclass(frozen=True)
class Card:
  """What is known about converted weights; card.json beside them.

  Attributes:
    arch: the encoder, as `jaxdml.models.create` calls it.
    source: name of the file that was converted.
    sha256: of that file.
    converter: version of jaxdml that converted it.
    classes: outputs of the classifier that is kept beside the encoder; 0: none was in the file.
    preprocessing: of the pixels.
  """

  arch: str
  source: str
  sha256: str
  converter: str
  classes: int
  preprocessing: Preprocessing

  def to_json(self) -> dict[str, Any]:
    """What `from_json` takes."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, data: Any) -> Card:
    """Raises ValueError, KeyError or TypeError for anything but what `to_json` gave."""
    fields = dict(data)
    pixels = dict(fields.pop("preprocessing"))
    pixels = {key: tuple(v) if isinstance(v, list) else v for key, v in pixels.items()}
    return cls(preprocessing=Preprocessing(**pixels), **fields)
