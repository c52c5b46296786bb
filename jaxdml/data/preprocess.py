"""From encoded bytes to uint8 images of one size: decoding, resizing, augmentation.

A `Preprocess` is a fixed part, whose result may be kept in memory, and a random part, driven by the
generator it is given and by nothing else. Its `normalize` is for the device: see `data.normalize`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdml.data import augment
from jaxdml.data import normalize as normalize_lib
from jaxdml.data.cache import Decoder
from jaxdml.data.decode import ImageDecodeError as ImageDecodeError
from jaxdml.data.decode import probe, reduction_for
from jaxdml.data.normalize import Normalize

__all__ = ["NAMES", "NORMALIZE", "ImageDecodeError", "Preprocess", "create", "from_config"]

_HDML_SIZE, _HDML_CROP = 256, 227
# The limits of the shift are for 32 pixels.
_AFFINES = {
  "glyphs": augment.Affine(shift=2.0, rotate=8.0, scale=0.12, shear=0.12),
  "digits": augment.Affine(shift=1.5, rotate=6.0, scale=0.08, shear=0.06),
}
NORMALIZE = {"digits": "half", "glyphs": "half", "hdml": "caffe", "standard": "imagenet"}
"""The normalisation that each preprocessing has of its own."""

NAMES = tuple(NORMALIZE)
"""The preprocessings that `create` knows."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Bytes to uint8 [h, w, c], in a fixed part and a random part.

  Attributes:
    name: as given to `create`.
    shape: [h, w, c] of the result.
    load: bytes -> uint8 [h, w, c], without randomness; None where `transform` takes the bytes,
      because what it draws says how much of them to decode.
    transform: (what `load` gives, generator) -> uint8 image of `shape`.
    normalize: images of `shape`, any leading axes -> float32, for the network.
  """

  name: str
  shape: tuple[int, int, int]
  load: Callable[[bytes], np.ndarray] | None
  transform: Callable[[Any, np.random.Generator], np.ndarray]
  normalize: Normalize

  def __call__(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    """Returns the image, uint8 [h, w, c]; the same bytes and generator state give the same."""
    return self.transform(encoded if self.load is None else self.load(encoded), rng)


@dataclasses.dataclass(frozen=True)
class _Warp:
  """Decodes and resizes to a square, whatever the aspect."""

  channels: int
  side: int
  decoder: Decoder

  def __call__(self, encoded: bytes) -> np.ndarray:
    image = self.decoder(encoded, self.channels, min_size=(self.side, self.side))
    return augment.resize(image, self.side, self.side)


@dataclasses.dataclass(frozen=True)
class _Shorter:
  """Decodes and resizes to a shorter side of `side`."""

  channels: int
  side: int
  decoder: Decoder

  def __call__(self, encoded: bytes) -> np.ndarray:
    header = probe(encoded)
    ratio = self.side / min(header.height, header.width)
    height, width = (max(round(x * ratio), self.side) for x in (header.height, header.width))
    image = self.decoder.probed(encoded, header, self.channels, min_size=(height, width))
    return augment.resize(image, height, width)


@dataclasses.dataclass(frozen=True)
class _Small:
  """A random affine warp, if there is one."""

  affine: augment.Affine | None

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image if self.affine is None else self.affine(image, rng)


@dataclasses.dataclass(frozen=True)
class _CenterCrop:
  """The middle square."""

  size: int

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return augment.center_crop(image, self.size, self.size)


@dataclasses.dataclass(frozen=True)
class _RandomCrop:
  """Random crop and flip, colour jitter."""

  size: int
  jitter: float

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    crop = augment.random_crop(image, self.size, self.size, rng)
    return _flip_and_jitter(crop, self.jitter, rng)


@dataclasses.dataclass(frozen=True)
class _RandomResizedCrop:
  """Random resized crop and flip of encoded bytes, colour jitter.

  The box is drawn first, from the size in the header, so that a large JPEG is decoded no larger
  than its box needs. In the reduced picture the box lies on whole pixels: less than half a pixel of
  the result from where it was drawn.
  """

  size: int
  channels: int
  jitter: float
  decoder: Decoder

  def __call__(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    header = probe(encoded)
    drawn = header.height, header.width
    box = augment.random_box(*drawn, rng)
    needed = drawn[0] * self.size / box.height, drawn[1] * self.size / box.width
    image = self.decoder.probed(encoded, header, self.channels, min_size=needed)
    crop = box.reduced(reduction_for(header, needed), image.shape[:2]).cut(image)
    return _flip_and_jitter(augment.resize(crop, self.size, self.size), self.jitter, rng)


def _flip_and_jitter(image: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
  if rng.random() < 0.5:
    image = augment.mirror(image)
  return augment.color_jitter(image, jitter, rng) if jitter else image


def create(
  name: str,
  image_size: int,
  train: bool,
  channels: int,
  *,
  normalize: str = "",
  color_jitter: float = 0.0,
  cache: str = "",
) -> Preprocess:
  """Makes the preprocessing `name`: a function (bytes, generator) -> uint8 [h, w, c].

  - "glyphs", "digits": resize to `image_size`; in training a light random affine warp; normalised
    by "half".
  - "hdml": the authors' for arXiv 1903.05503. Warp to 256x256, crop 227 (at random, with a random
    flip, in training; else the centre); normalised by "caffe". Another `image_size` keeps the
    proportion 256/227.
  - "standard": random resized crop and flip in training, else shorter side to 8/7 of `image_size`
    (256 for 224) and centre crop; normalised by "imagenet".

  Args:
    name: one of `NAMES`.
    image_size: height and width of the result in pixels.
    train: augment at random.
    channels: 1 (grey) or 3 (colour); "hdml" needs 3.
    normalize: one of `data.normalize.NAMES` instead of the preprocessing's own.
    color_jitter: strength in [0, 1] of the training images' changes of colour
      (`augment.color_jitter`); "hdml" and "standard" with 3 channels.
    cache: a directory where decoded pictures are kept for the next time (`cache.Decoder`); the
      result is the same bit by bit. "" keeps nothing.

  Raises:
    ValueError: unknown name, or values that do not go together; the message names the config key.
  """
  if name not in NAMES:
    raise ValueError(f"data.preprocess: expected one of {', '.join(NAMES)}; got {name!r}")
  if image_size < 1:
    raise ValueError(f"data.image_size: expected at least 1; got {image_size}")
  if channels not in (1, 3):
    raise ValueError(f"data.channels: expected 1 (grey) or 3 (colour); got {channels}")
  if name == "hdml" and channels != 3:
    raise ValueError(f"data.preprocess: hdml needs data.channels=3; got {channels}")
  if not 0 <= color_jitter <= 1:
    raise ValueError(f"data.color_jitter: expected a strength in [0, 1]; got {color_jitter}")
  if color_jitter and channels != 3:
    raise ValueError(f"data.color_jitter: grey images have no colour, so 0; got {color_jitter}")
  if color_jitter and name in _AFFINES:
    raise ValueError(
      f"data.color_jitter: for data.preprocess=hdml or standard; got {color_jitter} with {name}"
    )
  decoder = Decoder(cache)
  if name in _AFFINES:
    affine = _AFFINES[name]
    affine = dataclasses.replace(affine, shift=affine.shift * image_size / 32)
    load, transform = _Warp(channels, image_size, decoder), _Small(affine if train else None)
  elif name == "hdml":
    load = _Warp(channels, round(image_size * _HDML_SIZE / _HDML_CROP), decoder)
    transform = _RandomCrop(image_size, color_jitter) if train else _CenterCrop(image_size)
  elif train:
    load, transform = None, _RandomResizedCrop(image_size, channels, color_jitter, decoder)
  else:
    load = _Shorter(channels, round(image_size * 8 / 7), decoder)
    transform = _CenterCrop(image_size)
  normalizer = normalize_lib.create(normalize or NORMALIZE[name], channels)
  return Preprocess(name, (image_size, image_size, channels), load, transform, normalizer)


def from_config(data: Any, *, train: bool, cache: str = "") -> Preprocess:
  """Makes the preprocessing of `config.data`.

  `data.cache` is left to the caller: a model that is used elsewhere keeps no pictures there.

  Raises:
    ValueError: as `create`.
  """
  return create(
    data.preprocess,
    data.image_size,
    train,
    data.channels,
    normalize=data.normalize,
    color_jitter=data.color_jitter,
    cache=cache,
  )
