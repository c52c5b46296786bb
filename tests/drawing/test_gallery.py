"""Neighbours side by side: frames where they belong, wrong ones dimmed, texts whole."""

import numpy as np
import pytest

from jaxdml import drawing
from jaxdml.drawing import gallery


def colour(name):
  return [int(name[i : i + 2], 16) for i in (1, 3, 5)]


def pixels(figure):
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def framed(drawn, name):
  """Upper left corners of the frames of a colour, line by line."""
  mask = (drawn == colour(name)).all(-1)
  corner = mask.copy()
  corner[1:] &= ~mask[:-1]
  corner[:, 1:] &= ~mask[:, :-1]
  # The whole left side of a frame is of its colour, and the letters of a text are not.
  return [(x, y) for y, x in np.argwhere(corner).tolist() if mask[y : y + 40, x].all()]


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_show_who_is_right(channels):
  images = np.full((6, 8, 8, channels), 20, np.uint8)
  labels = ["$a_{$", "$a_{$", "b", "b", "c", "c"]
  rows = {"good $x": [[1, 2], [3, 0]], "bad": [[2, 3], [4, 5]]}
  figure = drawing.draw_gallery(images, labels, [0, 2], rows, title="t", note="n")
  drawn = pixels(figure)
  queries, right, wrong = (
    framed(drawn, name) for name in ("#333333", gallery.RIGHT, gallery.WRONG)
  )
  assert (len(queries), len(right), len(wrong)) == (2, 2, 6)
  # The first neighbour of each query under the first model, to the right of the query.
  assert [y for _, y in right] == [y for _, y in queries]
  assert right[0][0] == right[1][0] == min(x for x, _ in [*right, *wrong])
  for x, y in [*queries, *right]:
    assert (drawn[y + 20, x + 20] == 20).all()
  for x, y in wrong:
    assert (drawn[y + 20, x + 20] == round(0.45 * 20 + 0.55 * 255)).all()
  texts = [text.get_text() for text in figure.texts]
  assert {"2 of 4 right", "0 of 4 right", "good $x", "query", "t", "n"} <= set(texts)


def test_floats_are_shown_over_their_range():
  images = np.linspace(-1, 3, 64).reshape(4, 4, 4)
  shown = gallery.as_pictures(images)
  assert shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)
  assert gallery.as_pictures(np.zeros((2, 3, 3), np.float32)).max() == 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"images": np.zeros((4, 4))}, r"images: expected \[n, h, w\]"),
    ({"images": np.full((4, 2, 2), np.nan)}, "images: expected finite"),
    ({"query_indices": [4]}, r"query_indices: expected rows in 0\.\.3, got 4"),
    ({"query_indices": [0.5]}, "query_indices: expected row numbers"),
    ({"rows": {}}, "rows: expected at least one model"),
    ({"rows": {"m": [[1], [2]]}}, r"rows\['m'\]: expected neighbours \[1, k\]"),
  ],
)
def test_what_cannot_be_drawn(changes, message):
  arguments = {"images": np.zeros((4, 2, 2), np.uint8), "labels": [0, 0, 1, 1],
               "query_indices": [0], "rows": {"m": [[1]]}}  # fmt: skip
  with pytest.raises(ValueError, match=message):
    drawing.draw_gallery(**{**arguments, **changes})
  with pytest.raises(ValueError, match="lines: expected at least one"):
    drawing.draw_neighbours([])


def drawn_texts(figure):
  return [text.get_text() for text in figure.texts]


def test_long_captions_take_two_lines_and_lose_their_middle():
  image = np.full((8, 8, 3), 200, np.uint8)
  label = "Cyrillic small letter short i with descender"
  name = "IMG_20240511_a_long_name_of_some_camera_and_its_owner_0002.jpg"
  cells = [drawing.Cell(image, captions=(label, name)), drawing.Cell(image, captions=("eel",))]
  figure = drawing.draw_neighbours([[cells[:1], cells[1:]]])
  wrapped, named, short = drawn_texts(figure)
  assert wrapped.replace("\n", " ") == label and wrapped.count("\n") == 1
  assert named.startswith("IMG_20240511") and named.endswith("_0002.jpg")
  assert named.count("\n") == 1 and named.count("…") == 1
  assert short == "eel"
  # Nothing of a caption lies over its neighbour's, or under the sheet.
  renderer = figure.canvas.get_renderer()
  boxes = [text.get_window_extent(renderer) for text in figure.texts]
  assert boxes[0].y0 >= boxes[1].y1 and boxes[1].y0 >= 0
  assert max(box.x1 for box in boxes[:2]) <= 6 + 132 <= boxes[2].x0
