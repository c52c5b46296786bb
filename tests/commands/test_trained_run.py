"""A run of `jaxdml train`, and what report and gallery make of it, finished or stopped."""

import json
import shutil
from types import SimpleNamespace

import pytest

from jaxdml import commands, evaluation, report, training
from jaxdml.training import checkpoints
from jaxdml.training import workdir as workdir_lib
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config


@pytest.fixture(scope="module")
def config_file(data_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp("config") / "digits.py"
  path.write_text(
    "from tests.training.test_loop import digits_config\n"
    f"get_config = lambda: digits_config({data_dir!r}, **{{'train.report': True}})\n"
  )
  return path


@pytest.fixture(scope="module")
def workdir(config_file, tmp_path_factory):
  """A run that ended in its report."""
  path = tmp_path_factory.mktemp("reported") / "<b>run"
  assert commands.main(["train", f"--config={config_file}", f"--workdir={path}"]) == 0
  return path


@pytest.mark.slow
def test_training_ends_in_a_report(workdir):
  page = (workdir / "report.html").read_text(encoding="utf-8")
  assert "<title>&lt;b&gt;run</title>" in page
  assert "digits test, by label" in page and "All 896 images" in page
  # The one loss there is is shown once.
  assert ">loss<" in page and "loss/real" not in page and "modes kept" in page
  assert "jaxdml search --workdir=&#x27;&lt;b&gt;run&#x27;" in page
  table = (workdir / "report_classes.csv").read_text(encoding="utf-8").splitlines()
  assert table[0].startswith("class,images,queries,recall@1,map@") and len(table) == 11
  assert "untrained encoder" in page and "raw pixels" in page
  assert "<code>train.duration</code>" in page and "&#x27;8 steps&#x27;" in page
  assert "has not finished" not in page
  assert len(page) < 4e6


@pytest.mark.slow
def test_a_stopped_run_is_reported(workdir, tmp_path, capsys):
  stopped = tmp_path / "stopped"
  shutil.copytree(workdir, stopped)
  (stopped / "results.json").unlink()
  (stopped / "report.html").unlink()
  flags = ["report", f"--workdir={stopped}", "--max_points=50", "--queries=2", "--k=3"]
  assert commands.main(flags) == 0
  out = stopped / "report.html"
  assert f"wrote {out}" in capsys.readouterr().out
  page = out.read_text(encoding="utf-8")
  assert "This run has not finished: it is to take 8 steps." in page
  assert "50 of 896 images, drawn at random" in page
  (stopped / "results.json").write_text("[]")
  assert commands.main(flags) == 2
  assert "results.json is not what a run writes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_that_fails_costs_one_line(workdir, config_file, tmp_path, capsys, monkeypatch):
  again = tmp_path / "again"
  shutil.copytree(workdir, again)

  def fail(*args, **kwargs):
    raise OSError("no space\nleft")

  monkeypatch.setattr("jaxdml.report._run.of_run", fail)
  (again / "results.json").unlink()
  (again / "report.html").unlink()
  assert commands.main(["train", f"--config={config_file}", f"--workdir={again}"]) == 0
  (line,) = [x for x in capsys.readouterr().err.splitlines() if "no report was written" in x]
  assert "OSError: no space left. The results are whole; jaxdml report --workdir=" in line
  assert (again / "results.json").exists() and not (again / "report.html").exists()


@pytest.mark.slow
def test_a_restored_run_embeds_as_the_run_did(data_dir, workdir, tmp_path):
  rows = json.loads((workdir / "results.json").read_text())
  # As if another process were saving: looking must leave it alone.
  saving = workdir / "checkpoints" / "best" / "9.orbax-checkpoint-tmp"
  saving.mkdir()
  run = training.restore(workdir)
  assert saving.exists()
  saving.rmdir()
  resolved = training.resolve(digits_config(data_dir, **{"train.report": True}))
  assert json.loads(run.setup.config.to_json()) == json.loads(resolved.to_json())
  assert not run.disjoint
  assert run.embed().shape == (896, 8)
  for state, name in ((run.state, "trained model"), (run.untrained, "untrained encoder")):
    metrics = evaluation.retrieval_metrics(run.embed(state), run.labels)
    assert metrics["map@r"] == pytest.approx(rows[name]["map@r"], rel=1e-4)
  out = tmp_path / "picture.png"
  assert commands.main(["gallery", f"--workdir={workdir}", f"--out={out}", "--queries=3"]) == 0
  assert out.read_bytes().startswith(b"\x89PNG")


def test_gallery_names_the_option(monkeypatch, tmp_path, capsys):
  labels = [0] * 4 + [1] * 3
  setup = SimpleNamespace(config=digits_config(str(tmp_path)))
  run = SimpleNamespace(labels=labels, setup=setup)
  monkeypatch.setattr(training, "restore", lambda *_, **__: run)
  flags = ["gallery", f"--workdir={tmp_path}", f"--out={tmp_path / 'x.png'}"]
  for flag, least in (("--k=9", "--k: expected 1 to 3"), ("--queries=3", "--queries: expected 1 ")):
    assert commands.main([*flags, flag]) == 2
    assert f"error: {least}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["gallery", "--out=x.png"]])
def test_without_a_run(command, tmp_path, capsys):
  assert commands.main([*command, f"--workdir={tmp_path}"]) == 2
  assert "holds no run: there is no config.json" in capsys.readouterr().err
  assert commands.main(["report", f"--workdir={tmp_path}", "--out=x.HTM"]) == 2
  assert "holds no run" in capsys.readouterr().err
  (tmp_path / "config.json").write_text(json.dumps({"format": workdir_lib.FORMAT}))
  with pytest.raises(checkpoints.CheckpointError, match="holds no checkpoint"):
    training.restore(tmp_path)


def test_the_face_of_the_package():
  assert dir(report) == report.__all__ and report.build is not None
  with pytest.raises(AttributeError, match="nothing"):
    _ = report.nothing
