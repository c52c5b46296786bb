import functools
import io
import pickle

import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxdml.data import augment, decode, normalize, preprocess


def _rng(seed=0):
  return np.random.default_rng(seed)


def _png(image):
  if image.ndim == 3 and image.shape[-1] == 3:
    image = image[:, :, ::-1]
  return cv2.imencode(".png", image)[1].tobytes()


@functools.cache
def _large_jpeg():
  """A photo of 854 x 1280 pixels."""
  photo = Image.fromarray(load_sample_images().images[0]).resize((1280, 854), Image.BICUBIC)
  buffer = io.BytesIO()
  photo.save(buffer, "JPEG", quality=90)
  return buffer.getvalue()


PHOTO = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
LETTER = np.zeros((32, 32), np.uint8)
LETTER[8:24, 10:22] = 255


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
  "name, size, channels, jitter",
  [
    ("glyphs", 32, 1, 0.0),
    ("digits", 24, 3, 0.0),
    ("hdml", 227, 3, 0.0),
    ("hdml", 64, 3, 0.4),
    ("standard", 112, 3, 0.0),
    ("standard", 112, 3, 0.4),
    ("standard", 64, 1, 0.0),
  ],
)
def test_shape_dtype_and_randomness(name, size, channels, jitter, train):
  fn = preprocess.create(name, size, train, channels, color_jitter=jitter)
  fn = pickle.loads(pickle.dumps(fn))  # as it reaches the workers
  for encoded in (_png(PHOTO), _large_jpeg()):
    first = fn(encoded, _rng(0))
    assert first.shape == fn.shape == (size, size, channels)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, fn(encoded, _rng(0)))
    assert np.array_equal(first, fn(encoded, _rng(1))) == (not train)


@pytest.mark.parametrize("name", ["glyphs", "digits"])
def test_small_images_are_kept_whole(name):
  plain = preprocess.create(name, 32, False, 1)(_png(LETTER), _rng())
  np.testing.assert_array_equal(plain[..., 0], LETTER)
  fn = preprocess.create(name, 32, True, 1)
  ink = [fn(_png(LETTER), _rng(i)).sum(dtype=float) for i in range(50)]
  # The letter moves, turns and grows a little, but does not leave the picture.
  assert 0.7 < min(ink) / plain.sum() < max(ink) / plain.sum() < 1.4


def test_hdml_is_bgr_minus_the_mean_of_a_warped_256_square():
  fn = preprocess.create("hdml", 227, False, 3)
  image = fn(_png(PHOTO), _rng())
  np.testing.assert_array_equal(image, augment.resize(PHOTO, 256, 256)[14:241, 14:241])
  expected = image[:, :, ::-1].astype(np.float32) - [104, 117, 123]
  np.testing.assert_allclose(fn.normalize(image), expected)


def test_hdml_training_crops_and_flips():
  fn = preprocess.create("hdml", 227, True, 3)
  square = augment.resize(PHOTO, 256, 256)
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


def test_standard_evaluation_is_the_centre_of_the_shorter_side():
  fn = preprocess.create("standard", 224, False, 3)
  wide = np.zeros((80, 160, 3), np.uint8)
  assert fn.load(_png(wide)).shape[:2] == (256, 512)
  wide[:, 42:118] = (124, 116, 104)
  image = preprocess.create("standard", 56, False, 3)(_png(wide), _rng())
  assert (image == (124, 116, 104)).all()
  whole = decode.decode(_large_jpeg(), 3)
  expected = augment.center_crop(augment.resize(whole, 256, round(1280 * 256 / 854)), 224, 224)
  # Decoded at half its sides, so not quite equal.
  assert 0 < np.abs(fn(_large_jpeg(), _rng()).astype(float) - expected).mean() < 0.7


def test_standard_crops_the_share_that_is_asked_for_in_its_interpolation():
  make = functools.partial(preprocess.create, "standard", 96, False, 3)
  fn = make(crop_pct=0.8, interpolation="bicubic")
  whole = decode.decode(_large_jpeg(), 3)
  expected = augment.resize(whole, 120, round(1280 * 120 / 854), "bicubic")
  # Decoded at half its sides, to at least three times the result's.
  error = np.abs(fn(_large_jpeg(), _rng()).astype(float) - expected[12:108, 42:138]).mean()
  assert 0 < error < 0.8
  usual = make()
  assert usual.load.args == make(crop_pct=7 / 8, interpolation="bilinear").load.args
  photo = _png(PHOTO)
  assert (usual(photo, _rng()) != make(interpolation="bicubic")(photo, _rng())).any()
  assert make(crop_pct=1.0).load(photo).shape[0] == 96
  train = [
    preprocess.create("standard", 96, True, 3, crop_pct=0.5, interpolation=kind)(photo, _rng())
    for kind in ("", "bilinear", "bicubic")
  ]
  assert (train[0] == train[1]).all() and (train[0] != train[2]).any()


@pytest.mark.parametrize(
  "name, options, match",
  [
    ("standard", {"crop_pct": 1.2}, r"data\.crop_pct: expected a share in \(0, 1\], or 0 .* 1.2"),
    (
      "standard",
      {"interpolation": "cubic"},
      r"data\.interpolation: .* bilinear, bicubic; got 'cub",
    ),
    (
      "hdml",
      {"crop_pct": 0.9},
      r"data\.crop_pct: for data\.preprocess=standard; got 0.9 with hdml",
    ),
    (
      "glyphs",
      {"interpolation": "bicubic"},
      r"data\.interpolation: for .* got bicubic with glyphs",
    ),
  ],
)
def test_crops_and_interpolations_that_mean_nothing(name, options, match):
  with pytest.raises(ValueError, match=match):
    preprocess.create(name, 32, False, 3, **options)


