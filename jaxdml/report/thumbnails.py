"""Small pictures inside a page: single ones for galleries, sprite sheets for maps."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdml.report import markup

__all__ = ["Pictures", "Sheets", "sheets", "singles"]

_CHUNK = 256  # images in memory at a time
_PER_SHEET = 512
_COLUMNS = 32
# Side in pixels and WebP quality, the first that stays within the bytes allowed.
_STEPS = ((96, 80), (64, 75), (48, 70), (32, 60), (24, 40))
_SHEET_STEPS = _STEPS[1:]
_SHEET_BYTES, _SINGLE_BYTES = 5_000_000, 3_500_000


class Pictures:
  """Images by row, from an array or from a function that reads them.

  Args:
    images: uint8 or float [n, h, w], [n, h, w, 1] or [n, h, w, 3] (RGB; floats are shown from
      their smallest, black, to their largest, white), or a function that returns such uint8 images
      for rows [m], in their order.
    n: how many there are.

  Raises:
    ValueError: another shape, or NaN.
  """

  def __init__(self, images: Any | Callable[[np.ndarray], Any], n: int):
    if callable(images):
      self._read = images
      return
    array = _checked(images)
    if len(array) != n:
      raise ValueError(f"images: expected one a row of embeddings, {n}; got {len(array)}")
    if array.dtype != np.uint8:
      array = array.astype(np.float32)
      if not np.isfinite(array).all():
        raise ValueError("images: expected finite values, got NaN or infinity")
      low, high = float(array.min()), float(array.max())
      array = ((array - low) * (255 / (high - low or 1.0))).astype(np.uint8)
    self._read = lambda rows: array[rows]

  def load(self, rows: np.ndarray, side: int) -> list[Image.Image]:
    """The images of the rows, shrunk to fit a square of `side` pixels, never enlarged."""
    loaded = []
    for start in range(0, len(rows), _CHUNK):
      for image in _checked(self._read(rows[start : start + _CHUNK])):
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        loaded.append(picture)
    return loaded


def _checked(images: Any) -> np.ndarray:
  array = np.asarray(images)
  if array.ndim == 4 and array.shape[-1] == 1:
    array = array[..., 0]
  if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or not array.size:
    raise ValueError(
      f"images: expected [n, h, w], [n, h, w, 1] or [n, h, w, 3], got shape {array.shape}"
    )
  return array


def _encode(picture: Image.Image, quality: int) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, "WEBP", quality=quality)
  return buffer.getvalue()


def _smaller(pictures: Sequence[Image.Image], side: int) -> list[Image.Image]:
  shrunk = [picture.copy() for picture in pictures]
  for picture in shrunk:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  return shrunk


def singles(pictures: Pictures, rows: np.ndarray) -> dict[int, str]:
  """Data URIs of the rows' images, smaller ones if they would take too many bytes.

  Args:
    pictures: where they come from.
    rows: [m], distinct.
  """
  loaded = pictures.load(rows, _STEPS[0][0])
  for side, quality in _STEPS:
    encoded = [_encode(picture, quality) for picture in _smaller(loaded, side)]
    if sum(map(len, encoded)) <= _SINGLE_BYTES:
      break
  uris = (markup.data_uri(content, "image/webp") for content in encoded)
  return dict(zip(rows.tolist(), uris, strict=True))


class Sheets(NamedTuple):
  """Sprite sheets: image i is on sheet i // per_sheet, cells row by row from the upper left.

  Attributes:
    uris: of each sheet.
    side: of a cell, in pixels.
    columns: cells in a row.
    per_sheet: cells on a sheet.
  """

  uris: list[str]
  side: int
  columns: int
  per_sheet: int


def sheets(pictures: Pictures, rows: np.ndarray) -> Sheets:
  """Lays the rows' images out on sheets, smaller ones if they would take too many bytes.

  Args:
    pictures: where they come from.
    rows: [m].
  """
  loaded = pictures.load(rows, _SHEET_STEPS[0][0])
  side = max(max(picture.size) for picture in loaded)
  for limit, quality in _SHEET_STEPS:
    side = min(side, limit)
    encoded = [
      _encode(_sheet(_smaller(loaded[start : start + _PER_SHEET], side), side), quality)
      for start in range(0, len(loaded), _PER_SHEET)
    ]
    if sum(map(len, encoded)) <= _SHEET_BYTES:
      break
  uris = [markup.data_uri(content, "image/webp") for content in encoded]
  return Sheets(uris, side, _COLUMNS, _PER_SHEET)


def _sheet(pictures: Sequence[Image.Image], side: int) -> Image.Image:
  lines = -(-len(pictures) // _COLUMNS)
  mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
  sheet = Image.new(mode, (_COLUMNS * side, lines * side), "white")
  for place, picture in enumerate(pictures):
    line, column = divmod(place, _COLUMNS)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    sheet.paste(picture, (column * side + left, line * side + top))
  return sheet
