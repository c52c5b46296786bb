"""Pictures as iPhones write them; test_decode.py has their pixels, beside those of other kinds."""

import io
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxdml.data import cache
from jaxdml.data import decode as decode_lib
from jaxdml.data.decode import ImageDecodeError, decode, probe

assert decode_lib._reads_heif()  # the extra [test] has pillow-heif, which also writes


def save(kind, **options):
  """A photo of 48 x 64 pixels."""
  buffer = io.BytesIO()
  Image.fromarray(load_sample_images().images[0]).resize((64, 48)).save(buffer, kind, **options)
  return buffer.getvalue()


def test_without_its_package_it_says_what_to_install(monkeypatch):
  encoded, other = save("HEIF"), save("AVIF")
  monkeypatch.setitem(sys.modules, "pillow_heif", None)
  monkeypatch.setattr(decode_lib, "_reads_heif", decode_lib._reads_heif.__wrapped__)
  monkeypatch.delitem(Image.OPEN, "HEIF")
  with pytest.raises(ImageDecodeError, match=r"a HEIF picture.*pip install pillow-heif"):
    decode(encoded, 3)
  assert decode(other, 3).shape == (48, 64, 3)
  with pytest.raises(ImageDecodeError, match="not an image in one of the formats"):
    decode(b"no image at all, of any kind", 3)


@pytest.mark.parametrize("brand", [b"mif1", b"msf1"])
def test_pictures_of_the_general_brands_are_told_apart(brand):
  for kind in ("AVIF", "HEIF"):
    encoded = save(kind)
    general = encoded[:8] + brand + encoded[12:]
    np.testing.assert_array_equal(decode(general, 3), decode(encoded, 3))
    assert probe(general).format == kind


def test_ten_bits_become_eight():
  import pillow_heif

  grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16)[:, None], (48, 1, 3))
  ten = pillow_heif.from_bytes("RGB;16", (64, 48), grey.tobytes())
  buffer = io.BytesIO()
  ten.save(buffer, quality=-1)
  assert pillow_heif.open_heif(buffer.getvalue(), convert_hdr_to_8bit=False).info["bit_depth"] > 8
  image = decode(buffer.getvalue(), 3)
  assert image.shape == (48, 64, 3)
  assert np.abs(image.astype(float) - grey / 257).max() < 4


def test_a_kept_picture_is_of_this_decoder(tmp_path, monkeypatch):
  kept, encoded = cache.Decoder(str(tmp_path)), save("HEIF")
  expected = decode(encoded, 3)
  files = lambda: {p for p in tmp_path.rglob("*") if p.is_file()}
  for _ in range(2):
    np.testing.assert_array_equal(kept(encoded, 3), expected)
    assert len(files()) == 1
  monkeypatch.setattr(decode_lib, "heif_version", lambda: "another")
  np.testing.assert_array_equal(kept(encoded, 3), expected)
  assert len(files()) == 2
  assert cv2.__version__ in str(files())
