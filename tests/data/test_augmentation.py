"""Each operation against NumPy by hand; policies and keys: ranges, chances, determinism."""

import dataclasses
import pickle

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from jaxdml.data import augment, augmentation, preprocess
from jaxdml.data.augmentation import OPERATIONS, Augmentation


def _rng(seed=0):
  return np.random.default_rng(seed)


def _photo(size=40, channels=3):
  return load_sample_images().images[0][100 : 100 + size, 60 : 60 + size, :channels].copy()


def _change(name, image, level):
  return OPERATIONS[name].change(image, level)


LUMA = np.array([0.299, 0.587, 0.114])
_luma = lambda x: x @ LUMA if x.shape[2] == 3 else x[..., 0]
_clip = lambda x: np.clip(np.rint(x), 0, 255)


def _equalized(image):
  """Each value becomes the share of pixels up to it, without those of the least value."""
  result = np.empty(image.shape)
  for c in range(image.shape[2]):
    count = np.bincount(image[..., c].ravel(), minlength=256)
    first = count[np.flatnonzero(count)[0]]
    share = (np.cumsum(count) - first) / (image[..., c].size - first)
    result[..., c] = _clip(255 * share)[image[..., c]]
  return result


def _sharpened(image, level):
  image = image.astype(float)
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
  h, w, _ = image.shape
  near = sum(padded[i : i + h, j : j + w] for i in range(3) for j in range(3))
  mean = (near + 4 * image) / 13  # weights 1, in the middle 5
  return _clip(mean + (image - mean) * (1 + level))


