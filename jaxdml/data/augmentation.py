"""Random changes of training images by config keys: `Augmentation`, RandAugment, TrivialAugment.

All work on uint8 [h, w, c], grey or colour, and draw from a NumPy generator alone, so a picture is
the same on any number of workers. The operations are our own few lines on OpenCV and Pillow's
definitions: torchvision and kornia need torch, Albumentations' releases under MIT have ended (its
successor is AGPL), and none of them draws from a generator that it is given for a single picture.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from jaxdml.data import augment

_SIDE = 224  # pixels of the pictures for which the papers give lengths


class Operation(NamedTuple):
  """One change of a picture by a level; level 0 changes nothing, unless it takes no level."""

  change: Callable[[np.ndarray, float], np.ndarray]  # (uint8 [h, w, c], level) -> the same shape
  rand: float  # the level at RandAugment's magnitude 10
  trivial: float  # the largest of TrivialAugment (its "wide" space)
  signed: bool = True  # the level goes either way, by chance


def _shift(image: np.ndarray, x: float, y: float) -> np.ndarray:
  h, w, _ = image.shape
  return augment.warp(image, [[1, 0, x * w], [0, 1, y * h]])


def _shear(image: np.ndarray, x: float, y: float) -> np.ndarray:
  h, w, _ = image.shape
  return augment.warp(image, [[1, x, -x * (h - 1) / 2], [y, 1, -y * (w - 1) / 2]])


def sharpen(image: np.ndarray, level: float) -> np.ndarray:
  """Moves pixels away from their weighted mean over 3 x 3 (level > 0), or towards it (to -1)."""
  kernel = np.full((3, 3), -level / 13, np.float32)
  kernel[1, 1] = 1 + 8 * level / 13
  return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)


def posterize(image: np.ndarray, level: float) -> np.ndarray:
  """Keeps the upper 8 - level bits of each value, rounded to whole bits."""
  return image & np.uint8(256 - (1 << round(level)))


def solarize(image: np.ndarray, level: float) -> np.ndarray:
  """Inverts values of at least 256 (1 - level)."""
  values = np.arange(256)
  table = np.where(values >= 256 * (1 - level), 255 - values, values).astype(np.uint8)
  return cv2.LUT(image, table).reshape(image.shape)


def auto_contrast(image: np.ndarray, level: float = 0.0) -> np.ndarray:
  """Stretches each channel to 0..255; a constant one stays. It takes no level."""
  del level
  channels = []
  for x in cv2.split(image):
    low, high = int(x.min()), int(x.max())
    table = np.rint((np.arange(256) - low).clip(0) * (255 / max(high - low, 1)))
    channels.append(cv2.LUT(x, table.clip(0, 255).astype(np.uint8)) if high > low else x)
  return np.dstack(channels)


def equalize(image: np.ndarray, level: float = 0.0) -> np.ndarray:
  """Makes each channel's histogram flat. It takes no level."""
  del level
  return np.dstack([cv2.equalizeHist(x) for x in cv2.split(image)])


OPERATIONS = {
  "identity": Operation(lambda image, level: image, 0, 0),
  "shear_x": Operation(lambda image, level: _shear(image, level, 0), 0.3, 0.99),
  "shear_y": Operation(lambda image, level: _shear(image, 0, level), 0.3, 0.99),
  "translate_x": Operation(lambda image, level: _shift(image, level, 0), 100 / _SIDE, 32 / _SIDE),
  "translate_y": Operation(lambda image, level: _shift(image, 0, level), 100 / _SIDE, 32 / _SIDE),
  "rotate": Operation(augment.rotate, 30, 135),
  "brightness": Operation(lambda image, level: augment.recolor(image, 1 + level), 0.9, 0.99),
  "contrast": Operation(lambda image, level: augment.recolor(image, 1, 1 + level), 0.9, 0.99),
  "color": Operation(lambda image, level: augment.recolor(image, 1, 1, 1 + level), 0.9, 0.99),
  "sharpness": Operation(sharpen, 0.9, 0.99),
  "posterize": Operation(posterize, 4, 6, signed=False),
  "solarize": Operation(solarize, 1, 1, signed=False),
  "auto_contrast": Operation(auto_contrast, 0, 0),
  "equalize": Operation(equalize, 0, 0),
}
"""The fourteen of arXiv 1909.13719 and 2103.10158. Levels of shears are slopes, of shifts shares
of the side, of rotations degrees; the factors of the four after them are 1 + level."""


