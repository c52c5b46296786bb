"""The picture shows the very pixels of the batches, and survives any class name."""

import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from jaxdml.commands import show
from jaxdml.data import workers
from jaxdml.drawing import batch as picture
from jaxdml.training import defaults, setup
from jaxdml.training.config import ConfigError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
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
    picture.Row(NAMES[i % len(NAMES)], rng.integers(0, 256, shape, np.uint8), np.arange(images) > 2)
    for i in range(count)
  ]


@pytest.mark.parametrize("side, channels, factor", [(8, 1, 6), (32, 3, 2), (64, 1, 1)])
def test_small_images_appear_pixel_by_pixel_with_any_name(side, channels, factor):
  rows = _rows(8, 2, side, channels)
  pixels = _pixels(picture.draw({"one": rows[:5], "two": rows[5:]}, "title", "note"))
  for row in rows:
    for image in row.images:
      image = np.repeat(np.repeat(image, factor, 0), factor, 1)
      assert _holds(pixels, np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))


def test_large_images_are_reduced_and_what_stands_in_is_framed():
  (row,) = _rows(1, 20, 150)
  pixels = _pixels(picture.draw({"": [row]}, ""))
  assert pixels.shape[1] < 16 * 120 + 200  # Twenty images take two lines.
  assert _holds(pixels, cv2.resize(row.images[0], (112, 112), interpolation=cv2.INTER_AREA))
  red = (pixels == np.array([227, 66, 52])).all(-1)
  assert red.sum() == 17 * (112**2 - 106**2)


def test_title_and_note_are_whole_and_short_names_take_little_room():
  rows = [row._replace(name=name) for name, row in zip("abcd", _rows(4, 2, 112), strict=True)]
  title = "image_folder/garden train by label: what the network receives (pk)"
  note = "standard, 224 px, seed 0. Framed: stands in for an image that cannot be decoded (12 met)"
  figure = picture.draw({"batch 0": rows}, title, note)
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


def test_another_kind_of_picture_is_refused():
  picture.check_suffix("--out", pathlib.Path("a/b.PNG"))
  for path in ("b.gif", "b"):
    with pytest.raises(ValueError, match=rf"--out: .* \.png, \.pdf or \.svg; got {path}"):
      picture.check_suffix("--out", path)


def test_the_command_refuses_it_before_the_work(monkeypatch, capsys):
  monkeypatch.setattr(show, "look", lambda *_: pytest.fail("worked"))
  monkeypatch.setattr(show, "_OUT", SimpleNamespace(value="b.gif"))
  assert show._main([]) == 2
  assert "--out: expected a name that ends in .png" in capsys.readouterr().err


def test_what_no_font_draws_appears_as_its_code_point():
  text, families = picture.drawable("Ж\u0378\x07")
  assert text == "Ж[U+0378][U+0007]" and families == ["DejaVu Sans"]


@pytest.mark.parametrize(
  "rows, message",
  [
    ([], "expected at least one row"),
    ([picture.Row("a", np.zeros((1, 4, 4, 3)), np.zeros(1))], "row 'a': expected uint8"),
    (_rows(1, 1, 4) + _rows(1, 1, 5), r"expected images \(4, 4, 3\)"),
  ],
)
def test_rows_that_cannot_be_drawn(rows, message):
  with pytest.raises(ValueError, match=message):
    picture.draw({"": rows}, "")


@pytest.fixture
def config(data_dir, digits):
  config = defaults.get_config()
  config.data.update(
    dataset="digits", preprocess="digits", data_dir=os.fspath(data_dir), batch_size=16
  )
  return config


def test_look_shows_what_training_gets(config, monkeypatch):
  drawn = []
  monkeypatch.setattr(picture, "draw", lambda *args: drawn.append(args))
  # No workers are started for a few batches, which are the same (test_pipeline.py).
  asked, run = [], workers.run
  monkeypatch.setattr(workers, "run", lambda *args: asked.append(args[3]) or run(*args))
  config.data.update(sampler="hierarchical", coarse_label="parity", num_workers=1)
  show.look(config, 2)
  assert asked == [0] and config.data.num_workers == 1
  config.data.num_workers = 0
  blocks, title, note = drawn[0]
  train = setup.load_splits(config).train
  with setup.train_batches(config, train, setup.sampler(config, train), start=0, stop=2) as source:
    batches = list(source)
  assert title.startswith("digits train by label") and note == "digits, 32 px, seed 0"
  assert list(blocks) == [f"batch {step}: 16 images, 4 classes" for step in range(2)]
  for rows, batch in zip(blocks.values(), batches, strict=True):
    np.testing.assert_array_equal(np.concatenate([row.images for row in rows]), batch["image"])
    labels = train.column("label")[batch["index"][::4]]
    assert [row.name for row in rows] == [f"{('even', 'odd')[i % 2]} / {i}" for i in labels]


def test_a_config_that_cannot_run(config):
  config.data.images_per_class = 5
  with pytest.raises(ConfigError, match=r"data\.images_per_class"):
    show.look(config, 1)


@pytest.mark.slow
def test_the_command(data_dir, digits, tmp_path):
  out = tmp_path / "new" / "batch.png"
  command = [
    sys.executable, "-m", "jaxdml.commands.show", "--config=configs/eps_digits.py", f"--out={out}",
    "--batches=1", f"--config.data.data_dir={data_dir}",
  ]  # fmt: skip
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  environment.pop("DISPLAY", None)
  result = subprocess.run(
    command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=120
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == f"wrote {out}\n"
  assert cv2.imread(os.fspath(out)).shape[2] == 3
