"""From encoded bytes to float32 images: decoding, resizing, augmentation, scaling.

A `Preprocess` is a fixed part, bytes -> uint8 [h, w, c], whose result may be kept in memory, and a
random part, uint8 -> float32, driven by the generator it is given and by nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from jaxdml.data.decode import ImageDecodeError as ImageDecodeError
from jaxdml.data.decode import decode

_HDML_SIZE, _HDML_CROP = 256, 227
_HDML_MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 [h, w, c] to [height, width, c]: by area where it shrinks, else bilinear."""
  h, w, c = image.shape
  if (h, w) == (height, width):
    return image
  mode = cv2.INTER_AREA if height <= h and width <= w else cv2.INTER_LINEAR
  return cv2.resize(image, (width, height), interpolation=mode).reshape(height, width, c)


def center_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Cuts the middle [height, width, c] out of an image that is at least as large."""
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return image[top : top + height, left : left + width]


def random_crop_flip(
  image: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
  """Cuts a random [height, width, c] and mirrors it left to right half of the time."""
  top = int(rng.integers(image.shape[0] - height + 1))
  left = int(rng.integers(image.shape[1] - width + 1))
  crop = image[top : top + height, left : left + width]
  return crop[:, ::-1] if rng.random() < 0.5 else crop


def random_resized_crop(
  image: np.ndarray,
  size: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """Cuts a box of random area and aspect and resizes it to [size, size, c] (arXiv 1409.4842).

  After ten boxes that do not fit, the largest centred square is taken.
  """
  h, w, _ = image.shape
  for _ in range(10):
    target = rng.uniform(*area) * h * w
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
    cw, ch = round(float(np.sqrt(target * aspect))), round(float(np.sqrt(target / aspect)))
    if 0 < cw <= w and 0 < ch <= h:
      top, left = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
      return resize(image[top : top + ch, left : left + cw], size, size)
  side = min(h, w)
  return resize(center_crop(image, side, side), size, size)


@dataclasses.dataclass(frozen=True)
class Affine:
  """Limits of a random affine warp about the centre.

  Attributes:
    shift: in pixels, along each axis.
    rotate: in degrees.
    scale: as a factor, from 1/(1+scale) to 1+scale.
    shear: horizontal, as a slope.
  """

  shift: float
  rotate: float
  scale: float
  shear: float

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Warps uint8 [h, w, c]; what comes in from outside is 0."""
    h, w, c = image.shape
    dx, dy, turn, zoom, lean = rng.uniform(-1.0, 1.0, 5).tolist()
    angle, factor = np.deg2rad(self.rotate * turn), (1 + self.scale) ** zoom
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    # Rotation and scale after the shear, about the centre, then the shift.
    a, b = cos, cos * self.shear * lean - sin
    d, e = sin, sin * self.shear * lean + cos
    cx, cy = (w - 1) / 2, (h - 1) / 2
    matrix = np.array(
      [
        [a, b, cx - a * cx - b * cy + self.shift * dx],
        [d, e, cy - d * cx - e * cy + self.shift * dy],
      ]
    )
    return cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR).reshape(h, w, c)


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Bytes to float32 [h, w, c], in a fixed part and a random part.

  Attributes:
    name: as given to `create`.
    shape: [h, w, c] of the result.
    load: bytes -> uint8 [h, w, c], without randomness.
    transform: (uint8 image, generator) -> float32 image.
  """

  name: str
  shape: tuple[int, int, int]
  load: Callable[[bytes], np.ndarray]
  transform: Callable[[np.ndarray, np.random.Generator], np.ndarray]

  def __call__(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    """Returns the image, float32 [h, w, c]; the same bytes and generator state give the same."""
    return self.transform(self.load(encoded), rng)


@dataclasses.dataclass(frozen=True)
class _Load:
  """Decodes, then resizes to `size` (height, width), or the shorter side to `shorter`."""

  channels: int
  size: tuple[int, int] | None = None
  shorter: int | None = None

  def __call__(self, encoded: bytes) -> np.ndarray:
    image = decode(encoded, self.channels)
    if self.size is not None:
      image = resize(image, *self.size)
    if self.shorter is not None:
      h, w, _ = image.shape
      ratio = self.shorter / min(h, w)
      image = resize(
        image, max(round(h * ratio), self.shorter), max(round(w * ratio), self.shorter)
      )
    return np.ascontiguousarray(image)


@dataclasses.dataclass(frozen=True)
class _Small:
  """Scales to [-1, 1], after a random affine warp if there is one."""

  affine: Affine | None

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if self.affine is not None:
      image = self.affine(image, rng)
    return image.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


@dataclasses.dataclass(frozen=True)
class _Hdml:
  """Crop, flip, BGR minus the mean, in the units of 8-bit pixels."""

  size: int
  train: bool

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    crop = (
      random_crop_flip(image, self.size, self.size, rng)
      if self.train
      else center_crop(image, self.size, self.size)
    )
    return np.ascontiguousarray(crop[:, :, ::-1]).astype(np.float32) - _HDML_MEAN_BGR


@dataclasses.dataclass(frozen=True)
class _Standard:
  """Random resized crop and flip, or centre crop; ImageNet mean and deviation."""

  size: int
  train: bool

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if self.train:
      crop = random_resized_crop(image, self.size, rng)
      crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    else:
      crop = center_crop(image, self.size, self.size)
    crop = np.ascontiguousarray(crop).astype(np.float32)
    if crop.shape[-1] == 1:
      return (crop - _IMAGENET_MEAN.mean()) / _IMAGENET_STD.mean()
    return (crop - _IMAGENET_MEAN) / _IMAGENET_STD


_AFFINES = {
  "glyphs": Affine(shift=2.0, rotate=8.0, scale=0.12, shear=0.12),
  "digits": Affine(shift=1.5, rotate=6.0, scale=0.08, shear=0.06),
}

NAMES = ("digits", "glyphs", "hdml", "standard")
"""The preprocessings that `create` knows."""


def create(name: str, image_size: int, train: bool, channels: int) -> Preprocess:
  """Makes the preprocessing `name`: a function (bytes, generator) -> float32 [h, w, c].

  - "glyphs", "digits": resize to `image_size`; in training a light random affine warp; [-1, 1].
  - "hdml": the authors' for arXiv 1903.05503. Warp to 256x256, crop 227 (at random, with a random
    flip, in training; else the centre), BGR minus (104, 117, 123). Another `image_size` keeps the
    proportion 256/227.
  - "standard": random resized crop and flip in training, else shorter side to 8/7 of `image_size`
    (256 for 224) and centre crop; RGB, ImageNet mean and deviation.

  Args:
    name: one of `NAMES`.
    image_size: height and width of the result in pixels.
    train: augment at random.
    channels: 1 (grey) or 3 (colour); "hdml" needs 3.

  Raises:
    ValueError: unknown name, or sizes that make no sense.
  """
  if image_size < 1:
    raise ValueError(f"data.image_size must be at least 1, got {image_size}")
  if channels not in (1, 3):
    raise ValueError(f"data.channels must be 1 or 3, got {channels}")
  shape = (image_size, image_size, channels)
  if name in _AFFINES:
    # The limits of the shift are for 32 pixels.
    affine = _AFFINES[name]
    affine = dataclasses.replace(affine, shift=affine.shift * image_size / 32)
    load = _Load(channels, size=(image_size, image_size))
    return Preprocess(name, shape, load, _Small(affine if train else None))
  if name == "hdml":
    if channels != 3:
      raise ValueError(f"data.preprocess=hdml needs data.channels=3, got {channels}")
    side = round(image_size * _HDML_SIZE / _HDML_CROP)
    return Preprocess(name, shape, _Load(3, size=(side, side)), _Hdml(image_size, train))
  if name == "standard":
    shorter = None if train else round(image_size * 8 / 7)
    load = _Load(channels, shorter=shorter)
    return Preprocess(name, shape, load, _Standard(image_size, train))
  raise ValueError(f"unknown preprocessing {name!r}; valid names are {', '.join(NAMES)}")
