"""Pictures from files are those that the decoder gives, whatever happens to the files."""

import collections
import io
import mmap
import os
import pathlib
from concurrent import futures

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxdml.data import cache, decode, preprocess


def _save(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


@pytest.fixture(scope="module")
def encoded():
  photo = Image.fromarray(load_sample_images().images[0])
  turned = Image.Exif()
  turned[0x0112] = 6
  clear = photo.resize((64, 48)).convert("RGBA")
  clear.putalpha(128)
  return {
    "jpeg": _save(photo, "JPEG", quality=90),
    "turned": _save(photo, "JPEG", quality=90, exif=turned),
    "png": _save(photo.resize((64, 48)), "PNG"),
    "grey": _save(photo.resize((64, 48)).convert("L"), "PNG"),
    "clear": _save(clear, "PNG"),
  }


@pytest.fixture(autouse=True)
def _silent(monkeypatch):
  monkeypatch.setattr(cache, "_told", set())


def _files(directory):
  return [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]


def _refuse(*_, **__):
  raise AssertionError("decoded again")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("min_size", [None, (200, 200), (50, 60)])
@pytest.mark.parametrize("kind", ["jpeg", "turned", "png", "grey", "clear"])
def test_the_pixels_are_the_decoders(encoded, tmp_path, monkeypatch, kind, min_size, channels):
  expected = decode.decode(encoded[kind], channels, min_size=min_size)
  decoder = cache.Decoder(str(tmp_path))
  first = decoder(encoded[kind], channels, min_size=min_size)
  monkeypatch.setattr(cache, "decode", _refuse)
  second = decoder(encoded[kind], channels, min_size=min_size)
  for image in (first, second):
    assert image.dtype == np.uint8 and image.shape == expected.shape
    np.testing.assert_array_equal(image, expected)


def test_what_differs_has_a_file_of_its_own(encoded, tmp_path):
  decoder = cache.Decoder(str(tmp_path))
  for channels, size in ((3, None), (3, (200, 200)), (3, (210, 200)), (1, None)):
    for kind in ("jpeg", "turned"):
      decoder(encoded[kind], channels, min_size=size)
  assert len(_files(tmp_path)) == 6  # (200, 200) and (210, 200) are one reduction


def test_another_decoder_has_files_of_its_own(encoded, tmp_path, monkeypatch):
  cache.Decoder(str(tmp_path))(encoded["png"], 3)
  monkeypatch.setattr(cache, "_VERSIONS", "opencv-9")
  cache.Decoder(str(tmp_path))(encoded["png"], 3)
  assert len(_files(tmp_path)) == 2


def test_nothing_is_kept_without_a_directory(encoded, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cache.Decoder, "_keep", _refuse)
  np.testing.assert_array_equal(
    cache.Decoder()(encoded["png"], 3), decode.decode(encoded["png"], 3)
  )
  cache.Decoder().check()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name, jitter", [("glyphs", 0.0), ("hdml", 0.4), ("standard", 0.4)])
def test_preprocessing_is_the_same_from_files(encoded, tmp_path, name, jitter, train):
  plain = preprocess.create(name, 64, train, 3, color_jitter=jitter)
  kept = preprocess.create(name, 64, train, 3, color_jitter=jitter, cache=str(tmp_path))
  for seed in range(12):
    for data in encoded.values():
      expected = plain(data, np.random.default_rng(seed))
      np.testing.assert_array_equal(kept(data, np.random.default_rng(seed)), expected)
  # A picture of its own size is cut and not resized: what comes from a file is never written to.
  same = cv2.imencode(".png", np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))[1]
  for _ in range(2):
    kept(same.tobytes(), np.random.default_rng(0))


def test_pictures_kept_from_small_files_are_no_maps(encoded, tmp_path):
  decoder = cache.Decoder(str(tmp_path))
  for kind, base in (("png", bytes), ("jpeg", mmap.mmap)):
    decoder(encoded[kind], 3)
    image = decoder(encoded[kind], 3)
    while isinstance(image, np.ndarray):
      image = image.base
    assert isinstance(image.obj if isinstance(image, memoryview) else image, base)


