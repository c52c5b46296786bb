"""From encoded bytes to uint8 images of one size: decoding, resizing, augmentation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdml.data import augment
from jaxdml.data import normalize as normalize_lib
from jaxdml.data.augmentation import Augmentation
from jaxdml.data.cache import Decoder
from jaxdml.data.decode import ImageDecodeError as ImageDecodeError
from jaxdml.data.decode import probe, reduction_for
from jaxdml.data.normalize import Normalize

_HDML_SIZE, _HDML_CROP = 256, 227
# What "standard" does where neither the config nor weights say otherwise.
CROP_PCT, INTERPOLATION = 7 / 8, "bilinear"
# The limits of the shift are for 32 pixels.
_AFFINES = {
  "glyphs": augment.Affine(shift=2.0, rotate=8.0, scale=0.12, shear=0.12),
  "digits": augment.Affine(shift=1.5, rotate=6.0, scale=0.08, shear=0.06),
}
# The normalisation that each preprocessing has of its own.
NORMALIZE = {"digits": "half", "glyphs": "half", "hdml": "caffe", "standard": "imagenet"}
_KEYS = tuple(field.name for field in dataclasses.fields(Augmentation))
NAMES = tuple(NORMALIZE)  # What `create` knows.


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Bytes to uint8 [h, w, c]: a fixed part, `load`, and a random one by the generator alone.

  `load` is None where `transform` takes the bytes: what it draws says how much of them to decode.
  """

  name: str  # as given to `create`
  shape: tuple[int, int, int]  # [h, w, c] of the result
  load: Callable[[bytes], np.ndarray] | None  # gives uint8 [h, w, c]
  transform: Callable[[Any, np.random.Generator], np.ndarray]  # gives uint8 of `shape`
  normalize: Normalize  # images of `shape`, any leading axes -> float32, on the device

  def __call__(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    """Returns the image, uint8 [h, w, c]; the same bytes and generator state give the same."""
    return self.transform(encoded if self.load is None else self.load(encoded), rng)


def _warp(channels: int, side: int, decoder: Decoder, encoded: bytes) -> np.ndarray:
  """Decodes and resizes to a square, whatever the aspect."""
  image = decoder(encoded, channels, min_size=(side, side))
  return augment.resize(image, side, side)


def _shorter(
  channels: int, side: int, interpolation: str, decoder: Decoder, encoded: bytes
) -> np.ndarray:
  """Decodes and resizes to a shorter side of `side`."""
  header = probe(encoded)
  ratio = side / min(header.height, header.width)
  height, width = (max(round(x * ratio), side) for x in (header.height, header.width))
  room = augment.INTERPOLATIONS[interpolation]
  image = decoder(encoded, channels, min_size=(room * height, room * width), header=header)
  return augment.resize(image, height, width, interpolation)


def _center_crop(size: int, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return augment.center_crop(image, size, size)


def _random_crop(
  size: int, change: Augmentation, image: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  return change(augment.random_crop(image, size, size, rng), rng)


def _then(
  first: Callable[..., np.ndarray], change: Augmentation, image: Any, rng: np.random.Generator
) -> np.ndarray:
  return change(first(image, rng), rng)


def _random_resized_crop(
  size: int,
  channels: int,
  change: Augmentation,
  interpolation: str,
  decoder: Decoder,
  encoded: bytes,
  rng: np.random.Generator,
) -> np.ndarray:
  """Random resized crop of encoded bytes, changed.

  The box is drawn first, from the size in the header, so that a large JPEG is decoded no larger
  than its box needs. In the reduced picture the box lies on whole pixels: less than half a pixel of
  the result from where it was drawn.
  """
  header = probe(encoded)
  limits = {"area": change.crop_scale, "ratio": change.crop_ratio}
  box = augment.random_box(header.height, header.width, rng, **limits)
  side = augment.INTERPOLATIONS[interpolation] * size
  needed = header.height * side / box.height, header.width * side / box.width
  image = decoder(encoded, channels, min_size=needed, header=header)
  crop = box.reduced(reduction_for(header, needed), image.shape[:2]).cut(image)
  return change(augment.resize(crop, size, size, interpolation), rng)


def create(
  name: str,
  image_size: int,
  train: bool,
  channels: int,
  *,
  normalize: str = "",
  crop_pct: float = 0.0,
  interpolation: str = "",
  cache: str = "",
  **augmentation: Any,
) -> Preprocess:
  """Makes the preprocessing `name`: a function (bytes, generator) -> uint8 [h, w, c].

  "glyphs" and "digits" are for these data sets, "hdml" is the authors' for arXiv 1903.05503, and
  "standard" is for photos; docs/data.md has a table of what each does.

  Args:
    image_size: height and width of the result in pixels.
    train: augment at random.
    channels: 1 (grey) or 3 (colour); "hdml" needs 3.
    normalize: one of `data.normalize.NAMES` instead of the preprocessing's own.
    crop_pct: share of the resized picture's shorter side that the centre crop of "standard" keeps;
      0 is 7/8.
    interpolation: of "standard", one of `augment.INTERPOLATIONS`; "" is bilinear.
    cache: a directory where decoded pictures are kept for the next time (`cache.Decoder`); the
      result is the same bit by bit. "" keeps nothing.
    **augmentation: fields of `Augmentation`, of training; "glyphs" and "digits" never flip.

  ValueError, which names the config key, for an unknown name or values that do not go together.
  """
  if name not in NAMES:
    raise ValueError(f"data.preprocess: expected one of {', '.join(NAMES)}; got {name!r}")
  if image_size < 1:
    raise ValueError(f"data.image_size: expected at least 1; got {image_size}")
  if channels not in (1, 3):
    raise ValueError(f"data.channels: expected 1 (grey) or 3 (colour); got {channels}")
  if name == "hdml" and channels != 3:
    raise ValueError(f"data.preprocess: hdml needs data.channels=3; got {channels}")
  change = Augmentation(**augmentation)
  change.check(channels, name not in _AFFINES)
  if not 0 <= crop_pct <= 1:
    raise ValueError(f"data.crop_pct: expected a share in (0, 1], or 0 for 7/8; got {crop_pct}")
  if interpolation and interpolation not in augment.INTERPOLATIONS:
    names = ", ".join(augment.INTERPOLATIONS)
    raise ValueError(f"data.interpolation: expected one of {names}; got {interpolation!r}")
  if name != "standard" and (crop_pct or interpolation):
    key, got = ("crop_pct", crop_pct) if crop_pct else ("interpolation", interpolation)
    raise ValueError(f"data.{key}: for data.preprocess=standard; got {got} with {name}")
  crop_pct, interpolation = crop_pct or CROP_PCT, interpolation or INTERPOLATION
  decoder, part = Decoder(cache), functools.partial
  center = part(_center_crop, image_size)
  transform = part(_then, center, change) if train else center
  if name in _AFFINES:
    affine = _AFFINES[name]
    affine = dataclasses.replace(affine, shift=affine.shift * image_size / 32)
    load = part(_warp, channels, image_size, decoder)
    if train:
      transform = part(_then, affine, dataclasses.replace(change, flip=False))
  elif name == "hdml":
    load = part(_warp, channels, round(image_size * _HDML_SIZE / _HDML_CROP), decoder)
    if train and change.crop == "random":
      transform = part(_random_crop, image_size, change)
  elif train and change.crop == "random":
    load = None
    transform = part(_random_resized_crop, image_size, channels, change, interpolation, decoder)
  else:
    load = part(_shorter, channels, round(image_size / crop_pct), interpolation, decoder)
  normalizer = normalize_lib.create(normalize or NORMALIZE[name], channels)
  return Preprocess(name, (image_size, image_size, channels), load, transform, normalizer)


def from_config(data: Any, *, train: bool, cache: str = "", image_size: int = 0) -> Preprocess:
  """Makes the preprocessing of `config.data`, as `create` does; `image_size` replaces its own.

  `data.cache` is left to the caller: a model that is used elsewhere keeps no pictures there.
  """
  keys = ("normalize", "crop_pct", "interpolation", *_KEYS)
  options = {key: data[key] for key in keys} | {"cache": cache}
  return create(data.preprocess, image_size or data.image_size, train, data.channels, **options)
