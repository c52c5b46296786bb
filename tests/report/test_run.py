"""The report of a run: made at the end of training, of a stopped run, and what it refuses."""

import shutil

import pytest

from jaxdml import report, training
from jaxdml.commands import report as command
from jaxdml.training import checkpoints, loop
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  """A run that ended in its report."""
  path = tmp_path_factory.mktemp("reported") / "<b>run"
  loop.train_and_evaluate(digits_config(data_dir, **{"train.report": True}), path)
  return path


@pytest.mark.slow
def test_training_ends_in_a_report(workdir):
  page = (workdir / "report.html").read_text(encoding="utf-8")
  assert "<title>&lt;b&gt;run</title>" in page
  assert "digits test, by label" in page and "All 896 images" in page
  assert "loss/real" in page and "modes kept" in page
  assert "untrained encoder" in page and "raw pixels" in page
  assert "<code>train.duration</code>" in page and "&#x27;8 steps&#x27;" in page
  assert "has not finished" not in page
  assert len(page) < 4e6


@pytest.mark.slow
def test_the_command_reports_a_stopped_run(workdir, tmp_path, capsys):
  stopped = tmp_path / "stopped"
  shutil.copytree(workdir, stopped)
  (stopped / "results.json").unlink()
  (stopped / "report.html").unlink()
  flags = [f"--workdir={stopped}", "--max_points=50", "--queries=2", "--k=3"]
  assert command.main(flags) == 0
  out = stopped / "report.html"
  assert f"wrote {out}" in capsys.readouterr().out
  page = out.read_text(encoding="utf-8")
  assert "This run has not finished: it is to take 8 steps." in page
  assert "50 of 896 images, drawn at random" in page
  (stopped / "results.json").write_text("{}")
  assert command.main(flags) == 2
  assert "results.json is not what a run writes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_that_fails_costs_one_line(workdir, tmp_path, capsys, monkeypatch):
  again = tmp_path / "again"
  shutil.copytree(workdir, again)
  run = training.restore(again)

  def fail(*args, **kwargs):
    raise OSError("no space\nleft")

  monkeypatch.setattr("jaxdml.report.run.of_run", fail)
  (again / "results.json").unlink()
  rows = loop.train_and_evaluate(run.setup.config, again)
  lines = capsys.readouterr().err.splitlines()
  assert [line for line in lines if "no report was written: OSError: no space left." in line]
  assert rows["trained model"] and (again / "results.json").exists()


def test_command_without_a_run(tmp_path, capsys):
  assert command.main([f"--workdir={tmp_path}"]) == 2
  assert "holds no run: there is no config.json" in capsys.readouterr().err
  assert command.main([f"--workdir={tmp_path}", "--k=0"]) == 2
  assert "--k: expected at least 1; got 0" in capsys.readouterr().err
  for name in ("x.pdf", "x"):
    assert command.main([f"--workdir={tmp_path}", f"--out={name}"]) == 2
    assert (
      f"error: --out: expected a name that ends in .html; got {name}" in capsys.readouterr().err
    )
  assert command.main([f"--workdir={tmp_path}", "--out=x.HTM"]) == 2
  assert "holds no run" in capsys.readouterr().err
  with pytest.raises(checkpoints.CheckpointError):
    training.restore(tmp_path)
  with pytest.raises(AttributeError, match="nothing"):
    _ = report.nothing
