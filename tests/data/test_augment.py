"""Resizing against Pillow; boxes inside their picture; colours against the formulas by hand."""

import colorsys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxdml.data import augment


def _rng(seed=0):
  return np.random.default_rng(seed)


def _photo(size=96):
  return load_sample_images().images[0][:size, :size].copy()


def psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize(
  "height, width",
  [(380, 380), (300, 300), (260, 260), (220, 220), (150, 150), (110, 110), (55, 55), (220, 420),
   (420, 220), (300, 120),
   (100, 500), (500, 500)],
)  # fmt: skip
def test_resize_is_near_pillows_antialiased_filter(height, width):
  for photo in load_sample_images().images:
    photo = photo[:420, 100:520]
    expected = np.asarray(Image.fromarray(photo).resize((width, height), Image.BILINEAR))
    result = augment.resize(photo, height, width)
    assert result.shape == expected.shape and result.dtype == np.uint8
    assert psnr(result, expected) > 35
    grey = augment.resize(photo[:, :, :1], height, width)
    np.testing.assert_array_equal(grey[..., 0], result[..., 0])


def test_bicubic_is_pillows_own_unless_it_shrinks_much():
  photo = load_sample_images().images[0][:420, 100:520]
  for height, width in ((300, 180), (500, 500), (80, 80), (55, 60)):
    exact = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
    result = augment.resize(photo, height, width, "bicubic")
    assert result.shape == (height, width, 3)
    assert (psnr(result, exact) > 38) if width == 60 else (result == exact).all()
    assert (result != augment.resize(photo, height, width)).any()
    grey = augment.resize(photo[:, :, :1], height, width, "bicubic")
    np.testing.assert_array_equal(grey[..., 0], result[..., 0])


def test_resize_to_the_same_size_and_of_a_constant_change_nothing():
  photo = _photo()
  np.testing.assert_array_equal(augment.resize(photo, 96, 96), photo)
  flat = np.full((97, 33, 3), 201, np.uint8)
  for size in ((32, 32), (13, 40), (96, 17), (200, 100)):
    assert (augment.resize(flat, *size) == 201).all()


@pytest.mark.parametrize("rows, columns", [(2, 2), (8, 8), (1, 2), (4, 1), (8, 2), (2, 8)])
def test_whole_factors_average_blocks(rows, columns):
  image = _photo(48)
  blocks = image.reshape(48 // rows, rows, 48 // columns, columns, 3).mean((1, 3))
  # Rounded at each halving.
  np.testing.assert_allclose(augment.resize(image, *blocks.shape[:2]), blocks, atol=1.6)


def test_boxes_are_inside_and_as_large_as_asked():
  shares = []
  for seed in range(200):
    box = augment.random_box(100, 160, _rng(seed), area=(0.3, 0.6))
    assert 0 <= box.top <= 100 - box.height and 0 <= box.left <= 160 - box.width
    shares.append(box.height * box.width / 16000)
    assert 0.7 < box.width / box.height < 1.4
    # At half its sides: the same part to half a pixel there, and as large.
    half = box.reduced(2, (50, 80))
    assert half.top + half.height <= 50 and half.left + half.width <= 80
    assert np.abs(np.array(half) * 2 - box).max() <= 2
  assert 0.28 < min(shares) < 0.35 and 0.55 < max(shares) < 0.62
  assert augment.Box(1, 1, 99, 99).reduced(8, (12, 12)) == (0, 0, 12, 12)
  assert augment.Box(97, 98, 3, 2).reduced(8, (12, 12)) == (11, 11, 1, 1)


def test_a_box_that_cannot_fit_is_the_centred_square():
  assert augment.random_box(4, 400, _rng(), area=(0.9, 1.0)) == (0, 198, 4, 4)


def test_affine_without_limits_is_the_identity():
  image = _photo(32)
  still = augment.Affine(shift=0, rotate=0, scale=0, shear=0)
  np.testing.assert_array_equal(still(image, _rng()), image)


def test_affine_moves_about_the_centre():
  dot = np.zeros((33, 33, 1), np.uint8)
  dot[16, 16] = 255
  turned = augment.Affine(shift=0, rotate=90, scale=0, shear=0.5)(dot, _rng(3))
  assert turned[16, 16, 0] == 255


class _Draws:
  """A generator whose draws are given: brightness, contrast, saturation, hue in -1..1."""

  def __init__(self, *draws):
    self._draws = np.array(draws)

  def uniform(self, low, high, count):
    assert low == -high and count == len(self._draws)
    return high * self._draws


def _luma(image):
  return image @ np.array([0.299, 0.587, 0.114])


def test_jitter_is_the_four_changes_in_their_order():
  image = _photo().astype(float) * 0.4 + 70  # Nothing is clipped.
  image = np.rint(image).astype(np.uint8)
  jitter = lambda *draws: augment.color_jitter(image, 0.2, _Draws(*draws)).astype(float)
  changes = {
    "brightness": lambda x, draw: x * (1 + 0.2 * draw),
    "contrast": lambda x, draw: _luma(x).mean() + (x - _luma(x).mean()) * (1 + 0.2 * draw),
    "saturation": lambda x, draw: (
      _luma(x)[..., None] + (x - _luma(x)[..., None]) * (1 + 0.2 * draw)
    ),
  }
  expected = image.astype(float)
  for place, change in enumerate(changes.values()):
    draws = [0.0] * 4
    draws[place] = 0.7
    np.testing.assert_allclose(jitter(*draws), change(image.astype(float), 0.7), atol=1)
    expected = change(expected, 0.7)
  np.testing.assert_allclose(jitter(0.7, 0.7, 0.7, 0), expected, atol=1)
  np.testing.assert_allclose(jitter(0, 0, 0, 0), image, atol=1)


def test_hue_turns_and_leaves_the_luma():
  red = np.full((4, 4, 3), (160, 90, 90), np.uint8)
  hue = lambda image: colorsys.rgb_to_hsv(*(image[0, 0] / 255))[0]
  for draw in (-1, -0.5, 0.5, 1):
    turned = augment.color_jitter(red, 0.8, _Draws(0, 0, 0, draw))
    np.testing.assert_allclose(_luma(turned), _luma(red), atol=1.5)
    # By a fifth of the circle at strength 0.8; YIQ's circle is not quite HSV's.
    assert abs((hue(turned) - hue(red) - draw * 0.2 + 0.5) % 1 - 0.5) < 0.05
  assert augment.color_jitter(red, 1.0, _Draws(-1, 1, 1, 1)).max() == 0


def test_jitter_is_the_generators_alone():
  image = _photo()
  first = augment.color_jitter(image, 0.4, _rng(1))
  np.testing.assert_array_equal(first, augment.color_jitter(image, 0.4, _rng(1)))
  assert first.dtype == np.uint8 and first.shape == image.shape
  assert not np.array_equal(first, augment.color_jitter(image, 0.4, _rng(2)))
