"""Every kind of file that a camera, a scanner or a shop writes, against Pillow; damage; bombs."""

import functools
import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from jaxdml.data import augment, picture_files
from jaxdml.data import decode as decode_lib
from jaxdml.data.decode import ImageDecodeError, decode, probe

HEIGHT, WIDTH = 48, 64
assert decode_lib._reads_heif()  # the extra [test] has pillow-heif, which also writes


@functools.cache
def photos():
  return load_sample_images().images


@functools.cache
def small():
  """A photo of 48 x 64 pixels."""
  return Image.fromarray(photos()[0]).resize((WIDTH, HEIGHT))


def save(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def by_pillow(encoded, mode):
  """The upright picture; the modes here need no care."""
  return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert(mode))


def assert_near(image, expected, most):
  assert image.dtype == np.uint8
  difference = np.abs(image.astype(int) - np.asarray(expected).reshape(image.shape))
  assert difference.max() <= most


def turned(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


def psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


OPAQUE = {
  "avif": lambda: save(small(), "AVIF"),
  "jpeg": lambda: save(small(), "JPEG", quality=90),
  "jpeg 4:2:0 progressive": lambda: save(small(), "JPEG", subsampling=2, progressive=True),
  "jpeg grey": lambda: save(small().convert("L"), "JPEG"),
  "jpeg cmyk": lambda: save(small().convert("CMYK"), "JPEG"),
  # The same, said to be YCCK by Adobe's marker.
  "jpeg ycck": lambda: save(small().convert("CMYK"), "JPEG").replace(
    b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"
  ),
  "jpeg, bytes after its end": lambda: save(small(), "JPEG") + bytes(100),
  "png": lambda: save(small(), "PNG"),
  "png grey": lambda: save(small().convert("L"), "PNG"),
  "png 1 bit": lambda: save(small().convert("1"), "PNG"),
  "png palette": lambda: save(small().quantize(16), "PNG"),
  "tiff lzw": lambda: save(small(), "TIFF", compression="tiff_lzw"),
  "tiff fax": lambda: save(small().convert("1"), "TIFF", compression="group4"),
  "tiff cmyk": lambda: save(small().convert("CMYK"), "TIFF"),
  "gif": lambda: save(small(), "GIF"),
  "gif, animated": lambda: save(
    small(), "GIF", save_all=True, append_images=[ImageOps.invert(small())]
  ),
  "heif": lambda: save(small(), "HEIF"),
  "heif grey": lambda: save(small().convert("L"), "HEIF"),
  "bmp": lambda: save(small(), "BMP"),
  "bmp palette": lambda: save(small().quantize(16), "BMP"),
  "webp": lambda: save(small(), "WEBP"),
  "webp, animated": lambda: save(
    small(), "WEBP", save_all=True, append_images=[ImageOps.invert(small())]
  ),
  "pgm": lambda: save(small().convert("L"), "PPM"),
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_opaque_pictures_are_as_pillow_reads_them(kind):
  encoded = OPAQUE[kind]()
  # OpenCV converts CMYK, and makes grey from colour, with other rounding.
  assert_near(
    decode(encoded, 3), by_pillow(encoded, "RGB"), 1 if kind in ("jpeg cmyk", "jpeg ycck") else 0
  )
  assert_near(decode(encoded, 1), by_pillow(encoded, "L"), 4 if "jpeg" in kind else 1)
  assert kind != "jpeg ycck" or encoded != OPAQUE["jpeg cmyk"]()
  header = probe(encoded)
  assert header[1:] == (HEIGHT, WIDTH, True, 1, False)
  assert header.format == Image.open(io.BytesIO(encoded)).format
  assert decode(encoded, 1).shape == (HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(kind, orientation):
  encoded = save(small(), kind, exif=turned(orientation).tobytes())
  expected = by_pillow(encoded, "RGB")
  assert expected.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
  exact = by_pillow(save(small(), "PNG", exif=turned(orientation)), "RGB")
  assert np.mean((expected.astype(float) - exact) ** 2) < 200  # 25 dB
  assert_near(decode(encoded, 3), expected, 0)
  assert (probe(encoded).height, probe(encoded).width) == expected.shape[:2]
  if kind == "JPEG":
    # At half its sides too: 2 x 2 pixels become one in whatever way the picture is turned.
    half = decode(encoded, 3, min_size=(expected.shape[0] / 2, expected.shape[1] / 2))
    assert psnr(half, augment.resize(expected, *half.shape[:2])) > 35


def test_damaged_exif_leaves_the_picture_as_stored():
  exif = turned(6).tobytes()
  encoded = save(small(), "JPEG", exif=exif[:8] + b"\xff" * (len(exif) - 8))
  assert probe(encoded).orientation == 1
  assert decode(encoded, 3).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_clipped(kind, channels):
  pixels = np.arange(HEIGHT * WIDTH * channels).reshape(HEIGHT, WIDTH, channels) * 7 % 65536
  pixels = np.sort(pixels, axis=None).reshape(pixels.shape).astype(np.uint16)
  encoded = cv2.imencode(kind, pixels[:, :, ::-1])[1].tobytes()
  assert_near(decode(encoded, channels), pixels / 257, 1)
  assert decode(encoded, channels).max() > 80


def rgba():
  pixels = np.dstack([np.asarray(small()), np.zeros((HEIGHT, WIDTH), np.uint8)])
  pixels[..., 3] = np.linspace(0, 255, WIDTH)
  return Image.fromarray(pixels)


TRANSPARENT = {
  "png rgba": lambda: save(rgba(), "PNG"),
  "png grey and alpha": lambda: save(rgba().convert("LA"), "PNG"),
  "png palette": lambda: save(small().quantize(16), "PNG", transparency=3),
  "png palette, an alpha for each": lambda: save(
    small().quantize(16), "PNG", transparency=bytes(range(0, 256, 16))
  ),
  "png rgb": lambda: save(small(), "PNG", transparency=small().getpixel((3, 3))),
  "png grey": lambda: save(small().convert("L"), "PNG", transparency=100),
  "webp": lambda: save(rgba(), "WEBP", lossless=True, exact=True),
  "tiff": lambda: save(rgba(), "TIFF"),
  "avif": lambda: save(rgba(), "AVIF", quality=100),
  "heif": lambda: save(rgba(), "HEIF"),
  "gif": lambda: save(small().quantize(16), "GIF", transparency=3),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_parts_are_laid_on_white(kind):
  encoded = TRANSPARENT[kind]()
  pixels = by_pillow(encoded, "RGBA").astype(float)
  alpha = pixels[..., 3:] / 255
  assert alpha.min() == 0
  expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
  assert probe(encoded).transparent
  assert_near(decode(encoded, 3), expected, 1)
  luma = expected @ [0.299, 0.587, 0.114]
  assert_near(decode(encoded, 1), luma, 1.5)


def test_transparent_value_of_16_bit_grey():
  chunk = b"tRNS" + (7000).to_bytes(2, "big")
  pixels = np.full((4, 4), 30000, np.uint16)
  pixels[0, 0], pixels[1, 1] = 7000, 7001
  encoded = cv2.imencode(".png", pixels)[1].tobytes()
  chunk = b"\0\0\0\2" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
  image = decode(encoded[:33] + chunk + encoded[33:], 1)[..., 0]
  assert (image[0, 0], image[1, 1], image[2, 2]) == (255, 27, 117)


CUT = ("JPEG", "JPEG progressive", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF")


@pytest.mark.parametrize("kind", CUT)
def test_cut_short(kind, capfd):
  kind, *progressive = kind.split()
  options = {"progressive": bool(progressive)} if kind == "JPEG" else {}
  encoded = save(small(), kind, **options)
  assert decode(encoded, 3).shape == (HEIGHT, WIDTH, 3)
  # Pillow does not miss the last bytes of a GIF, which follow the picture.
  last = len(encoded) - (3 if kind == "GIF" else 1)
  for end in np.linspace(0, last, 40, dtype=int).tolist():
    with pytest.raises(ImageDecodeError, match=f"{end} bytes"):
      decode(encoded[:end], 3)
  assert capfd.readouterr() == ("", "")


def test_half_a_jpeg_is_not_complete():
  # A thumbnail has an end of its own, which is not the picture's.
  thumbnail = save(small().resize((16, 12)), "JPEG")
  encoded = save(small(), "JPEG", exif=turned(1).tobytes() + thumbnail)
  assert encoded.count(b"\xff\xd9") == 2
  assert probe(encoded).complete and not probe(encoded[: len(encoded) * 3 // 4]).complete
  with pytest.raises(ImageDecodeError, match="a JPEG that is cut short or damaged"):
    decode(encoded[:-2], 1)


def test_a_flipped_bit_of_a_png_is_found(capfd):
  encoded = save(small(), "PNG")
  for place in (25, len(encoded) // 2):  # the header, the pixels
    damaged = bytearray(encoded)
    damaged[place] ^= 16
    with pytest.raises(ImageDecodeError, match="a PNG that is cut short or damaged"):
      decode(bytes(damaged), 3)
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
  "encoded, message",
  [
    (b"", r"the image is empty \(0 bytes\)"),
    (b"<!DOCTYPE html><html>", r"not an image in one of .*21 bytes starting with b'<!DOCTYPE ht'"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in one of the formats"),
    (b"\xff\xd8\xff\xe0", "a JPEG that is cut short: it ends before the picture's data"),
    (cv2.imencode(".tiff", np.zeros((2, 2), np.float32))[1].tobytes(), "a TIFF of 32-bit pixels"),
  ],
  ids=["empty", "html", "postscript", "start of a jpeg", "float"],
)
def test_not_an_image(encoded, message, capfd):
  with pytest.raises(ImageDecodeError, match=message):
    decode(encoded, 3)
  assert capfd.readouterr() == ("", "")


def test_opencv_is_quiet_about_what_it_refuses(capfd):
  encoded = save(small(), "JPEG")
  sampling = encoded.index(b"\xff\xc0") + 11
  with pytest.raises(ImageDecodeError, match="a JPEG that OpenCV cannot decode: damaged"):
    decode(encoded[:sampling] + b"\xff" + encoded[sampling + 1 :], 3)
  assert capfd.readouterr() == ("", "")


def _declare(encoded, kind, height, width):
  """A small file that says it is large."""
  if kind == "JPEG":
    at = encoded.index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return encoded[:at] + size + encoded[at + 4 :]
  if kind == "PNG":
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + encoded[24:29]
    return encoded[:12] + head + zlib.crc32(head).to_bytes(4, "big") + encoded[33:]
  if kind == "GIF":
    return encoded[:6] + width.to_bytes(2, "little") + height.to_bytes(2, "little") + encoded[10:]
  return encoded[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + encoded[26:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_bombs_are_refused_before_they_are_decoded(kind, monkeypatch):
  encoded = save(small(), kind)
  refuse = lambda *_, **__: pytest.fail("a bomb was decoded")
  monkeypatch.setattr(cv2, "imdecode", refuse)
  monkeypatch.setattr(Image.Image, "load", refuse)
  bomb = _declare(encoded, kind, 60000, 50000)
  with pytest.raises(ImageDecodeError, match=r"(50000 x 60000|3000000000) pixels.*limit"):
    decode(bomb, 3)
  monkeypatch.setattr(decode_lib, "MAX_PIXELS", HEIGHT * WIDTH - 1)
  with pytest.raises(ImageDecodeError, match="64 x 48 pixels, more than the limit of 3071"):
    probe(encoded)
  monkeypatch.setattr(decode_lib, "MAX_PIXELS", HEIGHT * WIDTH)
  assert probe(encoded).width == WIDTH


@pytest.mark.parametrize("size", [(427, 640), (427 * 2, 641)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_reduced_jpegs_cannot_be_told_from_whole_ones(size, subsampling):
  """At most 0.7 of 255 on average, and 46 dB; quality 90 alone costs up to 3.1, 34 dB here."""
  for photo in photos():
    photo = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_CUBIC)
    encoded = save(Image.fromarray(photo), "JPEG", quality=90, subsampling=subsampling)
    whole = decode(encoded, 3)
    for side in (40, 100, 160, 200):
      reduced = decode(encoded, 3, min_size=(side, side))
      by = min(min(size) // side, 8)
      assert reduced.shape[0] == size[0] // (1 << by.bit_length() - 1)
      assert min(reduced.shape[:2]) >= side
      a, b = augment.resize(reduced, side, side), augment.resize(whole, side, side)
      assert np.abs(a.astype(float) - b).mean() < 0.7 and psnr(a, b) > 46
    assert decode(encoded, 3, min_size=(size[0] / 2 + 1, 10)).shape == whole.shape
    assert decode(encoded, 1, min_size=(100, 100)).shape[2] == 1


def test_random_damage_gives_pixels_or_one_kind_of_error():
  rng = np.random.default_rng(0)
  kinds = [*(v() for v in OPAQUE.values()), *(v() for v in TRANSPARENT.values())]
  raised = 0
  for number in range(300):
    damaged = bytearray(kinds[number % len(kinds)])
    for place in rng.integers(len(damaged), size=rng.integers(1, 9)):
      damaged[place] = rng.integers(256)
    encoded = bytes(damaged)
    try:
      image = decode(encoded, 3)
    except ImageDecodeError as error:
      raised += 1
      assert f"{len(encoded)} bytes" in str(error) or "32-bit" in str(error)
      continue
    header = probe(encoded)
    assert image.shape == (header.height, header.width, 3) and image.dtype == np.uint8
  assert 60 < raised < 300


def test_channels():
  with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
    decode(b"", 4)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def _segment(content):
  return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def _jpeg_with(*contents):
  encoded = save(small(), "JPEG", quality=95, subsampling=0)
  return encoded[:2] + b"".join(map(_segment, contents)) + encoded[2:]


def _chunk(kind, content):
  checksum = zlib.crc32(kind + content).to_bytes(4, "big")
  return len(content).to_bytes(4, "big") + kind + content + checksum


def _png_with(*chunks, mode="RGB", last=False):
  encoded = save(small().convert(mode), "PNG")
  place = len(encoded) - 12 if last else 33
  return encoded[:place] + b"".join(_chunk(*chunk) for chunk in chunks) + encoded[place:]


def _profile(orientation):
  """Exif as ImageMagick writes it into a PNG."""
  exif = turned(orientation).tobytes()
  lines = [exif.hex()[i : i + 72] for i in range(0, 2 * len(exif), 72)]
  return "\n".join(["", "exif", f"{len(exif):8}", *lines, ""]).encode()


NAMESPACE = b"http://ns.adobe.com/xap/1.0/\0"
EXIF = turned(6).tobytes()
OTHER = Image.Exif()
OTHER[0x010F] = "a camera"
TURNED = {
  "exif": _jpeg_with(EXIF),
  "exif, and what goes on from it": _jpeg_with(EXIF, b"Exif\0\0" + b"x" * 500),
  "exif, and another": _jpeg_with(EXIF, turned(3).tobytes()),
  "xmp": _jpeg_with(NAMESPACE + XMP % 6),
  "exif without an orientation, and xmp": _jpeg_with(OTHER.tobytes(), NAMESPACE + XMP % 6),
  "exif before xmp": _jpeg_with(NAMESPACE + XMP % 3, EXIF),
  "png, exif": _png_with((b"eXIf", EXIF[6:])),
  "png, xmp": _png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)),
  "png, packed xmp": _png_with(
    (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0x\0" + zlib.compress(XMP % 6))
  ),
  "png, ImageMagick": _png_with(
    (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_profile(6))), mode="RGBA"
  ),
  "png, ImageMagick, not packed": _png_with((b"tEXt", b"Raw profile type exif\0" + _profile(6))),
  "png, behind the picture": _png_with((b"eXIf", EXIF[6:]), mode="LA", last=True),
  "webp, xmp": save(small(), "WEBP", lossless=True, xmp=XMP % 6),
  "avif, exif": save(small(), "AVIF", quality=100, exif=turned(6)),
  "tiff": save(small(), "TIFF", exif=turned(6)),
}


@pytest.mark.parametrize("kind", TURNED)
def test_an_orientation_is_found_wherever_it_is_and_is_the_same_through_every_door(kind):
  encoded = TURNED[kind]
  image = decode(encoded, 3)
  assert image.shape == (WIDTH, HEIGHT, 3)
  header = probe(encoded)
  assert (header.height, header.width) == (WIDTH, HEIGHT)
  opened = Image.open(io.BytesIO(encoded))
  assert_near(decode(picture_files.encoded(opened), 3), image, 6)
  assert_near(by_pillow(encoded, "RGB"), image, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
  "encoded",
  [
    _jpeg_with(b"Exif\0\0II*\0\xff\xff\xff\xff"),
    _jpeg_with(NAMESPACE + XMP % 9),
    save(small(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    _png_with((b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzz\n")),
    _png_with((b"zTXt", b"Raw profile type exif\0\0" + b"no zlib")),
  ],
)
def test_a_damaged_orientation_leaves_the_picture_as_it_is(encoded):
  image = decode(encoded, 3)
  assert image.shape == (HEIGHT, WIDTH, 3)
  assert_near(decode(picture_files.encoded(Image.open(io.BytesIO(encoded))), 3), image, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize(
  "chunk",
  [
    (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
    (b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**21))),
    (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**21))),
    (b"tEXt", b"Comment\0" + bytes(2**26)),
  ],
)
def test_long_texts_and_profiles_do_not_hide_a_transparent_png(mode, chunk):
  plain, encoded = _png_with(mode=mode), _png_with(chunk, mode=mode)
  np.testing.assert_array_equal(decode(encoded, 3), decode(plain, 3))


def test_a_damaged_text_does_not_hide_a_transparent_png():
  encoded = bytearray(_png_with((b"tEXt", b"Comment\0hello"), mode="RGBA"))
  encoded[encoded.index(b"hello")] ^= 1
  np.testing.assert_array_equal(decode(bytes(encoded), 3), decode(_png_with(mode="RGBA"), 3))
