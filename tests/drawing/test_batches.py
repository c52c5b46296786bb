"""Pictures of batches show the very pixels, and survive any class name."""

import cv2
import numpy as np
import pytest

from jaxdml import drawing
from jaxdml.drawing import _sheet

NAMES = [
  "Straße",
  "Ωμέγα",
  "漢字",
  "a$x_1^$b",
  "tab\tnew\nline",
  "",
  "\u202eright to left",
  "w" * 500,
]


def _pixels(figure):
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def _holds(pixels, image):
  """Whether an RGB image is somewhere in the picture."""
  x, y = cv2.minMaxLoc(cv2.matchTemplate(pixels, image, cv2.TM_SQDIFF))[2]
  return np.array_equal(pixels[y : y + image.shape[0], x : x + image.shape[1]], image)


def _rows(count, images, side, channels=3):
  rng = np.random.default_rng(0)
  shape = (images, side, side, channels)
  return [
    drawing.Row(NAMES[i % len(NAMES)], rng.integers(0, 256, shape, np.uint8), np.arange(images) > 2)
    for i in range(count)
  ]


@pytest.mark.parametrize("side, channels, factor", [(8, 1, 6), (32, 3, 2), (64, 1, 1)])
def test_small_images_appear_pixel_by_pixel_with_any_name(side, channels, factor):
  rows = _rows(8, 2, side, channels)
  pixels = _pixels(drawing.draw_batches({"one": rows[:5], "two": rows[5:]}, "title", "note"))
  for row in rows:
    for image in row.images:
      image = np.repeat(np.repeat(image, factor, 0), factor, 1)
      assert _holds(pixels, np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))


def test_large_images_are_reduced_and_what_stands_in_is_framed():
  (row,) = _rows(1, 20, 150)
  pixels = _pixels(drawing.draw_batches({"": [row]}, ""))
  assert pixels.shape[1] < 16 * 120 + 200  # Twenty images take two lines.
  assert _holds(pixels, cv2.resize(row.images[0], (112, 112), interpolation=cv2.INTER_AREA))
  red = (pixels == np.array([227, 66, 52])).all(-1)
  assert red.sum() == 17 * (112**2 - 106**2)


def test_title_and_note_are_whole_and_short_names_take_little_room():
  rows = [row._replace(name=name) for name, row in zip("abcd", _rows(4, 2, 112), strict=True)]
  title = "image_folder/garden train by label: what the network receives (pk)"
  note = "standard, 224 px, seed 0. Framed: stands in for an image that cannot be decoded (12 met)"
  figure = drawing.draw_batches({"batch 0": rows}, title, note)
  texts = [text.get_text() for text in figure.texts]
  assert title in [text.replace("\n", " ") for text in texts]
  assert note in [text.replace("\n", " ") for text in texts]
  pixels = _pixels(figure)
  assert pixels.shape[1] < 2 * 116 + 60
  left = np.flatnonzero((pixels != 255).any((0, 2)))
  # The right edge is free: no text is cut by it.
  assert left[-1] < pixels.shape[1] - 1
  for row in rows:
    assert _holds(pixels, np.ascontiguousarray(row.images[0]))


def test_what_no_font_draws_appears_as_its_code_point():
  text, families = _sheet.drawable("Ж\u0378\x07")
  assert text == "Ж[U+0378][U+0007]" and families == ["DejaVu Sans"]


@pytest.mark.parametrize(
  "rows, message",
  [
    ([], "expected at least one row"),
    ([drawing.Row("a", np.zeros((1, 4, 4, 3)), np.zeros(1))], "row 'a': expected uint8"),
    (_rows(1, 1, 4) + _rows(1, 1, 5), r"expected images \(4, 4, 3\)"),
  ],
)
def test_rows_that_cannot_be_drawn(rows, message):
  with pytest.raises(ValueError, match=message):
    drawing.draw_batches({"": rows}, "")
