"""Geometry and colour on uint8 images: what is random draws from the generator it is given."""

import dataclasses
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

_LUMA = np.array([0.299, 0.587, 0.114])
# Luma and two axes of colour (YIQ): turning the two turns the hue and leaves the luma.
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)


class Box(NamedTuple):
  """A rectangle of whole pixels."""

  top: int
  left: int
  height: int
  width: int

  def cut(self, image: np.ndarray) -> np.ndarray:
    """Returns the part of [h, w, c] inside, as a view."""
    return image[self.top : self.top + self.height, self.left : self.left + self.width]

  def reduced(self, reduction: int, size: tuple[int, int]) -> "Box":
    """The same part of the picture at 1 / `reduction` of its sides, which has `size` then.

    >>> Box(10, 20, 100, 50).reduced(2, (100, 200))
    Box(top=5, left=10, height=50, width=25)
    """
    height = min(max(round(self.height / reduction), 1), size[0])
    width = min(max(round(self.width / reduction), 1), size[1])
    top = min(round(self.top / reduction), size[0] - height)
    left = min(round(self.left / reduction), size[1] - width)
    return Box(top, left, height, width)


INTERPOLATIONS = {"bilinear": 1, "bicubic": 3}
"""What `resize` takes, each with how many times larger than its result a picture, decoded at a
fraction of its sides, has to stay: bicubic sharpens what averaging blurs, until there is room."""


def resize(
  image: np.ndarray, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
  """Resizes uint8 [h, w, c] to [height, width, c]; antialiased, as Pillow does it.

  "bicubic" is Pillow's own filter (a = -0.5), which evaluations of published models call, after
  averaging over blocks where a side shrinks by 6 or more. "bilinear" is close to Pillow's: a side
  that shrinks by 2 or more is first averaged over blocks of 2, 4, 8, ... pixels, which the decoder
  may have done already (`decode`'s `min_size`); what does not fill a block at the right and the
  lower edge, less than a pixel of the result, is left out. For the factor t < 2 that is left the
  pixels are blurred by [a, 1 - 2 a, a] with a = (t^2 - 1) / 12 and interpolated: together as wide
  as Pillow's triangle of half-width t, in a fraction of the time of INTER_AREA.
  """
  h, w, c = image.shape
  if interpolation == "bicubic":
    picture = Image.fromarray(image[:, :, 0] if c == 1 else image)
    gap = float(INTERPOLATIONS[interpolation])
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=gap)
    return np.asarray(picture).reshape(height, width, c)
  # The largest powers of two by which the sides shrink to no less than is asked for.
  rows, columns = (1 << max((x // y).bit_length() - 1, 0) for x, y in ((h, height), (w, width)))
  if rows > 1 or columns > 1:
    h, w = h // rows, w // columns
    image = _average(image[: h * rows, : w * columns], rows, columns)
  if (h, w) != (height, width):
    across, down = _blur(w / width), _blur(h / height)
    if across[0] or down[0]:
      image = cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
  return image.reshape(height, width, c)


def _average(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """The means of blocks of `rows` x `columns` pixels, powers of two that divide the sides."""
  h, w, _ = image.shape
  square = min(rows, columns)
  if square > 1:
    h, w = h // square, w // square
    image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
  for _ in range((max(rows, columns) // square).bit_length() - 1):
    # OpenCV averages by area fast in squares alone; half-way between two pixels bilinear is that.
    h, w = (h // 2, w) if rows > columns else (h, w // 2)
    image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
  return image


def _blur(factor: float) -> np.ndarray:
  """The kernel that bilinear interpolation needs before it shrinks by `factor` < 2."""
  a = max(factor**2 - 1, 0) / 12  # variances: t^2 / 6 = 1 / 6 of the interpolation + 2 a
  return np.array([a, 1 - 2 * a, a], np.float32)


def mirror(image: np.ndarray) -> np.ndarray:
  """Swaps left and right of [h, w, c]."""
  return cv2.flip(image, 1).reshape(image.shape)


def center_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Cuts the middle [height, width, c] out of an image that is at least as large."""
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return Box(top, left, height, width).cut(image)


def random_crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Cuts a random [height, width, c] out of an image that is at least as large."""
  top = int(rng.integers(image.shape[0] - height + 1))
  left = int(rng.integers(image.shape[1] - width + 1))
  return Box(top, left, height, width).cut(image)


def random_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """Draws a box of random area and aspect in a picture of that size (arXiv 1409.4842).

  `area` limits the box's share of the picture, `ratio` its width / height. After ten boxes that do
  not fit, the largest centred square is taken.
  """
  for _ in range(10):
    target = rng.uniform(*area) * height * width
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
    w, h = round(float(np.sqrt(target * aspect))), round(float(np.sqrt(target / aspect)))
    if 0 < w <= width and 0 < h <= height:
      return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
  side = min(height, width)
  return Box((height - side) // 2, (width - side) // 2, side, side)


def color_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """Changes brightness, contrast, saturation, then hue of uint8 RGB [h, w, 3] at random.

  The first three are factors in [1 - strength, 1 + strength]: of the pixels, of their distance from
  the picture's mean luma, of their distance from their own luma. The hue turns by up to
  strength / 4 of the circle, in YIQ, either way (proportions of arXiv 2002.05709). All four are
  linear: they are applied as one matrix, and values are clipped once, at the end. `strength` is in
  [0, 1], and 0 changes nothing; four numbers are drawn.
  """
  draws = rng.uniform(-strength, strength, 4).tolist()
  return recolor(image, *(1 + x for x in draws[:3]), turn=draws[3] / 4)


def recolor(
  image: np.ndarray,
  brightness: float,
  contrast: float = 1.0,
  saturation: float = 1.0,
  turn: float = 0.0,
) -> np.ndarray:
  """Multiplies brightness, contrast and saturation, and turns the hue by a share of the circle.

  Of uint8 [h, w, c], as `color_jitter` has them; grey pictures have the first two alone.
  """
  if image.shape[2] == 1:
    matrix, luma = np.array([[brightness * contrast]]), float(cv2.mean(image)[0])
  else:
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    colours = np.diag([1.0, saturation, saturation])
    colours = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ colours
    matrix = brightness * contrast * (_RGB @ colours @ _YIQ)
    luma = float(_LUMA @ cv2.mean(image)[:3])
  offset = np.full((len(matrix), 1), (1 - contrast) * brightness * luma)
  return cv2.transform(image, np.hstack([matrix, offset])).reshape(image.shape)


def warp(image: np.ndarray, matrix: Any) -> np.ndarray:
  """Moves the pixels of [h, w, c] by an affine [2, 3] of (x, y).

  What comes in from outside repeats the nearest pixel of the edge: white around a picture that was
  transparent, since it was laid on white, black around a letter on black, and no colour of its own
  in the corners of a photo.
  """
  h, w, c = image.shape
  edge = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
  return cv2.warpAffine(image, np.array(matrix, float), (w, h), **edge).reshape(h, w, c)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Turns [h, w, c] clockwise about its centre; its corners are `warp`'s."""
  h, w, _ = image.shape
  return warp(image, cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), -degrees, 1.0))


@dataclasses.dataclass(frozen=True)
class Affine:
  """Limits of a random affine warp about the centre.

  The shift is in pixels along each axis, the rotation in degrees, the scale a factor from
  1/(1+scale) to 1+scale, the horizontal shear a slope.
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
    right = cx - a * cx - b * cy + self.shift * dx
    down = cy - d * cx - e * cy + self.shift * dy
    matrix = np.array([[a, b, right], [d, e, down]])
    return cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR).reshape(h, w, c)
