"""Files of pictures below folders, and pictures as people hold them as the bytes of a file."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxdml.data import decode, picture_files

RNG = np.random.default_rng(0)
MODES = {"RGB": (5, 7, 3), "L": (5, 7), "RGBA": (5, 7, 4), "LA": (5, 7, 2), "CMYK": (5, 7, 4)}


def image(mode):
  pixels = RNG.integers(0, 256, MODES[mode]).astype(np.uint8)
  return Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())


def saved(picture, kind, **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_however_it_is_given_it_is_the_same_picture(tmp_path, mode, channels):
  picture = image(mode)
  file = saved(picture, "TIFF" if mode == "CMYK" else "PNG")
  path = tmp_path / "a.img"
  path.write_bytes(file)
  ways = [file, bytearray(file), str(path), path, picture, Image.open(path)]
  if mode in ("RGB", "L", "RGBA"):
    ways.append(np.asarray(picture))
  if mode == "L":
    ways.append(np.asarray(picture)[:, :, None])
  expected = decode.decode(file, channels)
  for way in ways:
    np.testing.assert_array_equal(decode.decode(picture_files.encoded(way), channels), expected)


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  path = tmp_path / "a.png"
  path.write_bytes(saved(image("RGB"), "PNG", exif=exif))
  turned = decode.decode(path.read_bytes(), 3)
  assert turned.shape == (7, 5, 3)
  np.testing.assert_array_equal(decode.decode(picture_files.encoded(Image.open(path)), 3), turned)


@pytest.mark.parametrize(
  ("given", "kind", "message"),
  [
    (3, TypeError, "files\\[2\\]: expected a path, .* got int"),
    ([[0, 1]], TypeError, "got list"),
    (np.zeros((4, 4, 3)), TypeError, "0 to 255, .* got an array of float64"),
    (np.zeros((2, 4, 4, 3), np.uint8), ValueError, r"one picture .* got shape \(2, 4, 4, 3\)"),
    (np.zeros((4, 4, 2), np.uint8), ValueError, r"got shape \(4, 4, 2\)"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"got shape \(0, 4, 3\)"),
    (pathlib.Path("nowhere.png"), FileNotFoundError, "nowhere"),
  ],
)
def test_what_is_no_picture(given, kind, message):
  with pytest.raises(kind, match=message):
    picture_files.encoded(given, "files[2]")


def test_a_damaged_file_that_pillow_has_opened(tmp_path):
  noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
  with (
    Image.open(io.BytesIO(saved(noise, "PNG")[:999])) as opened,
    pytest.raises(decode.ImageDecodeError, match="frame: "),
  ):
    picture_files.encoded(opened, "frame")


def _fill(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b"x")


def test_the_walk_passes_over_what_is_hidden_and_what_systems_add(tmp_path):
  kept = ["a.jpg", "b/1.PNG", "b/notes.txt", "b/c/2.jpg", "z/3.heic"]
  others = (".a.jpg", ".git/a.jpg", "@eaDir/a.jpg", "b/__MACOSX/1.png", "$RECYCLE.BIN/a.jpg")
  _fill(tmp_path, *kept, *others, "b/Thumbs.db")
  assert list(picture_files.walk(tmp_path)) == kept
  assert list(picture_files.walk(tmp_path, "b")) == kept[1:4]
  assert [path for path in kept if not picture_files.is_picture(path)] == ["b/notes.txt"]
  assert picture_files.level(tmp_path) == (["b", "z"], ["a.jpg"])


def test_the_walk_enters_no_folder_twice_and_lists_what_leads_nowhere(tmp_path):
  _fill(tmp_path, "a/1.jpg", "a/2.jpg")
  (tmp_path / "b").symlink_to(tmp_path / "a")
  (tmp_path / "a" / "circle").symlink_to(tmp_path)
  (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
  found = list(picture_files.walk(tmp_path, links=True))
  assert found == ["gone.jpg", "a/1.jpg", "a/2.jpg"]
  with pytest.raises(picture_files.FolderError, match=r"a/circle is a link to a folder"):
    list(picture_files.walk(tmp_path))
  with pytest.raises(OSError, match="No such file"):
    picture_files.read(tmp_path / "gone.jpg")
  with pytest.raises(picture_files.FolderError, match="cannot be read: No such file"):
    list(picture_files.walk(tmp_path / "none"))


def test_a_pipe_is_no_picture(tmp_path):
  os.mkfifo(tmp_path / "a.jpg")
  with pytest.raises(OSError, match="it is not a file"):
    picture_files.read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I;16L"])
def test_images_of_16_bits_keep_the_upper_8(kind):
  pixels = RNG.integers(0, 2**16, (5, 7)).astype(">u2" if kind == "I;16B" else "<u2")
  picture = Image.frombytes(kind, (7, 5), pixels.tobytes())
  decoded = decode.decode(picture_files.encoded(picture), 1)[:, :, 0]
  np.testing.assert_array_equal(decoded, pixels >> 8)


@pytest.mark.parametrize("mode", ["PA", "RGBa", "La", "LA", "RGBA"])
def test_transparent_parts_are_white_in_every_mode_that_has_them(mode):
  rgba = np.zeros((4, 4, 4), np.uint8)
  rgba[:2, :, 3] = 255  # Black above, clear below.
  picture = Image.fromarray(rgba)
  if mode == "PA":
    picture = Image.frombytes("PA", (4, 4), rgba[:, :, 2:].tobytes())
    picture.putpalette([0, 0, 0, 255, 0, 0])
  elif mode != "RGBA":
    picture = picture.convert("LA").convert(mode) if mode == "La" else picture.convert(mode)
  assert picture.mode == mode
  decoded = decode.decode(picture_files.encoded(picture), 3)
  assert (decoded[:2] == 0).all() and (decoded[2:] == 255).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_an_unknown_range_are_refused_as_in_files(mode):
  picture = Image.fromarray(np.full((4, 4), 1000, np.int32 if mode == "I" else np.float32))
  with pytest.raises(decode.ImageDecodeError, match=f"mode {mode}, 32-bit pixels, whose range no"):
    picture_files.encoded(picture)
  with pytest.raises(decode.ImageDecodeError, match="32-bit pixels, whose range nobody knows"):
    decode.decode(saved(picture, "TIFF"), 3)


def test_a_path_to_a_pipe_or_to_far_too_much_is_no_picture(tmp_path, monkeypatch):
  os.mkfifo(tmp_path / "a.jpg")
  with pytest.raises(OSError, match="it is not a file"):
    picture_files.encoded(tmp_path / "a.jpg")
  monkeypatch.setattr(picture_files, "MAX_BYTES", 10)
  (tmp_path / "b.jpg").write_bytes(bytes(10**6))
  assert len(picture_files.encoded(tmp_path / "b.jpg")) == 11


@pytest.mark.parametrize("name", ["a.JFIF", "a.jpe", "a.pjpeg", "a.ppm", "a.pgm"])
def test_other_suffixes_of_the_formats_that_are_decoded_count(name):
  assert picture_files.is_picture(name)