def test_standard_training_decodes_what_its_box_needs(monkeypatch):
  fn = preprocess.create("standard", 112, True, 3)
  whole = decode.decode(_large_jpeg(), 3)
  flags, imdecode = [], cv2.imdecode
  monkeypatch.setattr(
    cv2, "imdecode", lambda data, flag: flags.append(flag) or imdecode(data, flag)
  )
  reductions, flips = [], []
  for seed in range(24):
    image = fn(_large_jpeg(), _rng(seed))
    rng = _rng(seed)
    box = augment.random_box(854, 1280, rng)
    by = max(r for r in (1, 2, 4, 8) if min(box.height, box.width) >= 112 * r)
    assert bool(flags[-1] & {1: 0, 2: 16, 4: 32, 8: 64}[by]) == (by > 1)
    # The same box on whole blocks of pixels: moved by less than a block.
    moved = augment.Box(*(by * x for x in box.reduced(by, (854 // by, 1280 // by))))
    assert np.abs(np.array(moved) - box).max() <= by
    expected = augment.resize(moved.cut(whole), 112, 112)
    if rng.random() < 0.5:
      expected = expected[:, ::-1]
      flips.append(seed)
    assert np.abs(image.astype(float) - expected).mean() < 0.8
    reductions.append(by)
  assert {2, 4} <= set(reductions) and 4 < len(flips) < 20


def test_color_jitter_is_of_training_alone():
  plain, jitter = (
    preprocess.create("hdml", 64, True, 3, color_jitter=strength) for strength in (0.0, 0.5)
  )
  flat = np.full((80, 80, 3), (90, 120, 150), np.uint8)
  assert (plain(_png(flat), _rng()) == (90, 120, 150)).all()
  colours = {tuple(jitter(_png(flat), _rng(seed))[0, 0].tolist()) for seed in range(10)}
  assert len(colours) == 10
  still = preprocess.create("hdml", 64, False, 3, color_jitter=0.5)
  assert (still(_png(flat), _rng()) == (90, 120, 150)).all()


@pytest.mark.parametrize(
  "name, channels, expected",
  [
    ("half", 3, [-1.0, 128 / 127.5 - 1, 1.0]),
    ("unit", 3, [0.0, 128 / 255, 1.0]),
    ("caffe", 3, [255.0 - 104, 128.0 - 117, 0.0 - 123]),
    ("imagenet", 3, [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    ("imagenet", 1, [-0.449 / 0.226, (128 / 255 - 0.449) / 0.226, (1 - 0.449) / 0.226]),
  ],
)
def test_normalizations(name, channels, expected):
  fn = normalize.create(name, channels)
  pixels = np.array([0, 128, 255], np.uint8)
  pixels = pixels if channels == 3 else pixels[:, None]
  expected = np.reshape(expected, pixels.shape)
  for images, apply in ((pixels, fn), (pixels.astype(np.float32), fn), (pixels, jax.jit(fn))):
    result = apply(np.broadcast_to(images, (2, 5, *images.shape)))
    assert result.dtype == np.float32 and result.shape == (2, 5, *images.shape)
    np.testing.assert_allclose(result[1, 4], expected, rtol=1e-5, atol=1e-6)
  every = np.arange(256 * 3, dtype=np.int64).reshape(-1, 3) % 256
  every = every.astype(np.uint8)[:, :channels]
  np.testing.assert_array_equal(fn.undo(fn(every)), every)
  assert hash(fn) == hash(pickle.loads(pickle.dumps(fn)))


def test_normalization_of_a_config_goes_before_the_preprocessings_own():
  own = {name: preprocess.create(name, 8, True, 3).normalize for name in preprocess.NAMES}
  expected = {"digits": "half", "glyphs": "half", "hdml": "caffe", "standard": "imagenet"}
  assert own == {name: normalize.create(kind, 3) for name, kind in expected.items()}
  given = preprocess.create("standard", 8, False, 3, normalize="caffe").normalize
  assert given == normalize.create("caffe", 3)


@pytest.mark.parametrize(
  "args, options, message",
  [
    (("cars", 32, True, 1), {}, "data.preprocess: expected one of digits, glyphs, hdml, standard"),
    (("hdml", 227, True, 1), {}, "data.preprocess: hdml needs data.channels=3; got 1"),
    (("glyphs", 0, True, 1), {}, "data.image_size: expected at least 1; got 0"),
    (("glyphs", 32, True, 2), {}, "data.channels: expected 1 .* or 3 .*; got 2"),
    (("glyphs", 32, True, 1), {"normalize": "vgg"}, "data.normalize: expected one of caffe, half"),
    (("glyphs", 32, True, 1), {"normalize": "caffe"}, "caffe needs data.channels=3; got 1"),
    (("standard", 32, True, 1), {"color_jitter": 0.1}, "data.color_jitter: grey images"),
    (("digits", 32, True, 3), {"color_jitter": 0.1}, "data.color_jitter: for data.preprocess=hdml"),
    (("hdml", 32, True, 3), {"color_jitter": 1.5}, r"data.color_jitter: .* \[0, 1\]; got 1.5"),
  ],
)
def test_wrong_arguments(args, options, message):
  with pytest.raises(ValueError, match=message):
    preprocess.create(*args, **options)
