"""`jaxdml show` draws the batches that training gets."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from jaxdml import commands, drawing
from jaxdml.commands import show
from jaxdml.data import workers
from jaxdml.training import defaults, setup
from jaxdml.training.config import ConfigError
from tests.training.conftest import data_dir as data_dir

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config(data_dir):
  config = defaults.get_config()
  config.data.update(
    dataset="digits", preprocess="digits", data_dir=os.fspath(data_dir), batch_size=16
  )
  return config


def test_look_shows_what_training_gets(config, monkeypatch):
  drawn = []
  monkeypatch.setattr(drawing, "draw_batches", lambda *args: drawn.append(args))
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


def test_the_command(data_dir, tmp_path, capsys):
  out = tmp_path / "new" / "batch.png"
  argv = [
    "show", f"--config={ROOT / 'configs/eps_digits.py'}", f"--out={out}", "--batches=1",
    f"--config.data.data_dir={data_dir}",
  ]  # fmt: skip
  assert commands.main(argv) == 0
  assert capsys.readouterr().out == f"wrote {out}\n"
  assert cv2.imread(os.fspath(out)).shape[2] == 3


def test_damaged_images_are_no_fault_of_the_command(monkeypatch, capsys):
  def damaged(config, batches):
    from jaxdml.data import ImageDecodeError

    raise ImageDecodeError("3 of 9 images")

  monkeypatch.setattr(show, "look", damaged)
  assert commands.main(["show", f"--config={ROOT / 'configs/eps_digits.py'}"]) == 1
  assert capsys.readouterr().err == "error: 3 of 9 images\n"
