"""From 8-bit pixels to what an encoder was made for: scale, mean, deviation, channel order.

Images travel as uint8, a quarter of the bytes; this last step runs on the device, inside the jitted
training step, and takes NumPy arrays too.
"""

import dataclasses
import re
from typing import Any

import numpy as np

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

NAMES = ("caffe", "half", "imagenet", "unit")
"""The normalisations that `create` knows."""


@dataclasses.dataclass(frozen=True)
class Normalize:
  """(pixels * scale - mean) / std in float32, of channels in RGB or BGR order."""

  scale: float = 1.0  # of the 8-bit values
  mean: tuple[float, ...] = (0.0,)  # one for all channels, or one a channel as the result has them
  std: tuple[float, ...] = (1.0,)  # likewise
  bgr: bool = False  # the result's channels are blue, green, red

  def __call__(self, images: Any) -> Any:
    """Returns [..., c], RGB or grey, uint8 or floats of that range, NumPy or JAX, as float32.

    >>> Normalize(scale=2 / 255, mean=(1.0,))(np.array([[0, 255]], np.uint8)).tolist()
    [[-1.0, 1.0]]
    """
    if self.bgr:
      images = images[..., ::-1]
    images = images.astype(np.float32) * np.float32(self.scale) - np.float32(self.mean)
    return images / np.float32(self.std)

  def undo(self, images: Any) -> np.ndarray:
    """Turns normalised images back into uint8 on the host, to look at."""
    images = np.asarray(images, np.float32) * np.float32(self.std) + np.float32(self.mean)
    images = np.clip(np.rint(images / np.float32(self.scale)), 0, 255).astype(np.uint8)
    return images[..., ::-1] if self.bgr else images

  def text(self) -> str:
    """Returns the text that `create` makes this from, for 3 channels of scale 1.

    >>> create("caffe", 3).text()
    'bgr mean 104 117 123 std 1 1 1'
    """
    mean, std = (
      " ".join(f"{x:.9g}" for x in (values * 3 if len(values) == 1 else values))
      for values in (self.mean, self.std)
    )
    return f"{'bgr' if self.bgr else 'rgb'} mean {mean} std {std}"


def create(name: str, channels: int) -> Normalize:
  """Makes the normalisation `name` for 1 or 3 channels; ValueError if there is none.

  - "half": [-1, 1].
  - "unit": [0, 1].
  - "imagenet": RGB minus ImageNet's mean, by its deviation; what most published weights expect.
    Grey images take the average over the channels.
  - "caffe": BGR minus (104, 117, 123), in the units of 8-bit pixels; for 3 channels alone.
  - any other, written out in the units of 8-bit pixels and in the network's order of channels:
    "bgr mean 104 117 128 std 1 1 1".
  """
  if name in ("half", "unit"):
    return Normalize(scale=2 / 255, mean=(1.0,)) if name == "half" else Normalize(scale=1 / 255)
  if name == "imagenet":
    both = (_IMAGENET_MEAN, _IMAGENET_STD)
    mean, std = ((sum(x) / 3,) for x in both) if channels == 1 else both
    return Normalize(mean=mean, std=std)
  if name == "caffe":
    if channels != 3:
      raise ValueError(f"data.normalize: caffe needs data.channels=3; got {channels}")
    return Normalize(mean=(104.0, 117.0, 123.0), bgr=True)
  numbers = r"((?: [\d.]+){3})"
  if channels == 3 and (match := re.fullmatch(f"(rgb|bgr) mean{numbers} std{numbers}", name)):
    mean, std = (tuple(float(x) for x in match[i].split()) for i in (2, 3))
    if min(std) > 0:
      return Normalize(mean=mean, std=std, bgr=match[1] == "bgr")
  raise ValueError(
    f"data.normalize: expected one of {', '.join(NAMES)} or, for 3 channels, for example "
    f"'bgr mean 104 117 128 std 1 1 1'; got {name!r}"
  )
