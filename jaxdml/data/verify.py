"""Checks that encoded bytes are a whole image, before they become part of a data set."""

from __future__ import annotations

from jaxdml.data import decode
from jaxdml.data.decode import ImageDecodeError

_CHANNELS = 3
_SMALLEST = (1, 1)  # a size that lets a JPEG be decoded at an eighth


def check_image(encoded: bytes) -> None:
  """Raises unless `decode.decode` can decode the image, and its end is there.

  A JPEG is decoded at an eighth of its size, which reads all of its data in a fraction of the time;
  other formats in full. Most of the time is spent without Python's lock, so threads help. Damage
  inside a JPEG's data that its decoder repairs passes: nothing in the file tells it.

  Args:
    encoded: the bytes of an image file.

  Raises:
    ImageDecodeError: it is empty, no image, cut short, damaged or too large; the message says so.
  """
  header = decode.probe(encoded)
  blocks = -(-header.height // 8) * -(-header.width // 8)
  if header.format == "JPEG" and blocks > 8 * len(encoded):
    # Each block of the largest component takes a bit at least, so the size or the data is wrong.
    raise ImageDecodeError(
      f"a JPEG of {header.width} x {header.height} pixels by its header, and {len(encoded)} bytes "
      "cannot hold as many: cut short or damaged"
    )
  image = decode.decode_probed(encoded, header, _CHANNELS, min_size=_SMALLEST)
  reduction = decode.reduction_for(header, _SMALLEST)
  height, width = image.shape[0] * reduction, image.shape[1] * reduction
  # Reduced sides are rounded.
  if max(abs(height - header.height), abs(width - header.width)) >= reduction:
    raise ImageDecodeError(
      f"a {header.format} whose header says {header.width} x {header.height} pixels decodes to "
      f"{width} x {height}: damaged"
    )
