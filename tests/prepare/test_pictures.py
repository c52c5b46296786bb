"""What is cut short, no image or too large does not pass `check_image`; every whole image does."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxdml.data import decode
from jaxdml.data.decode import ImageDecodeError
from jaxdml.prepare.pictures import check_image

assert decode._reads_heif()  # pillow-heif also writes


def _picture():
  y, x = np.mgrid[:37, :53]
  return Image.fromarray(np.stack([5 * x, 7 * y, (x * y) % 256], -1).astype(np.uint8))


def encoded(kind, picture=None, **options):
  stream = io.BytesIO()
  (picture or _picture()).save(stream, format=kind, **options)
  return stream.getvalue()


IMAGES = {
  "baseline JPEG": encoded("JPEG"),
  "progressive JPEG": encoded("JPEG", progressive=True),
  "PNG": encoded("PNG"),
  "PNG with alpha": encoded("PNG", _picture().convert("RGBA")),
  "WebP": encoded("WEBP"),
  "lossless WebP": encoded("WEBP", lossless=True),
  "GIF": encoded("GIF"),
  "AVIF": encoded("AVIF"),
  "HEIF": encoded("HEIF"),
  "BMP": encoded("BMP"),
  "TIFF": encoded("TIFF"),
  "LZW TIFF": encoded("TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_a_file_cut_short_anywhere_does_not_pass(kind):
  image = IMAGES[kind]
  check_image(image)
  # The last bytes of a GIF and a BMP end no pixel: a trailer, and a row's padding.
  slack = {"GIF": 2, "BMP": 1}.get(kind, 0)
  for length in sorted({*range(40), *range(40, len(image), 97), len(image) - slack - 1}):
    with pytest.raises(ImageDecodeError):
      check_image(image[:length])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_every_mode_passes(mode):
  picture = _picture().convert("L" if mode == "I;16" else mode)
  if mode == "I;16":
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
  check_image(encoded("TIFF" if mode == "CMYK" else "PNG", picture))
  if mode in ("L", "CMYK"):
    check_image(encoded("JPEG", picture))


def test_a_black_image_is_an_image():
  for kind in ("JPEG", "PNG", "GIF"):
    check_image(encoded(kind, Image.new("RGB", (8, 8))))


def test_a_thumbnail_does_not_hide_that_the_photo_is_cut():
  photo, thumbnail = IMAGES["baseline JPEG"], IMAGES["baseline JPEG"]
  block = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail
  with_exif = photo[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + photo[2:]
  check_image(with_exif)
  check_image(with_exif + b"what cameras append")
  for length in (len(with_exif) - 2, len(with_exif) - len(photo) // 2):
    with pytest.raises(ImageDecodeError, match="cut short"):
      check_image(with_exif[:length])
  half = len(photo) // 2
  with pytest.raises(ImageDecodeError, match="cut short"):
    check_image(photo[:half] + bytes(len(photo) - half))  # A copy that ended, its space reserved.


def test_a_jpeg_with_fewer_bits_than_blocks_does_not_pass():
  jpeg = bytearray(encoded("JPEG", Image.new("RGB", (8, 8))))
  frame, most = jpeg.find(b"\xff\xc0"), 8 * len(jpeg) // 64  # rows of 64 blocks
  with pytest.raises(ImageDecodeError, match="cannot hold as many"):
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 8 * (most + 1), 512)
    check_image(bytes(jpeg))
  # Nothing is so compressible as to be refused.
  for size in ((4000, 3000), (1, 5000), (5000, 1)):
    for options in ({}, {"progressive": True, "optimize": True, "subsampling": 2}):
      check_image(encoded("JPEG", Image.new("RGB", size), quality=1, **options))


def _chunk(kind, body):
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_bomb_is_refused_before_it_is_decoded():
  header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
  data = zlib.compress(bytes(10**6), 9)
  bomb = (
    b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
  )
  with pytest.raises(ImageDecodeError, match="60000 x 60000 pixels, more than the limit"):
    check_image(bomb)
  jpeg = bytearray(IMAGES["baseline JPEG"])
  frame = jpeg.find(b"\xff\xc0")
  jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
  with pytest.raises(ImageDecodeError, match="65535 x 65535 pixels, more than the limit"):
    check_image(bytes(jpeg))


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (b"", "empty"),
    (b"\xff\xd8\xff", "cut short"),
    (b"<!DOCTYPE html><html>404 Not Found</html>", "not an image"),
    (bytes(1000), "not an image"),
    (b"%PDF-1.7\n%%EOF", "not an image"),
  ],
)
def test_what_is_no_image_does_not_pass(content, expected):
  with pytest.raises(ImageDecodeError, match=expected):
    check_image(content)


def test_a_file_larger_than_any_photo_does_not_pass(monkeypatch):
  image = IMAGES["PNG"]
  monkeypatch.setattr(decode, "MAX_BYTES", len(image))
  check_image(image)
  with pytest.raises(ImageDecodeError, match="larger than"):
    check_image(image + b"\0")


def test_pixels_that_are_not_those_of_the_header_do_not_pass(monkeypatch):
  def smaller(*args, **kwargs):
    return decoder_itself(*args, **kwargs)[1:]

  decoder_itself = decode.decode
  monkeypatch.setattr(decode, "decode", smaller)
  with pytest.raises(ImageDecodeError, match="header says 53 x 37 pixels decodes to 53 x 36"):
    check_image(IMAGES["PNG"])


def test_a_jpeg_is_decoded_at_an_eighth(monkeypatch):
  shapes = []

  def spy(*args, **kwargs):
    shapes.append(decoder_itself(*args, **kwargs).shape)
    return decoder_itself(*args, **kwargs)

  decoder_itself = decode.decode
  monkeypatch.setattr(decode, "decode", spy)
  check_image(encoded("JPEG", _picture().resize((160, 123))))
  assert shapes[0][0] in (15, 16) and shapes[0][1:] == (20, 3)