def rand_augment(
  image: np.ndarray, count: int, magnitude: float, rng: np.random.Generator
) -> np.ndarray:
  """Applies `count` operations drawn alike and with repetition, at `magnitude` of 10.

  RandAugment, arXiv 1909.13719: 10 is AutoAugment's largest change; 0 leaves the operations without
  a level, `auto_contrast` and `equalize`.
  """
  for _ in range(count):
    image = _apply(image, rng, lambda operation: operation.rand * magnitude / 10)
  return image


def trivial_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Applies one operation at a strength of 0, 1/30, ..., 1, both drawn alike (arXiv 2103.10158)."""
  strength = int(rng.integers(31)) / 30
  return _apply(image, rng, lambda operation: operation.trivial * strength)


def _apply(
  image: np.ndarray, rng: np.random.Generator, level_of: Callable[[Operation], float]
) -> np.ndarray:
  operation = list(OPERATIONS.values())[int(rng.integers(len(OPERATIONS)))]
  level = level_of(operation)
  if operation.signed and rng.random() < 0.5:
    level = -level
  return operation.change(image, level)


def random_erase(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.02, 0.4),
  ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
  """Fills a random box with random values (arXiv 1708.04896, whose limits are the defaults)."""
  box = augment.random_box(*image.shape[:2], rng, area=area, ratio=ratio)
  image = image.copy()
  part = box.cut(image)
  part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
  return image


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
  """Convolves with a Gaussian of deviation `sigma` in pixels, cut at three of them."""
  side = 2 * math.ceil(3 * sigma) + 1
  soft = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
  return soft.reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random changes of training pictures: the keys of `config.data` of the same names.

  Called with a crop, uint8 [h, w, c], it applies the flip, rotation, colour jitter, RandAugment or
  TrivialAugment, blur, and erasing, in this order; the defaults flip alone. The first three keys
  are about the crop itself and are read by `preprocess.create`.
  """

  crop: str = "random"
  crop_scale: tuple[float, float] = (0.2, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: bool = True
  rotate: float = 0.0
  color_jitter: float = 0.0
  rand_augment: int = 0
  rand_magnitude: float = 9.0
  trivial_augment: bool = False
  blur: float = 0.0
  erase: float = 0.0

  def check(self, channels: int, cropped: bool) -> None:
    """Raises ValueError, which names the config key; `cropped` pictures are those of photos."""
    if self.crop not in ("random", "center"):
      raise ValueError(f"data.crop: expected random or center; got {self.crop!r}")
    for key, most in {"crop_scale": 1, "crop_ratio": math.inf}.items():
      value = tuple(getattr(self, key))
      if not (len(value) == 2 and 0 < value[0] <= value[1] <= most and value[1] < math.inf):
        limit = f", at most {most}" if most == 1 else ""
        raise ValueError(f"data.{key}: expected (smallest, largest) above 0{limit}; got {value}")
    for key, what, most in (
      ("rotate", "degrees", 180), ("color_jitter", "a strength", 1), ("rand_magnitude", "one", 10),
      ("blur", "a probability", 1), ("erase", "a probability", 1),
    ):  # fmt: skip
      if not 0 <= (value := getattr(self, key)) <= most:
        raise ValueError(f"data.{key}: expected {what} in [0, {most}]; got {value}")
    if self.color_jitter and channels != 3:
      raise ValueError(
        f"data.color_jitter: grey images have no colour, so 0; got {self.color_jitter}"
      )
    if self.color_jitter and not cropped:
      raise ValueError(
        f"data.color_jitter: for data.preprocess=hdml or standard; got {self.color_jitter} with "
        "another"
      )
    if self.rand_augment < 0:
      raise ValueError(f"data.rand_augment: expected at least 0; got {self.rand_augment}")
    if self.rand_augment and self.trivial_augment:
      raise ValueError(
        "data.trivial_augment: takes the place of data.rand_augment; got both, set one of them"
      )

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture changed, in its own shape."""
    if self.flip and rng.random() < 0.5:
      image = augment.mirror(image)
    if self.rotate:
      image = augment.rotate(image, rng.uniform(-self.rotate, self.rotate))
    if self.color_jitter:
      image = augment.color_jitter(image, self.color_jitter, rng)
    if self.rand_augment:
      image = rand_augment(image, self.rand_augment, self.rand_magnitude, rng)
    elif self.trivial_augment:
      image = trivial_augment(image, rng)
    if self.blur and rng.random() < self.blur:
      # SimCLR's deviations at 224 pixels (arXiv 2002.05709), and as wide in other pictures.
      image = blur(image, rng.uniform(0.1, 2.0) * min(image.shape[:2]) / _SIDE)
    if self.erase and rng.random() < self.erase:
      image = random_erase(image, rng)
    return image