def test_a_file_that_may_not_be_read_is_as_none(encoded, tmp_path, monkeypatch):
  decoder = cache.Decoder(str(tmp_path))
  expected = decoder(encoded["png"], 3)

  def refuse(*_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(cache.os, "open", refuse)
  np.testing.assert_array_equal(decoder(encoded["png"], 3), expected)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
  "damage",
  [
    lambda whole: b"",
    lambda whole: whole[:10],
    lambda whole: whole[:-1],
    lambda whole: b"another " + whole[8:],
    lambda whole: whole + b"!",
  ],
)
def test_a_file_that_is_not_whole_is_made_anew(encoded, tmp_path, damage, kind):
  decoder = cache.Decoder(str(tmp_path))
  expected = decoder(encoded[kind], 3)
  (path,) = _files(tmp_path)
  whole = path.read_bytes()
  path.unlink()  # and not written to, for it is mapped
  path.write_bytes(damage(whole))
  np.testing.assert_array_equal(decoder(encoded[kind], 3), expected)
  assert path.read_bytes() == whole


def test_a_directory_in_its_place_is_as_none(encoded, tmp_path):
  decoder = cache.Decoder(str(tmp_path))
  expected = decoder(encoded["png"], 3)
  (path,) = _files(tmp_path)
  path.unlink()
  path.mkdir()
  (path / "more").write_bytes(b"x" * 100)
  np.testing.assert_array_equal(decoder(encoded["png"], 3), expected)


def test_an_image_that_cannot_be_decoded_leaves_no_file(encoded, tmp_path):
  decoder = cache.Decoder(str(tmp_path))
  for _ in range(2):
    with pytest.raises(decode.ImageDecodeError, match="cut short"):
      decoder(encoded["jpeg"][:-100], 3)
  assert not _files(tmp_path)


def test_a_full_disk_is_said_once_and_ends_nothing(encoded, tmp_path, monkeypatch, capsys):
  usage = collections.namedtuple("usage", "total used free")(10**9, 96 * 10**7, 4 * 10**7)
  monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
  decoder = cache.Decoder(str(tmp_path))
  for kind in ("png", "grey"):
    np.testing.assert_array_equal(decoder(encoded[kind], 3), decode.decode(encoded[kind], 3))
  assert not _files(tmp_path)
  said = capsys.readouterr().err
  assert said.count("no more pictures are kept (its disk is full but for 5%)") == 1
  assert f"data.cache={tmp_path}" in said


@pytest.mark.parametrize("function", ["replace", "open"])
def test_a_failed_write_leaves_nothing(encoded, tmp_path, monkeypatch, capsys, function):
  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(*((os, "replace") if function == "replace" else (pathlib.Path, "open")), fail)
  decoder = cache.Decoder(str(tmp_path))
  np.testing.assert_array_equal(decoder(encoded["png"], 3), decode.decode(encoded["png"], 3))
  assert not _files(tmp_path)
  assert "No space left on device" in capsys.readouterr().err


def test_many_at_once(encoded, tmp_path):
  decoder = cache.Decoder(str(tmp_path))
  kinds = list(encoded) * 20
  with futures.ThreadPoolExecutor(8) as pool:
    images = list(pool.map(lambda kind: decoder(encoded[kind], 3), kinds))
  for kind, image in zip(kinds, images, strict=True):
    np.testing.assert_array_equal(image, decode.decode(encoded[kind], 3))
  assert len(_files(tmp_path)) == len(encoded)


def test_check(tmp_path):
  cache.Decoder(str(tmp_path / "new" / "one")).check()
  assert not _files(tmp_path)
  (tmp_path / "file").write_text("")
  message = rf"data.cache: expected a directory that can be written to.*{tmp_path}/file"
  with pytest.raises(ValueError, match=message):
    cache.Decoder(str(tmp_path / "file")).check()
