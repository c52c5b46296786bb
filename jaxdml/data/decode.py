"""From encoded bytes to uint8 pixels: upright, whole, in one mode; or one error that says why not.

OpenCV decodes JPEG and opaque PNG, Pillow every other kind. Both decode on the host's CPU.
"""

import contextlib
import functools
import io
import struct
import zlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from jaxdml.errors import JaxdmlError

# The formats that are decoded, HEIF, as iPhones write it (.heic), with the package pillow-heif.
# Pillow knows more, some of which start programs.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Larger images are refused before they are decoded: 512 MiB as RGB, Pillow's own limit.
MAX_PIXELS = 178_956_970
MAX_BYTES = 2**29  # So are larger files: no image of `MAX_PIXELS` 8-bit RGB pixels needs as much.

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112  # the EXIF tag
_MAX_TEXT = 2**20  # of a PNG's compressed text
# HEVC's brands of HEIF and the general ones. AVIF, which Pillow reads, names its own beside these.
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_PNG = b"\x89PNG\r\n\x1a\n"
_ALONE = frozenset(bytes([m]) for m in (0x00, 0x01, *range(0xD0, 0xD9)))  # JPEG, without a length
_FRAMES = frozenset(bytes([m]) for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
# OpenCV's modes that halve a JPEG's sides while decoding. The names of the grey ones are the bare
# bits; colour is asked for as RGB, which takes no bit of BGR beside it.
_REDUCED = {1: 0} | {r: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{r}") for r in (2, 4, 8)}


class ImageDecodeError(JaxdmlError, ValueError):
  """The bytes are no image, a damaged one or one that is too large; the message says which."""


class Header(NamedTuple):
  """Facts that an image file states of itself.

  It is complete if its end is there (JPEG: the EOI marker; PNG: IEND, and no chunk before it that
  fails its checksum). Of other formats only decoding tells: True.
  """

  format: str  # one of `FORMATS`
  height: int  # of the upright picture, in pixels
  width: int
  complete: bool
  orientation: int = 1  # EXIF's, 1 to 8; 1 is upright as stored
  transparent: bool = False  # it has an alpha channel or a transparent colour


def probe(encoded: bytes) -> Header:
  """Reads an image's header without decoding it.

  ImageDecodeError if it is no image of one of `FORMATS`, cut short, or more than `MAX_PIXELS` or
  `MAX_BYTES`.

  >>> probe(cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes())[:4]
  ('PNG', 2, 3, True)
  """
  if not encoded:
    raise ImageDecodeError("the image is empty (0 bytes)")
  if len(encoded) > MAX_BYTES:
    why = "no photo needs as much; save it as JPEG or PNG"
    raise ImageDecodeError(f"the file is larger than {MAX_BYTES} bytes: {why}")
  jpeg, png = encoded.startswith(b"\xff\xd8\xff"), encoded.startswith(_PNG)
  header = (_probe_jpeg if jpeg else _probe_png if png else _probe_other)(encoded)
  if header.height < 1 or header.width < 1:
    raise _error(encoded, f"a {header.format} of {header.width} x {header.height} pixels")
  if header.height * header.width > MAX_PIXELS:
    size = f"{header.width} x {header.height} pixels, more than the limit of {MAX_PIXELS}"
    raise _error(encoded, f"a {header.format} of {size}; make it smaller")
  if header.orientation > 4:
    header = header._replace(height=header.width, width=header.height)
  return header


def decode(
  encoded: bytes,
  channels: int,
  *,
  min_size: tuple[float, float] | None = None,
  header: Header | None = None,
) -> np.ndarray:
  """Decodes an image to uint8 [h, w, channels], upright; colour is RGB.

  Its orientation is applied. 16 bits keep their upper 8. CMYK becomes RGB. Transparent parts are
  laid on white, as where such pictures are shown: the colour stored under them is arbitrary, often
  black. Of an animation the first picture is taken.

  Args:
    channels: 1 (grey) or 3 (RGB), else ValueError.
    min_size: (height, width) that the caller will reduce the picture to at most. A JPEG is then
      decoded at 1/2, 1/4 or 1/8 of its sides, in less time, if it stays at least as large as this
      on both: what `augment.resize` would begin with.
    header: of `probe`, from who has called it already.

  ImageDecodeError as of `probe`, or if the image is cut short or damaged.

  >>> white = cv2.imencode(".png", np.full((4, 6), 65535, np.uint16))[1].tobytes()
  >>> decode(white, 3).shape, decode(white, 3).dtype, decode(white, 3).min()
  ((4, 6, 3), dtype('uint8'), np.uint8(255))
  """
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, got {channels}")
  header = header or probe(encoded)
  if not header.complete:
    raise _error(encoded, f"a {header.format} that is cut short or damaged")
  if header.format == "JPEG" or (header.format == "PNG" and not header.transparent):
    image = _by_opencv(encoded, header, channels, reduction_for(header, min_size))
  else:
    image = _by_pillow(encoded, header, channels)
  return image[:, :, None] if image.ndim == 2 else image


def reduction_for(header: Header, min_size: tuple[float, float] | None) -> int:
  """Returns the number by which `decode` divides the sides: 1, 2, 4 or 8.

  >>> reduction_for(Header("JPEG", 480, 640, True), (224, 298.7))
  2
  """
  if min_size is None or header.format != "JPEG":
    return 1
  smallest = min(header.height / max(min_size[0], 1), header.width / max(min_size[1], 1))
  return max(r for r in _REDUCED if r <= max(smallest, 1))


def is_heif(encoded: bytes) -> bool:
  """Says whether a file begins as a HEIF picture (ISO/IEC 23008-12, the box `ftyp`).

  >>> is_heif(bytes([0, 0, 0, 20]) + b"ftypheic" + bytes(4) + b"mif1")
  True
  >>> is_heif(bytes([0, 0, 0, 20]) + b"ftypmif1" + bytes(4) + b"avif")
  False
  """
  if encoded[4:8] != b"ftyp" or encoded[8:12] not in _HEIF_BRANDS:
    return False
  end = min(int.from_bytes(encoded[:4], "big"), len(encoded))
  return not any(encoded[place : place + 4] in _AVIF_BRANDS for place in range(16, end - 3, 4))


@functools.cache
def heif_version() -> str:
  """Returns the version of the package that decodes HEIF."""
  return metadata.version("pillow-heif")


@functools.cache
def _reads_heif() -> bool:
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


def _error(encoded: bytes, what: str) -> ImageDecodeError:
  return ImageDecodeError(f"{what} ({len(encoded)} bytes starting with {encoded[:12]!r})")


def _by_opencv(encoded: bytes, header: Header, channels: int, reduction: int) -> np.ndarray:
  # Turned here and not by OpenCV, so that the picture is as `probe` says in every version of it.
  flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
  flags |= cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
  image = None
  with contextlib.suppress(cv2.error):
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  if image is None:
    raise _error(encoded, f"a {header.format} that OpenCV cannot decode: damaged")
  if reduction > 1:
    # The last row and column may stand for less than a block: not the same part of the picture.
    height, width = header.height // reduction, header.width // reduction
    if header.orientation > 4:
      height, width = width, height
    image = image[:height, :width]
  return _upright(image, header.orientation)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation."""
  flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # 1: left and right, 0: top and bottom, -1: both
  image = cv2.transpose(image) if orientation > 4 else image
  return cv2.flip(image, flips[orientation]) if orientation in flips else image


def _by_pillow(encoded: bytes, header: Header, channels: int) -> np.ndarray:
  mode = "L" if channels == 1 else "RGB"
  if header.format == "PNG":
    # What Pillow refuses in the rest (a long text, a colour profile) does not change the picture.
    chunks = _png_chunks(encoded)
    encoded = _PNG + b"".join(c for kind, c, _ in chunks if kind[:1].isupper() or kind == b"tRNS")
  try:
    with Image.open(io.BytesIO(encoded), formats=(header.format,)) as image:
      if image.mode.startswith("I;16"):
        # Pillow would clip what is above 255.
        high = np.asarray(image) >> 8
        if (clear := image.info.get("transparency")) is not None:
          high = np.where(np.asarray(image) == clear, 255, high)
        image = Image.fromarray(high.astype(np.uint8))
      elif image.mode in ("F", "I"):
        what = "32-bit pixels, whose range nobody knows; save it with 8 or 16 bits"
        raise ImageDecodeError(f"a {header.format} of {what}")
      elif header.transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
      return _upright(np.array(image.convert(mode)), header.orientation)
  except ImageDecodeError:
    raise
  except Exception as error:  # Damage shows as any of a dozen exceptions.
    raise _error(encoded, f"a {header.format} that Pillow cannot decode: {error}") from error


def _probe_jpeg(encoded: bytes) -> Header:
  """Walks the segments before the picture's data: the frame header has the size."""
  size, position = None, 2
  tags: dict[str, Any] = {}
  while (position := encoded.find(b"\xff", position)) >= 0:
    while encoded[position : position + 1] == b"\xff":  # any number of them may come first
      position += 1
    marker = encoded[position : position + 1]
    position += 1
    if not marker or marker == b"\xd9":
      break
    if marker in _ALONE:
      continue
    length = int.from_bytes(encoded[position : position + 2], "big")
    body = encoded[position + 2 : position + length]
    if marker == b"\xda":
      if size is None:
        break
      # In the data each 0xFF is followed by 0, so this is the end, and no thumbnail's.
      complete = encoded.rfind(b"\xff\xd9", position) >= 0
      return Header("JPEG", *size, complete, _orientation(tags))
    if marker in _FRAMES and len(body) >= 5:
      size = struct.unpack(">HH", body[1:5])
    elif marker == b"\xe1" and body.startswith(b"Exif\0\0"):
      tags["exif"] = tags["exif"] + body[6:] if "exif" in tags else body  # Others go on from it.
    elif marker == b"\xe1" and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
      tags["xmp"] = body
    position += length
  raise _error(encoded, "a JPEG that is cut short: it ends before the picture's data")


def _probe_png(encoded: bytes) -> Header:
  """Walks the chunks to the end, so that damage is found before libpng writes to stderr."""
  if encoded[12:16] != b"IHDR" or len(encoded) < 33:
    raise _error(encoded, "a PNG that is cut short: it ends before its size")
  width, height, _, colour = struct.unpack(">IIBB", encoded[16:26])
  transparent, complete = colour in (4, 6), False
  tags: dict[str, Any] = {}
  for kind, chunk, whole in _png_chunks(encoded):
    if not whole:
      # A lower-case first letter: not needed to show the picture.
      if kind[:1].isupper():
        break
      continue
    complete = kind == b"IEND"
    transparent |= kind == b"tRNS"
    if kind == b"eXIf":
      tags["exif"] = b"Exif\0\0" + chunk[8:-4]
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
      tags |= _png_text(kind, bytes(chunk[8:-4]))
  return Header("PNG", height, width, complete, _orientation(tags), transparent)


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
  """Yields the kind of each chunk up to IEND, the chunk, and whether its checksum is right."""
  view, position, kind = memoryview(encoded), 8, b""
  while len(encoded) >= position + 12 and kind != b"IEND":
    length, kind = struct.unpack(">I4s", view[position : position + 8])
    chunk = view[position : position + 12 + length]
    yield kind, chunk, zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    position += 12 + length


def _png_text(kind: bytes, body: bytes) -> dict[str, str]:
  """Returns a text that may hold an orientation, XMP or ImageMagick's copy of Exif, by its name.

  Of a compressed one the first `_MAX_TEXT` bytes.
  """
  name, _, text = body.partition(b"\0")
  if name not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
    return {}
  packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
  # Before it a method (zTXt), or a flag, a method, a language and the name in it (iTXt).
  text = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else text
  if packed:
    try:
      text = zlib.decompressobj().decompress(text, _MAX_TEXT)
    except zlib.error:
      return {}
  return {name.decode(): text.decode("latin-1")}


def _probe_other(encoded: bytes) -> Header:
  formats = [name for name in FORMATS if name != "HEIF"]  # Pillow refuses names it does not know.
  if is_heif(encoded):
    if not _reads_heif():
      needed = "needs the package pillow-heif: pip install pillow-heif"
      raise _error(encoded, f"a HEIF picture (.heic), which {needed}")
    formats = ["HEIF"]
  try:
    with Image.open(io.BytesIO(encoded), formats=formats) as image:
      width, height = image.size
      # Pillow turns a TIFF itself, and gives its upright size.
      turn = 1 if image.format == "TIFF" else orientation(image)
      return Header(image.format, height, width, True, turn, image.has_transparency_data)
  except _BOMBS as error:
    raise _error(encoded, f"an image of too many pixels: {error}") from error
  except Image.UnidentifiedImageError as error:
    raise _error(encoded, f"not an image in one of the formats {', '.join(FORMATS)}") from error
  except Exception as error:  # Damage shows as any of a dozen exceptions.
    raise _error(encoded, f"an image whose header is damaged: {error}") from error


def orientation(image: Image.Image) -> int:
  """Returns a picture's orientation as Pillow finds it: in Exif, ImageMagick's copy of it, or XMP.

  1 if there is none, or what should hold it is damaged: the pixels are not.
  """
  try:
    found = image.getexif().get(_ORIENTATION, 1)
  except Exception:
    return 1
  return found if found in range(1, 9) else 1


def _orientation(tags: dict[str, Any]) -> int:
  """The same of a file's header, with what Pillow's readers would note of it."""
  image = Image.Image()
  image.info = tags
  return orientation(image) if tags else 1
