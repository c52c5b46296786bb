"""What a report says of the photos, and what to do next."""

import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from jaxdml import data, prepare
from jaxdml.report import _advice
from tests.search.helpers import png


def photos(root, *paths):
  for number, path in enumerate(paths):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(png(number))


def prepared(root, tmp_path):
  source = prepare.image_folder.source(root, "mine")
  prepare.write(source, tmp_path / "tfds")
  return data.load("image_folder/mine", "test", data_dir=tmp_path / "tfds")


def test_copies_across_the_splits_and_seen_classes_are_warned_of(tmp_path):
  root = tmp_path / "photos"
  photos(root, "train/ant/0.png", "train/ant/1.png", "test/bee/0.png", "test/bee/1.png")
  clean = prepared(root, tmp_path / "clean")
  assert _advice.warnings(clean) == [] and "4 photos of 2 classes" in _advice.prepared(clean)
  shutil.copy(root / "train/ant/0.png", root / "test/bee/2.png")
  photos(root, "test/ant/7.png")
  copied, seen = _advice.warnings(prepared(root, tmp_path / "copied"))
  assert copied.startswith("Photos of which training and test have a copy each: 1. On them")
  assert seen.startswith("Test classes that are training classes too: 1 of 2. So the")


def test_nothing_is_said_of_other_data_sets():
  glyphs = SimpleNamespace(name="glyphs", description=_advice.ACROSS)
  assert _advice.warnings(glyphs) == []


def run(best=40, select_by="map@r", duration="4 epochs"):
  config = SimpleNamespace(
    eval=SimpleNamespace(select_by=select_by), train=SimpleNamespace(duration=duration)
  )
  setup = SimpleNamespace(config=config, total_steps=40)
  return SimpleNamespace(setup=setup, progress=SimpleNamespace(best_step=best))


@pytest.mark.parametrize(
  ("arguments", "said", "flag"),
  [
    ({}, "The best checkpoint is one of the last", "'8 epochs'"),
    ({"best": 10, "duration": "20steps"}, "is of step 10 of 40", "'40 steps'"),
    ({"select_by": "last", "duration": "1.5 epochs"}, "To train longer", "'3 epochs'"),
  ],
)
def test_how_to_train_longer(arguments, said, flag):
  sentence, command = _advice.next_steps(run(**arguments), pathlib.Path("runs/a"))[-1]
  assert said in sentence and command == f"--config.train.duration={flag}"


def test_a_run_that_is_not_finished_is_first_to_be_finished():
  sentence, _ = _advice.next_steps(run(best=10), pathlib.Path("runs/a"), finished=False)[-1]
  assert sentence.startswith("To finish the run, give the command")
  assert "will not help" not in sentence


def test_commands_name_the_run_and_no_folder_above_it():
  commands = [command for _, command in _advice.next_steps(run(), pathlib.Path("/home/me/my run"))]
  assert commands[0].startswith("jaxdml search --workdir='my run' --images=DIR")
  assert not any("/home" in command for command in commands)


def test_the_split_of_the_curves_is_told_where_it_is_not_the_tables():
  class Images(list):
    def classes(self, label):
      assert label == "kind"
      return np.arange(3)

  config = SimpleNamespace(data=SimpleNamespace(label="kind"))
  part, test = Images([0] * 20), Images([0] * 100)
  told = _advice.about_selection(
    SimpleNamespace(setup=SimpleNamespace(selecting=part, measured=test, config=config))
  )
  assert "20 images of 3 classes" in told and "the 100 of the test" in told
  same = SimpleNamespace(setup=SimpleNamespace(selecting=test, measured=test, config=config))
  assert _advice.about_selection(same) == ""
