"""Neighbours against a loop; frames where they belong; a run restored as it was."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxdml import evaluation, training
from jaxdml.commands import gallery
from jaxdml.report import queries
from jaxdml.training import checkpoints, loop
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_show_who_is_right(channels):
  images = np.random.default_rng(0).integers(0, 255, (6, 8, 8, channels)).astype(np.uint8)
  labels = ["$a_{$", "$a_{$", "b", "b", "c", "c"]
  rows = {"good $x": [[1, 2], [3, 0]], "bad": [[2, 3], [4, 5]]}
  figure = gallery.gallery(images, labels, [0, 2], rows, title="t", note="n")
  frames = figure.axes[0].patches
  kinds = [frame.get_gid() for frame in frames]
  assert kinds.count("query") == 2
  assert kinds.count("right") == 2
  assert kinds.count("wrong") == 6
  colours = {"right": gallery.RIGHT, "wrong": gallery.WRONG}
  for frame, image in zip(frames, figure.axes[0].images, strict=True):
    if frame.get_gid() != "query":
      assert to_hex(frame.get_edgecolor()) == colours[frame.get_gid()]
    assert (image.get_alpha() < 1) == (frame.get_gid() == "wrong")
  # The first query, then its neighbours under each model, in the order of the lines.
  assert kinds[2:6] == ["right", "wrong", "right", "wrong"]
  texts = [text.get_text() for text in figure.axes[0].texts]
  assert "2 of 4 right" in texts and "0 of 4 right" in texts
  figure.canvas.draw()  # a stray $ would fail here if it were read as mathtext


def test_choose_queries_takes_large_classes_once():
  labels = np.repeat([5, 6, 7], [4, 2, 4])
  chosen = gallery.choose_queries(labels, 2, k=3, seed=1)
  assert sorted(labels[chosen]) == [5, 7]
  with pytest.raises(ValueError, match="queries: expected 1 to 2"):
    gallery.choose_queries(labels, 3, k=3, seed=1)


# Sizes of the classes, what is given, and the (queries, k) that come of it.
SIZES = [
  ([9] * 20, {}, (8, 8)),
  ([12, 10, 9, 3], {}, (3, 8)),  # The walkthrough's: 8 queries of 4 classes were asked for.
  ([20, 5, 5, 5, 1], {}, (4, 4)),
  ([2, 1], {}, (1, 1)),
  ([12, 10, 9, 3], {"k": 2}, (4, 2)),
  ([12, 10, 9, 3], {"k": 11}, (1, 11)),
  ([12, 10, 9, 3], {"queries": 4}, (4, 2)),
  ([12, 10, 9, 3], {"queries": 2, "k": 9}, (2, 9)),
]


@pytest.mark.parametrize(("sizes", "given", "expected"), SIZES)
def test_what_is_not_given_is_what_there_is(sizes, given, expected):
  labels = np.repeat(np.arange(len(sizes)), sizes)
  assert queries.fit(labels, **given) == expected
  chosen = gallery.choose_queries(labels, *expected, seed=0)
  assert len(set(labels[chosen])) == expected[0]


@pytest.mark.parametrize(
  ("sizes", "given", "message"),
  [
    ([12, 10, 9, 3], {"k": 1000}, "k: expected 1 to 11, one less than the images of the largest"),
    ([12, 10, 9, 3], {"k": 0}, "k: expected a whole number of at least 1, got 0"),
    (
      [12, 3, 1],
      {"queries": 3},
      r"queries: expected 1 to 2, the classes with more than k=1 .*of 3",
    ),
    ([12, 3, 1], {"queries": 0}, "queries: expected 1 to 2"),
    ([12, 3, 1], {"queries": 2, "k": 5}, "queries: expected 1 to 1, .* k=5"),
    ([1, 1], {}, "no class has two images"),
  ],
)
def test_what_is_given_and_does_not_fit(sizes, given, message):
  with pytest.raises(ValueError, match=message):
    queries.fit(np.repeat(np.arange(len(sizes)), sizes), **given)


def test_the_command_names_the_flag(monkeypatch, tmp_path, capsys):
  labels = np.repeat([0, 1], [4, 3])
  setup = SimpleNamespace(config=digits_config(str(tmp_path)))
  run = SimpleNamespace(labels=labels, setup=setup)
  monkeypatch.setattr(training, "restore", lambda *_, **__: run)
  flags = [f"--workdir={tmp_path}", f"--out={tmp_path / 'x.png'}"]
  for flag, least in (("--k=9", "--k: expected 1 to 3"), ("--queries=3", "--queries: expected 1 ")):
    assert gallery.main([*flags, flag]) == 2
    assert f"error: {least}" in capsys.readouterr().err


@pytest.mark.slow
def test_restored_run_embeds_as_the_run_did(data_dir, tmp_path):
  config = digits_config(data_dir)
  rows = loop.train_and_evaluate(config, tmp_path / "run")
  # As if another process were saving: looking must leave it alone.
  saving = tmp_path / "run" / "checkpoints" / "best" / "9.orbax-checkpoint-tmp"
  saving.mkdir()
  run = training.restore(tmp_path / "run")
  assert saving.exists()
  resolved = training.resolve(config)
  assert json.loads(run.setup.config.to_json()) == json.loads(resolved.to_json())
  assert not run.disjoint
  assert run.embed().shape == (896, 8)
  for state, name in ((run.state, "trained model"), (run.untrained, "untrained encoder")):
    metrics = evaluation.retrieval_metrics(run.embed(state), run.labels)
    assert metrics["map@r"] == pytest.approx(rows[name]["map@r"], rel=1e-4)
  out = tmp_path / "picture.png"
  assert gallery.main([f"--workdir={tmp_path / 'run'}", f"--out={out}", "--queries=3"]) == 0
  assert out.read_bytes().startswith(b"\x89PNG")


def test_command_without_a_run(tmp_path, capsys):
  assert gallery.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'x.gif'}"]) == 2
  assert "error: --out: expected a name that ends in .png, .pdf or" in capsys.readouterr().err
  assert gallery.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'x.png'}"]) == 2
  assert "holds no run: there is no config.json" in capsys.readouterr().err
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(checkpoints.CheckpointError, match="holds no checkpoint"):
    training.restore(tmp_path)
