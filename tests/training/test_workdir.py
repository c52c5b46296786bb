"""Whose a workdir is: one config's, and one process's at a time."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal

import pytest

from jaxdml import data, training
from jaxdml.training import loop, workdir
from jaxdml.training.config import ConfigError
from tests.training.helpers import tiny_config
from tests.training.test_loop import digits_config


def test_workdir_of_another_config(tmp_path):
  workdir.check(tiny_config(), tmp_path / "run", 10)
  workdir.check(tiny_config(**{"data.num_workers": 3}), tmp_path / "run", 10)
  with pytest.raises(ConfigError, match="another config") as caught:
    workdir.check(tiny_config(**{"seed": 5, "loss.name": "margin"}), tmp_path / "run", 10)
  assert "seed: there 0, here 5" in str(caught.value)
  assert "loss.name: there 'npair', here 'margin'" in str(caught.value)
  assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0


def test_a_workdir_becomes_longer_by_the_duration_alone(tmp_path):
  run = lambda **keys: workdir.check(tiny_config(**keys), tmp_path, 10)
  assert run(**{"train.duration": "2 epochs"}) is None
  for wrong in ({"train.duration": "19 steps"}, {"train.duration": "30 steps", "seed": 1}):
    with pytest.raises(ConfigError, match=r"a longer train\.duration alone makes the run longer"):
      run(**wrong)
  duration = lambda: json.loads((tmp_path / "config.json").read_text())["train"]["duration"]
  assert run(**{"train.duration": "21 steps"}) == 20
  assert duration() == "2 epochs"  # A run that is training there is not disturbed.
  workdir.write_config(tiny_config(**{"train.duration": "21 steps"}), tmp_path)
  assert duration() == "21 steps"
  assert run(**{"train.duration": "21 steps"}) is None
  with pytest.raises(ConfigError, match="another config"):
    run(**{"train.duration": "2 epochs"})


def test_workdir_with_a_broken_config_file(tmp_path):
  (tmp_path / "config.json").write_text('{"seed"')
  with pytest.raises(ConfigError, match=r"config\.json is no JSON"):
    workdir.check(tiny_config(), tmp_path, 10)


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"null"])
def test_workdir_whose_config_is_something_else(tmp_path, text):
  (tmp_path / "config.json").write_bytes(text)
  with pytest.raises(ConfigError, match=r"config\.json is no JSON of a config"):
    workdir.check(tiny_config(), tmp_path, 10)


def test_workdir_from_before_a_key_was_as_its_default(tmp_path):
  workdir.check(tiny_config(), tmp_path, 10)
  path = tmp_path / "config.json"
  there = json.loads(path.read_text())
  del there["eval"]["diagnostics"], there["seal"]
  path.write_text(json.dumps(there))
  workdir.check(tiny_config(), tmp_path, 10)
  with pytest.raises(ConfigError, match=r"eval\.diagnostics: there True, here False"):
    workdir.check(tiny_config(**{"eval.diagnostics": False}), tmp_path, 10)


@pytest.mark.parametrize("number", [None, 1, 2, 3])
def test_a_workdir_of_another_version_is_one_message(tmp_path, number):
  workdir.check(tiny_config(), tmp_path, 10)
  path = tmp_path / "config.json"
  there = json.loads(path.read_text())
  del there["format"]
  path.write_text(json.dumps(there if number is None else {"format": number, **there}))
  numbers = rf"\(format {number or 1}; this one reads {workdir.FORMAT}\)"
  message = rf"another version of jaxdml {numbers}.* train anew in"
  for read in (
    lambda: workdir.check(tiny_config(), tmp_path, 10),
    lambda: training.restore(tmp_path),
  ):
    with pytest.raises(ConfigError, match=message):
      read()


def test_floors_that_a_trained_model_ends_below():
  rows = {"raw pixels": {"map@r": 0.3, "nmi": 0.1}, workdir.FROZEN: {"map@r": 0.5, "nmi": 0.4}}
  rows |= {"plain form": {"map@r": 0.9, "nmi": 0.9}, "trained model": {"map@r": 0.4, "nmi": 0.4}}
  (line,) = workdir.shortfalls(rows, "last")
  assert line.startswith("the trained model ends below the frozen pretrained encoder: map@r 0.400 ")
  assert workdir.shortfalls(rows, "nmi") == [] == workdir.shortfalls(rows, "f1")
  rows["trained model"]["map@r"] = 0.2
  assert [line.split(":")[0][29:] for line in workdir.shortfalls(rows, "map@r")] == [
    "raw pixels", "the frozen pretrained encoder",
  ]  # fmt: skip
  rows["trained model"]["map@r"] = math.nan
  assert workdir.shortfalls(rows, "map@r") == []


def test_a_config_that_is_not_what_was_written(tmp_path):
  workdir.check(tiny_config(), tmp_path, 10)
  path = tmp_path / "config.json"
  there = json.loads(path.read_text())
  there["embedding"]["dim"] += 1
  path.write_text(json.dumps(there))
  for read in (
    lambda: workdir.check(tiny_config(), tmp_path, 10),
    lambda: training.restore(tmp_path),
  ):
    with pytest.raises(ConfigError, match=r'is not what the run wrote.* take its "seal" out'):
      read()
  del there["seal"]
  path.write_text(json.dumps(there))
  assert workdir.read_config(tmp_path).embedding.dim == there["embedding"]["dim"]


def test_workdir_with_checkpoints_of_nobody_knows_which_config(tmp_path):
  (tmp_path / "checkpoints" / "last" / "7").mkdir(parents=True)
  with pytest.raises(ConfigError, match=r"holds checkpoints and no config\.json"):
    workdir.check(tiny_config(), tmp_path, 10)


def test_other_data_under_the_same_name(data_dir, tmp_path):
  train = data.load("digits", "train", data_dir=data_dir)
  of = lambda images: workdir.check_data(tmp_path, {"train": images}, "parity")
  of(train)
  of(train)
  assert workdir.changed_data(tmp_path, {"train": train, "younger": train}, "parity") is None
  fewer = dataclasses.replace(train.select(range(90)), digest="0123456789abcdef")
  with pytest.raises(ConfigError, match="train split 901 images of 2 classes then, 90 images of "):
    of(fewer)
  with pytest.raises(ConfigError, match="901 images of 2 classes now too, others; choose another"):
    of(dataclasses.replace(train, digest="0123456789abcdef"))
  (tmp_path / "data.json").write_text('{"train": 3}')
  with pytest.raises(ConfigError, match=r"data\.json is damaged"):
    of(train)
  (tmp_path / "data.json").unlink()  # of an earlier version
  assert workdir.changed_data(tmp_path, {"train": fewer}, "parity") is None


def _hold(path, pipe):
  with workdir.alone(path):
    pipe.send("held")
    pipe.recv()


def test_two_processes_never_train_in_one_workdir(data_dir, tmp_path):
  """The second is refused and changes nothing; the lock of a process that is killed is gone."""
  context = multiprocessing.get_context("spawn")
  pipe, theirs = context.Pipe()
  config = digits_config(data_dir)
  path = tmp_path / "run"
  path.mkdir()
  holder = context.Process(target=_hold, args=(path, theirs))
  holder.start()
  try:
    assert pipe.recv() == "held"
    with pytest.raises(ConfigError, match="another process is training in --workdir="):
      loop.train_and_evaluate(config, path)
    assert not (path / "metrics.jsonl").exists()
  finally:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
  with workdir.alone(path):
    pass


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
  def unknown(file, flags):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(workdir.fcntl, "flock", unknown)
  with workdir.alone(tmp_path), workdir.alone(tmp_path):
    pass


@pytest.mark.parametrize(
  "content",
  [
    "[]", "5", "{}", "null", '{"trained model": []}', '{"trained model": {"map@r": "high"}}',
    '{"trained model": {"map@r": {}}}', '{"raw pixels": {}}', '{"trained model": {"map@r": 0.5',
    "\udcff", '{"trained model": {"map@r": true}}',
  ],
)  # fmt: skip
def test_results_that_no_run_writes(content, tmp_path):
  (tmp_path / "results.json").write_bytes(content.encode("utf-8", "surrogateescape"))
  with pytest.raises(ConfigError, match=r"results\.json is not what a run writes"):
    workdir.read_results(tmp_path)


def test_results_as_a_run_writes_them(tmp_path):
  assert workdir.read_results(tmp_path) is None
  rows = {"trained model": {"map@r": math.nan, "num_queries": 3}, "raw pixels": {"map@r": 0.5}}
  workdir.write_results(tmp_path, rows)
  read = workdir.read_results(tmp_path)
  assert list(read) == ["raw pixels", "trained model"] and read["raw pixels"] == {"map@r": 0.5}
  assert math.isnan(read["trained model"]["map@r"]) and read["trained model"]["num_queries"] == 3
  path = tmp_path / "results.json"
  path.write_text(path.read_text().replace("0.5", "0.7"))
  with pytest.raises(ConfigError, match=r"its digest is not that in results\.sha256"):
    workdir.read_results(tmp_path)
  (tmp_path / "results.sha256").unlink()
  assert workdir.read_results(tmp_path)["raw pixels"] == {"map@r": 0.7}


def _readable_by(monkeypatch, allowed):
  monkeypatch.setattr(workdir.os, "access", lambda path, mode: allowed)


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
  (tmp_path / "link").symlink_to(tmp_path)
  for name, reason in {
    "file": "expected a folder, this is a file",
    "file/run": "file is a file",
    "dangling": r"dangling is a link to .*nowhere, which is not there",
    "dangling/run": r"dangling is a link to .*nowhere, which is not there",
    "x" * 256: "a name in it is longer than 255 bytes",
    "ü" * 128: "a name in it is longer than 255 bytes",
    "/".join(["x" * 200] * 20): r"longer than \d+ bytes",
    "a\0b": "no path has a null in it",
  }.items():
    with pytest.raises(ConfigError, match=rf"^--workdir=.*: .*{reason}; choose another") as caught:
      workdir.check_path(tmp_path / name)
    assert str(caught.value).isprintable()
  before = sorted(tmp_path.iterdir())
  for name in ("new", "new/run", "link/run", 'it\'s "so"', "a\nb", "[1]", "~", "", "ü" * 127):
    workdir.check_path(tmp_path / name)
  assert sorted(tmp_path.iterdir()) == before
  _readable_by(monkeypatch, False)
  with pytest.raises(ConfigError, match=r"is not yours to write to"):
    workdir.check_path(tmp_path / "new")


def test_the_path_is_looked_at_before_the_data_and_named_in_one_line(data_dir, tmp_path):
  with pytest.raises(ConfigError, match=r"a\[U\+000A\]b/x+: a name in it is longer") as caught:
    loop.train_and_evaluate(digits_config("nowhere"), tmp_path / f"a\nb/{'x' * 256}")
  assert len(str(caught.value).splitlines()) == 1


def test_a_number_that_json_does_not_know_is_refused(data_dir, tmp_path):
  for value in (float("inf"), float("nan")):
    with pytest.raises(ConfigError, match=r"config\.loss\.options\.margin: expected a finite"):
      training.resolve(tiny_config(**{"loss.name": "triplet", "loss.options": {"margin": value}}))
