"""HEIF pictures, as iPhones write them (.heic): read by Pillow with the package pillow-heif."""

from __future__ import annotations

import functools
from importlib import metadata

__all__ = ["HOW_TO_READ", "available", "is_heif", "version"]

HOW_TO_READ = "needs the package pillow-heif: pip install pillow-heif"

# HEVC's and the general ones. AVIF, which Pillow reads itself, names its own beside the latter.
_BRANDS = frozenset(
  (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_AVIF = frozenset((b"avif", b"avis"))


def is_heif(encoded: bytes) -> bool:
  """Whether a file says at its beginning (ISO/IEC 23008-12, the box `ftyp`) that it is HEIF.

  >>> is_heif(bytes([0, 0, 0, 20]) + b"ftypheic" + bytes(4) + b"mif1")
  True
  >>> is_heif(bytes([0, 0, 0, 20]) + b"ftypmif1" + bytes(4) + b"avif")
  False
  """
  if encoded[4:8] != b"ftyp" or encoded[8:12] not in _BRANDS:
    return False
  end = min(int.from_bytes(encoded[:4], "big"), len(encoded))
  return not any(encoded[place : place + 4] in _AVIF for place in range(16, end - 3, 4))


@functools.cache
def available() -> bool:
  """Teaches Pillow the format; False where pillow-heif is not installed."""
  try:
    import pillow_heif
  except ModuleNotFoundError:
    return False
  # One thread: the pipeline's workers are as many as there are cores.
  pillow_heif.register_heif_opener(
    thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
  )
  return True


@functools.cache
def version() -> str:
  """Of what decodes them."""
  return metadata.version("pillow-heif")
