"""Pictures made smaller are the pictures, smaller."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxdml.data import decode
from jaxdml.prepare import pictures

assert decode._reads_heif()  # pillow-heif also writes


def _save(image, kind="JPEG", **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _photo():
  return Image.fromarray(load_sample_images().images[1])  # 640 x 427


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_it_is_pillows_picture_of_that_size(kind):
  encoded = _save(_photo(), kind, **({} if kind == "PNG" else {"quality": 95}))
  small = pictures.shrink(encoded, 240)
  assert decode.probe(small)[:4] == ("JPEG", 160, 240, True)
  expected = np.asarray(_photo().resize((240, 160), Image.Resampling.BILINEAR), float)
  error = np.mean((decode.decode(small, 3) - expected) ** 2)
  assert 10 * np.log10(255**2 / error) > 34  # dB; the colours in the right order, nothing moved
  assert len(small) < len(encoded) / 2


@pytest.mark.parametrize("max_side", [640, 641])
def test_what_is_small_enough_stays_as_it_is(max_side):
  encoded = _save(_photo())
  assert pictures.shrink(encoded, max_side) is encoded


def test_it_is_upright():
  exif = Image.Exif()
  exif[0x0112] = 6
  small = pictures.shrink(_save(_photo(), exif=exif, quality=95), 240)
  assert decode.probe(small)[1:5] == (240, 160, True, 1)
  expected = np.rot90(np.asarray(_photo().resize((240, 160))), -1).astype(float)
  assert np.abs(decode.decode(small, 3) - expected).mean() < 4


def test_it_is_upright_by_the_first_of_several_segments():
  exif = Image.Exif()
  exif[0x0112] = 6
  encoded = _save(_photo(), exif=exif, quality=95)
  place = encoded.index(b"\xff\xdb")  # The tables come behind Exif.
  more = b"\xff\xe1\0\x0eExif\0\0more.."
  small = pictures.shrink(encoded[:place] + more + encoded[place:], 240)
  assert decode.probe(small)[1:5] == (240, 160, True, 1)


def test_transparent_parts_become_white():
  clear = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
  small = pictures.shrink(_save(clear, "PNG"), 100)
  assert decode.decode(small, 3).shape == (67, 100, 3)
  assert decode.decode(small, 3).min() > 250


def test_no_side_becomes_nothing():
  small = pictures.shrink(_save(Image.new("RGB", (1000, 2)), "PNG"), 100)
  assert decode.decode(small, 3).shape == (1, 100, 3)


def test_damage_is_said():
  with pytest.raises(decode.ImageDecodeError, match="cut short"):
    pictures.shrink(_save(_photo())[:-200], 100)
