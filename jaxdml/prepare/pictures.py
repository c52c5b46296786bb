"""Checks of pictures before they become part of a data set, and smaller ones in their place."""

import cv2

from jaxdml.data import augment, decode
from jaxdml.data.decode import ImageDecodeError

QUALITY = 95  # of the JPEGs that `shrink` writes, on libjpeg's scale to 100
_CHANNELS = 3
_SMALLEST = (1, 1)  # a size that lets a JPEG be decoded at an eighth


def check_image(encoded: bytes) -> None:
  """Raises unless `decode.decode` can decode the image, and its end is there.

  A JPEG is decoded at an eighth of its size, which reads all of its data in a fraction of the time;
  other formats in full. Most of the time is spent without Python's lock, so threads help. Damage
  inside a JPEG's data that its decoder repairs passes: nothing in the file tells it.

  ImageDecodeError if it is empty, no image, cut short, damaged or too large.
  """
  header = decode.probe(encoded)
  blocks = -(-header.height // 8) * -(-header.width // 8)
  if header.format == "JPEG" and blocks > 8 * len(encoded):
    # Each block of the largest component takes a bit at least, so the size or the data is wrong.
    what = (
      f"a JPEG of {header.width} x {header.height} pixels by its header, and {len(encoded)} bytes"
    )
    raise ImageDecodeError(f"{what} cannot hold as many: cut short or damaged")
  image = decode.decode(encoded, _CHANNELS, min_size=_SMALLEST, header=header)
  reduction = decode.reduction_for(header, _SMALLEST)
  height, width = image.shape[0] * reduction, image.shape[1] * reduction
  # Reduced sides are rounded.
  if max(abs(height - header.height), abs(width - header.width)) >= reduction:
    said = f"whose header says {header.width} x {header.height} pixels"
    raise ImageDecodeError(f"a {header.format} {said} decodes to {width} x {height}: damaged")


def shrink(encoded: bytes, max_side: int) -> bytes:
  """Returns a JPEG whose longer side is `max_side`; the same bytes if the picture is no larger.

  What is written is upright and RGB, transparent parts on white, as training would see it; of the
  file's metadata nothing is kept. `max_side` is in pixels, at least 1. The errors are those of
  `decode.decode`.
  """
  header = decode.probe(encoded)
  longer = max(header.height, header.width)
  if longer <= max_side:
    return encoded
  height, width = (max(round(s * max_side / longer), 1) for s in (header.height, header.width))
  image = decode.decode(encoded, _CHANNELS, min_size=(height, width), header=header)
  image = augment.resize(image, height, width)
  options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
  written, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
  if not written:
    raise ImageDecodeError(f"a {header.format} of {width} x {height} pixels that cannot be written")
  return jpeg.tobytes()
