import cv2
import numpy as np
import pytest

from jaxdml.data import preprocess


def _rng(seed=0):
  return np.random.default_rng(seed)


def _png(image):
  if image.ndim == 3 and image.shape[-1] == 3:
    image = image[:, :, ::-1]
  return cv2.imencode(".png", image)[1].tobytes()


PHOTO = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
LETTER = np.zeros((32, 32), np.uint8)
LETTER[8:24, 10:22] = 255


def test_decode_colour_is_rgb_and_grey_has_one_channel():
  np.testing.assert_array_equal(preprocess.decode(_png(PHOTO), 3), PHOTO)
  assert preprocess.decode(_png(PHOTO), 1).shape == (300, 400, 1)
  grey = preprocess.decode(_png(LETTER), 3)
  assert grey.shape == (32, 32, 3) and (grey == LETTER[:, :, None]).all()


@pytest.mark.parametrize("damaged", [b"", b"not an image", _png(PHOTO)[:20]])
def test_damaged_images_raise(damaged):
  with pytest.raises(preprocess.ImageDecodeError, match=f"{len(damaged)} bytes"):
    preprocess.decode(damaged, 3)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
  "name, size, channels",
  [
    ("glyphs", 32, 1),
    ("digits", 24, 3),
    ("hdml", 227, 3),
    ("standard", 112, 3),
    ("standard", 64, 1),
  ],
)
def test_shape_dtype_and_randomness(name, size, channels, train):
  fn = preprocess.create(name, size, train, channels)
  encoded = _png(PHOTO)
  first = fn(encoded, _rng(0))
  assert first.shape == fn.shape == (size, size, channels)
  assert first.dtype == np.float32
  np.testing.assert_array_equal(first, fn(encoded, _rng(0)))
  assert np.array_equal(first, fn(encoded, _rng(1))) == (not train)


@pytest.mark.parametrize("name", ["glyphs", "digits"])
def test_small_images_are_scaled_and_kept_whole(name):
  plain = preprocess.create(name, 32, False, 1)(_png(LETTER), _rng())
  np.testing.assert_array_equal(plain[..., 0], LETTER / np.float32(127.5) - 1)
  fn = preprocess.create(name, 32, True, 1)
  ink = [(fn(_png(LETTER), _rng(i)) + 1).sum() for i in range(50)]
  # The letter moves, turns and grows a little, but does not leave the picture.
  assert 0.7 < min(ink) / (plain + 1).sum() < max(ink) / (plain + 1).sum() < 1.4


def test_affine_without_limits_is_the_identity():
  image = PHOTO[:32, :32]
  still = preprocess.Affine(shift=0, rotate=0, scale=0, shear=0)
  np.testing.assert_array_equal(still(image, _rng()), image)


def test_affine_moves_about_the_centre():
  dot = np.zeros((33, 33, 1), np.uint8)
  dot[16, 16] = 255
  turned = preprocess.Affine(shift=0, rotate=90, scale=0, shear=0.5)(dot, _rng(3))
  assert turned[16, 16, 0] == 255


def test_hdml_is_bgr_minus_the_mean_of_a_warped_256_square():
  fn = preprocess.create("hdml", 227, False, 3)
  warped = preprocess.resize(PHOTO, 256, 256)
  expected = warped[14:241, 14:241, ::-1].astype(np.float32) - [104, 117, 123]
  np.testing.assert_allclose(fn(_png(PHOTO), _rng()), expected)


def test_hdml_training_crops_and_flips():
  fn = preprocess.create("hdml", 227, True, 3)
  square = preprocess.resize(PHOTO, 256, 256)[:, :, ::-1].astype(np.float32) - [104, 117, 123]
  found = set()
  for seed in range(30):
    crop = fn(_png(PHOTO), _rng(seed))
    for flip in (False, True):
      image = crop[:, ::-1] if flip else crop
      at = np.argwhere((square[:30, :30] == image[0, 0]).all(-1))
      for top, left in at:
        if np.array_equal(square[top : top + 227, left : left + 227], image):
          found.add((int(top), int(left), flip))
  assert len(found) > 25 and {f for _, _, f in found} == {False, True}


def test_standard_evaluation_is_the_centre_at_imagenet_scale():
  image = np.full((80, 160, 3), (124, 116, 104), np.uint8)
  out = preprocess.create("standard", 56, False, 3)(_png(image), _rng())
  np.testing.assert_allclose(out, 0, atol=0.02)
  assert preprocess.create("standard", 224, False, 3).load(_png(image)).shape[:2] == (256, 512)


def test_resized_crop_of_an_extreme_aspect_falls_back_to_the_centre():
  strip = np.zeros((4, 400, 3), np.uint8)
  strip[:, 198:202] = 255
  out = preprocess.random_resized_crop(strip, 8, _rng(), area=(0.9, 1.0))
  assert out.shape == (8, 8, 3) and (out == 255).all()


@pytest.mark.parametrize(
  "args, message",
  [
    (("cars", 32, True, 1), "unknown preprocessing 'cars'; valid names are digits, glyphs, hdml"),
    (("hdml", 227, True, 1), "data.preprocess=hdml needs data.channels=3, got 1"),
    (("glyphs", 0, True, 1), "data.image_size must be at least 1, got 0"),
    (("glyphs", 32, True, 2), "data.channels must be 1 or 3, got 2"),
  ],
)
def test_wrong_arguments(args, message):
  with pytest.raises(ValueError, match=message):
    preprocess.create(*args)
