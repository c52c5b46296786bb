"""Pictures as people hold them: a path, the bytes of a file, Pillow's image or an array."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jaxdml.data.decode import ImageDecodeError

__all__ = ["encoded"]

# Kinds of file that hold an image of a mode as it is.
_KINDS = dict.fromkeys(("1", "I;16", "L", "LA", "P", "RGB", "RGBA"), "PNG") | {"CMYK": "TIFF"}


def encoded(picture: Any, name: str = "image") -> bytes:
  """The bytes of an image file with this picture, so that all take the same way to the network.

  Args:
    picture: a path; the bytes of a file; a PIL image, of which EXIF's orientation is minded; or
      uint8 [h, w] or [h, w, 1], grey, [h, w, 3], RGB, or [h, w, 4], RGB and alpha.
    name: of the argument, for messages.

  Raises:
    TypeError: none of these.
    ValueError: an array of another shape, or without pixels.
    ImageDecodeError: a PIL image whose file is damaged.
    OSError: the path cannot be read.

  >>> encoded(np.zeros((2, 3, 3), np.uint8))[:4]
  b'\\x89PNG'
  """
  if isinstance(picture, str | os.PathLike):
    return pathlib.Path(picture).expanduser().read_bytes()
  if isinstance(picture, bytes | bytearray | memoryview):
    return bytes(picture)
  if not isinstance(picture, Image.Image):
    picture = Image.fromarray(_pixels(picture, name))
  try:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode not in _KINDS:
      upright = upright.convert("RGB")
    file = io.BytesIO()
    upright.save(file, _KINDS[upright.mode], compress_level=0)
  except (OSError, SyntaxError, ValueError) as error:  # What Pillow says of damaged files.
    raise ImageDecodeError(f"{name}: {error}") from error
  return file.getvalue()


def _pixels(picture: Any, name: str) -> np.ndarray:
  pixels = np.asarray(picture) if hasattr(picture, "__array__") else None
  if pixels is None or pixels.dtype != np.uint8:
    kind = type(picture).__name__ if pixels is None else f"an array of {pixels.dtype}"
    raise TypeError(
      f"{name}: expected a path, the bytes of an image file, a PIL image or an array of uint8, "
      f"0 to 255, [h, w, 3]; got {kind}"
    )
  if pixels.ndim == 3 and pixels.shape[2] == 1:
    pixels = pixels[:, :, 0]
  if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
    raise ValueError(
      f"{name}: expected one picture [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]; got shape "
      f"{np.shape(picture)}"
    )
  return np.ascontiguousarray(pixels)
