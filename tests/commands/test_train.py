"""`jaxdml train` as a user meets it: a kill -9, Ctrl-C, and wrong inputs with their messages."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jaxdml import commands
from jaxdml.training import loop
from tests import xla
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import assert_bitwise, final_state

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(*args):
  # One device, as on a user's machine.
  environment = {**os.environ, "XLA_FLAGS": xla.cheap_flags(), "PYTHONPATH": str(ROOT)}
  return {
    "args": [sys.executable, "-W", "ignore", "-m", "jaxdml.main", *args],
    "env": environment,
    "cwd": ROOT,
    "text": True,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
  }


def run(*args):
  return subprocess.run(**command(*args), timeout=300)


def refused(capsys, config, *args, status=2):
  assert commands.main(["train", f"--config={ROOT / 'configs' / config}", *args]) == status
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  return error


def test_unknown_key(tmp_path, capsys):
  argument = "--config.optimizer.learnin_rate=1e-4"
  error = refused(capsys, "hdml_cars.py", f"--workdir={tmp_path}", argument)
  assert "has no key 'learnin_rate'; did you mean 'learning_rate'?" in error


def test_an_unknown_option(tmp_path, capsys):
  argument = "--config.loss.options.margine=0.3"
  error = refused(capsys, "grid.py:triplet,glyphs", f"--workdir={tmp_path / 'run'}", argument)
  assert "'triplet'" in error and "margine" in error and "margin" in error


def test_data_set_not_prepared(tmp_path, capsys):
  argument = f"--config.data.data_dir={tmp_path}"
  error = refused(capsys, "hdml_cars.py", f"--workdir={tmp_path / 'run'}", argument)
  assert "cars196' is not prepared in" in error and "jaxdml prepare cars196 --source=" in error
  assert not (tmp_path / "run").exists()


def test_workdir_is_a_file(data_dir, tmp_path, capsys):
  (tmp_path / "run").write_text("a file")
  argument = f"--config.data.data_dir={data_dir}"
  error = refused(capsys, "eps_digits.py", f"--workdir={tmp_path / 'run'}", argument)
  assert f"--workdir={tmp_path / 'run'}: " in error
  assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    (loop.NonFiniteError("NaN at step 3"), 1, "error: NaN at step 3\n"),
    (loop.data.ImageDecodeError("9 of 10"), 1, "error: 9 of 10\n"),
    (OSError(28, "No space left on device"), 1, "error: --workdir=x: No space left on device\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last checkpoint\n"),
  ],
)
def test_how_training_ends(error, status, line, monkeypatch, capsys):
  def end(config, workdir, *, finished):
    raise error

  monkeypatch.setattr(loop, "train_and_evaluate", end)
  config = f"--config={ROOT / 'configs' / 'default.py'}"
  assert commands.main(["train", config, "--workdir=x"]) == status
  assert capsys.readouterr().err == line


def test_a_run_that_sigterm_stopped_is_not_taken_for_done(monkeypatch):
  """Schedulers look at the status alone."""
  monkeypatch.setattr(loop, "train_and_evaluate", lambda *_, **__: None)
  config = f"--config={ROOT / 'configs' / 'default.py'}"
  assert commands.main(["train", config, "--workdir=x"]) == 128 + signal.SIGTERM


def test_other_hosts_are_joined_first(monkeypatch):
  import jax

  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda: calls.append("join"))
  monkeypatch.setattr(loop, "train_and_evaluate", lambda *_, **__: calls.append("train") or {})
  config = f"--config={ROOT / 'configs' / 'default.py'}"
  assert commands.main(["train", config, "--workdir=x", "--multihost"]) == 0
  assert calls == ["join", "train"]


@pytest.mark.slow
def test_a_real_ctrl_c_saves_first(data_dir, tmp_path):
  flags = ["--config=configs/eps_digits.py", f"--workdir={tmp_path}"]
  flags += [f"--config.data.data_dir={data_dir}", "--config.train.duration=100000 steps"]
  flags += ["--config.train.log_every=1 steps", "--config.eval.raw_pixels=False"]
  flags += ["--config.eval.untrained=False", "--config.eval.clustering=False"]
  process = subprocess.Popen(**command(*flags))
  lines = []
  for line in process.stderr:
    lines.append(line)
    if line.startswith("step 3 of 100000"):
      break
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=60)
  assert (process.returncode, out) == (130, ""), (lines, error)
  *_, saved, last = error.splitlines()
  assert saved.startswith("SIGINT: saved step ") and saved.endswith("the same command resumes it")
  assert last == "interrupted; the same command goes on from the last checkpoint"
  assert "Traceback" not in error and (tmp_path / "checkpoints" / "last").is_dir()


@pytest.mark.slow
def test_kill_9_then_the_same_command_is_bitwise_the_same(data_dir, tmp_path):
  overrides = {
    "data.data_dir": data_dir,
    "data.batch_size": 64,
    "data.images_per_class": 32,
    "train.duration": "60 steps",
    "train.evaluate_every": "20 steps",
    "train.checkpoint_every": "5 steps",
    "train.log_every": "5 steps",
    "hdml.enabled": True,
    "hdml.slots": 4,
    "hdml.window": "7 steps",
    "eval.raw_pixels": False,
    "train.report": False,
    "eval.clustering": False,
    "eval.diagnostics": False,
  }
  flags = ["--config=configs/eps_digits.py"]
  flags += [f"--config.{key}={value}" for key, value in overrides.items()]
  whole = run(*flags, f"--workdir={tmp_path / 'whole'}")
  assert whole.returncode == 0, whole.stderr

  workdir = tmp_path / "killed"
  process = subprocess.Popen(**command(*flags, f"--workdir={workdir}"))
  last = workdir / "checkpoints" / "last"
  deadline = time.time() + 240
  while not any((last / str(step)).is_dir() for step in range(10, 60)):
    assert process.poll() is None, process.stderr.read()
    assert time.time() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (workdir / "results.json").exists()

  resumed = run(*flags, f"--workdir={workdir}")
  assert resumed.returncode == 0, resumed.stderr
  assert "resuming from step" in resumed.stderr
  assert resumed.stdout == whole.stdout

  spec = importlib.util.spec_from_file_location("eps_digits", ROOT / "configs" / "eps_digits.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.update_from_flattened_dict(overrides)
  mine, theirs = final_state(workdir, config), final_state(tmp_path / "whole", config)
  assert int(mine[0].step) == 60
  assert_bitwise(mine, theirs)