BY_HAND = {
  "identity": (3.0, lambda x, _: x),
  "brightness": (0.4, lambda x, f: _clip(x * (1 + f))),
  "contrast": (-0.5, lambda x, f: _clip(_luma(x).mean() + (x - _luma(x).mean()) * (1 + f))),
  "color": (-0.9, lambda x, f: _clip(_luma(x)[..., None] + (x - _luma(x)[..., None]) * (1 + f))),
  "sharpness": (0.9, _sharpened),
  "posterize": (3.0, lambda x, bits: x // 2**bits * 2**bits),
  "solarize": (0.25, lambda x, f: np.where(x >= 192, 255 - x.astype(int), x)),
  "auto_contrast": (
    0.0,
    lambda x, _: _clip((x - x.min((0, 1))) * (255 / (x.max((0, 1)).astype(float) - x.min((0, 1))))),
  ),
  "equalize": (0.0, lambda x, _: _equalized(x)),
  # By whole pixels of 40: the edge is repeated.
  "translate_x": (0.25, lambda x, _: x[:, [0] * 10 + list(range(30))]),
  "translate_y": (-0.25, lambda x, _: x[[*range(10, 40)] + [39] * 10]),
  "rotate": (90.0, lambda x, _: np.rot90(x, -1)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BY_HAND)
def test_operations_are_what_numpy_makes_of_them(name, channels):
  image = _photo(channels=channels) // 2 + 60
  level, expected = BY_HAND[name]
  result = _change(name, image, level)
  assert result.dtype == np.uint8 and result.shape == image.shape
  np.testing.assert_allclose(result.astype(float), expected(image, level), atol=1)


def test_a_shear_leans_about_the_centre():
  line = np.zeros((41, 41, 1), np.uint8)
  line[:, 20] = 255
  leaning = _change("shear_x", line, 0.5)[..., 0]
  for row in (10, 20, 30):
    assert leaning[row].argmax() == 20 + (row - 20) / 2
  np.testing.assert_array_equal(
    _change("shear_y", line.swapaxes(0, 1).copy(), 0.5)[..., 0], leaning.T
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_level_0_changes_nothing_and_every_level_keeps_the_shape(channels):
  image = _photo(channels=channels)
  without_level = {"auto_contrast", "equalize"}
  for name, operation in OPERATIONS.items():
    if name not in without_level:
      np.testing.assert_array_equal(operation.change(image, 0.0), image, err_msg=name)
    for largest in (operation.rand, operation.trivial):
      for level in (largest, -largest if operation.signed else largest / 2):
        result = operation.change(image, level)
        assert result.dtype == np.uint8 and result.shape == image.shape
        flat = operation.change(np.full_like(image, 90), level)
        assert len(np.unique(flat)) == 1, name  # No corner of another colour, nothing invented.
  assert {name for name, op in OPERATIONS.items() if not op.rand} == without_level | {"identity"}


@pytest.mark.parametrize("background", [0, 255])
def test_corners_have_the_colour_of_the_edge(background):
  """White around what was transparent, as the decoder laid it on white; black around glyphs."""
  border = [0, 1, 2, 3, -4, -3, -2, -1]
  image = np.full((32, 32, 4), (200, 30, 30, 255), np.uint8)
  image[border, :, :3] = image[:, border, :3] = background
  encoded = {"RGB": image[..., :3], "RGBA": image}
  if background:
    image = image.copy()
    image[border, :, 3] = image[:, border, 3] = 0  # Transparent instead.
    encoded["RGBA"] = image
  fn = preprocess.create("standard", 32, True, 3, crop="center", flip=False, rotate=45)
  found = []
  for picture in encoded.values():
    bgr = picture[..., [2, 1, 0, *range(3, picture.shape[2])]]
    bytes_ = cv2.imencode(".png", bgr)[1].tobytes()
    rgb = fn.load(bytes_)
    turned = augment.rotate(rgb, 45)
    assert (turned[[0, 0, -1, -1], [0, -1, 0, -1]] == background).all()
    found.append(fn(bytes_, _rng(4)))
  np.testing.assert_array_equal(*found)


class _Recorder:
  """A table of operations that note their level."""

  def __init__(self, monkeypatch):
    self.levels = {name: [] for name in OPERATIONS}
    table = {}
    for name, operation in OPERATIONS.items():
      note = self.levels[name].append
      table[name] = operation._replace(change=lambda image, level, note=note: note(level) or image)
    monkeypatch.setattr(augmentation, "OPERATIONS", table)


def test_rand_augment_draws_count_operations_alike_at_one_magnitude(monkeypatch):
  seen, rng, image = _Recorder(monkeypatch), _rng(), _photo(4)
  for _ in range(2000):
    augmentation.rand_augment(image, 2, 5.0, rng)
  counts = np.array([len(levels) for levels in seen.levels.values()])
  assert counts.sum() == 4000 and np.abs(counts - 4000 / 14).max() < 5 * np.sqrt(4000 / 14)
  assert set(seen.levels["rotate"]) == {-15.0, 15.0}
  assert 0.35 < np.mean(np.array(seen.levels["rotate"]) > 0) < 0.65
  assert set(seen.levels["posterize"]) == {2.0} and set(seen.levels["solarize"]) == {0.5}
  np.testing.assert_allclose(np.abs(seen.levels["color"]), 0.45)


def test_trivial_augment_draws_one_operation_of_any_strength(monkeypatch):
  seen, rng, image = _Recorder(monkeypatch), _rng(), _photo(4)
  for _ in range(4000):
    augmentation.trivial_augment(image, rng)
  counts = np.array([len(levels) for levels in seen.levels.values()])
  assert counts.sum() == 4000 and np.abs(counts - 4000 / 14).max() < 5 * np.sqrt(4000 / 14)
  strengths = np.unique(np.rint(np.array(seen.levels["solarize"]) * 30))
  np.testing.assert_array_equal(strengths, np.arange(31))
  turns = np.array(seen.levels["rotate"])
  assert turns.min() < -120 and turns.max() > 120 and np.abs(turns).max() <= 135


def test_erasing_fills_one_box_of_its_limits_with_noise():
  image, shares = np.zeros((50, 50, 3), np.uint8), []
  for seed in range(100):
    erased = augmentation.random_erase(image, _rng(seed))
    rows, columns = np.nonzero(erased.any(2))
    h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
    shares.append(h * w / 2500)
    assert len(rows) > 0.99 * h * w  # All of the box, but for a value of (0, 0, 0).
    assert 0.25 < w / h < 4.2
  assert not image.any()
  assert 0.015 < min(shares) < 0.06 and 0.33 < max(shares) < 0.42
  values = augmentation.random_erase(image, _rng(1))[..., 0]
  assert len(np.unique(values[values > 0])) > 100


def test_blur_is_a_gaussian():
  dot = np.zeros((41, 41, 1), np.uint8)
  dot[20, 20] = 255
  for sigma in (0.6, 2.0):
    x = np.arange(-20, 21)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = 255 * np.outer(kernel, kernel)
    np.testing.assert_allclose(augmentation.blur(dot, sigma)[..., 0], expected, atol=1.5)


ALL = {
  "rotate": 20.0, "rand_augment": 2, "blur": 0.5, "erase": 0.5, "crop_scale": (0.5, 1.0),
}  # fmt: skip


@pytest.mark.parametrize(
  "name, channels", [("standard", 3), ("standard", 1), ("hdml", 3), ("glyphs", 1)]
)
@pytest.mark.parametrize("options", [ALL, {"trivial_augment": True, "crop": "center"}])
def test_preprocessing_is_the_generators_alone(name, channels, options):
  encoded = cv2.imencode(".png", _photo(60))[1].tobytes()
  fn = preprocess.create(name, 32, True, channels, **options)
  fn = pickle.loads(pickle.dumps(fn))  # as it reaches the workers
  images = [fn(encoded, _rng(seed)) for seed in range(8)]
  assert all(x.shape == (32, 32, channels) and x.dtype == np.uint8 for x in images)
  assert len({x.tobytes() for x in images}) > 5
  np.testing.assert_array_equal(images[3], fn(encoded, _rng(3)))
  still = preprocess.create(name, 32, False, channels, **options)
  plain = preprocess.create(name, 32, False, channels)
  np.testing.assert_array_equal(still(encoded, _rng(1)), plain(encoded, _rng(2)))


@pytest.mark.parametrize("name", ["standard", "hdml"])
def test_centre_crops_without_flips_are_those_of_evaluation(name):
  encoded = cv2.imencode(".png", _photo(60))[1].tobytes()
  fn = preprocess.create(name, 32, True, 3, crop="center", flip=False)
  evaluation = preprocess.create(name, 32, False, 3)
  for seed in range(3):
    np.testing.assert_array_equal(fn(encoded, _rng(seed)), evaluation(encoded, _rng()))
  flipped = {preprocess.create(name, 32, True, 3, crop="center")(encoded, _rng(s)).tobytes()
             for s in range(20)}  # fmt: skip
  assert len(flipped) == 2


def test_scale_and_ratio_limit_the_crop():
  ramp = np.zeros((100, 100, 3), np.uint8)
  ramp[..., 0], ramp[..., 1] = np.arange(100), np.arange(100)[:, None]
  encoded = cv2.imencode(".png", ramp[..., ::-1])[1].tobytes()
  fn = preprocess.create(
    "standard", 32, True, 3, crop_scale=(0.25, 0.25), crop_ratio=(2.0, 2.0), flip=False
  )
  for seed in range(5):
    spans = np.ptp(fn(encoded, _rng(seed)), axis=(0, 1))
    np.testing.assert_allclose(spans[:2], [100 * np.sqrt(0.5), 100 * np.sqrt(0.125)], atol=3)
  whole = preprocess.create("standard", 32, True, 3, crop_scale=(1, 1), crop_ratio=(1, 1))
  assert np.ptp(whole(encoded, _rng()), axis=(0, 1)).max() >= 97


def test_defaults_are_the_configs_and_flip_alone():
  from jaxdml.training import defaults

  keys = defaults.get_config().data
  for field in dataclasses.fields(Augmentation):
    assert keys[field.name] == field.default, field.name
  image = _photo()
  seen = {Augmentation()(image, _rng(seed)).tobytes() for seed in range(10)}
  assert seen == {image.tobytes(), image[:, ::-1].tobytes()}


@pytest.mark.parametrize("name", ["", "glyphs"])
@pytest.mark.parametrize(
  "options, message",
  [
    ({"crop": "middle"}, "data.crop: expected random or center; got 'middle'"),
    ({"crop_scale": (0.5, 1.5)}, r"data.crop_scale: expected .*, at most 1; got \(0.5, 1.5\)"),
    ({"crop_scale": (0.5,)}, r"data.crop_scale: expected \(smallest, largest\)"),
    ({"crop_ratio": (2.0, 1.0)}, r"data.crop_ratio: .* above 0; got \(2.0, 1.0\)"),
    ({"rotate": 200.0}, r"data.rotate: expected degrees in \[0, 180\]; got 200"),
    ({"rand_augment": -1}, "data.rand_augment: expected at least 0; got -1"),
    ({"rand_magnitude": 11.0}, r"data.rand_magnitude: .* \[0, 10\]; got 11"),
    ({"rand_augment": 2, "trivial_augment": True}, "data.trivial_augment: .* got both"),
    ({"blur": 2.0}, r"data.blur: expected a probability in \[0, 1\]; got 2"),
    ({"erase": -0.1}, r"data.erase: expected a probability in \[0, 1\]; got -0.1"),
  ],
)
def test_wrong_keys(options, message, name):
  with pytest.raises(ValueError, match=message):
    preprocess.create(name or "standard", 32, True, 3, **options)
