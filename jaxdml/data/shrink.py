"""Makes large pictures smaller before they become part of a data set."""

from __future__ import annotations

import cv2

from jaxdml.data import augment, decode
from jaxdml.data.decode import ImageDecodeError

QUALITY = 95
"""Of the JPEGs written, on libjpeg's scale to 100."""

_CHANNELS = 3


def shrink(encoded: bytes, max_side: int) -> bytes:
  """Returns a JPEG whose longer side is `max_side`; the same bytes if the picture is no larger.

  What is written is upright and RGB, transparent parts on white, as training would see it; of the
  file's metadata nothing is kept.

  Args:
    encoded: the bytes of an image file.
    max_side: in pixels, at least 1.

  Raises:
    ImageDecodeError: as `decode.decode`.
  """
  header = decode.probe(encoded)
  longer = max(header.height, header.width)
  if longer <= max_side:
    return encoded
  height, width = (max(round(s * max_side / longer), 1) for s in (header.height, header.width))
  image = decode.decode_probed(encoded, header, _CHANNELS, min_size=(height, width))
  image = augment.resize(image, height, width)
  options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
  written, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
  if not written:
    raise ImageDecodeError(f"a {header.format} of {width} x {height} pixels that cannot be written")
  return jpeg.tobytes()
