"""The command as a user meets it: a kill -9, and every wrong input with its message."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from jaxdml import main
from jaxdml.training import defaults
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import assert_bitwise, final_state

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(*args):
  # One device, as on a user's machine.
  environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
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


def refused(message, *args, code=2):
  result = run(*args)
  assert result.returncode == code, result.stderr
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  return result.stderr


def test_unknown_key(tmp_path):
  error = refused(
    "config.optimizer has no key 'learnin_rate'; did you mean 'learning_rate'?",
    "--config=configs/hdml_cars.py",
    f"--workdir={tmp_path}",
    "--config.optimizer.learnin_rate=1e-4",
  )
  assert "weight_decay" in error


def test_options_by_name():
  """The dictionaries of options take keys that the config file does not have."""
  given = [
    "main", "--config=configs/grid.py:glyphs", "--config.loss.options.l2_reg=0.5", "--workdir=x",
    "--config.mining.options.k", "2", "--config.loss.options={'l2_reg': 0.1}", "-config.seed=3",
    "--config.loss.options.names=[1, 'a']", "--config.encoder.options.pooling=gem",
  ]  # fmt: skip
  rest, found = main._into_options(given)
  assert rest == [given[0], given[1], given[3], given[6], given[7]]
  assert found == {
    "loss.options.l2_reg": "0.5", "mining.options.k": "2", "loss.options.names": "[1, 'a']",
    "encoder.options.pooling": "gem",
  }  # fmt: skip
  config = defaults.get_config().lock()
  main._set_options(config, found)
  assert config.loss.options.to_dict() == {"l2_reg": 0.5, "names": [1, "a"]}
  assert config.mining.options.k == 2 and config.encoder.options.pooling == "gem"


def test_an_unknown_option(tmp_path):
  refused(
    "loss 'triplet' has no option ['margine']; valid options: margin, refs",
    "--config=configs/grid.py:triplet,glyphs",
    f"--workdir={tmp_path / 'run'}",
    "--config.loss.options.margine=0.3",
  )


def test_missing_config_file(tmp_path):
  refused("configs/nope.py: no such file", "--config=configs/nope.py", f"--workdir={tmp_path}")


def test_data_set_not_prepared(tmp_path):
  error = refused(
    "cars196' is not prepared in",
    "--config=configs/hdml_cars.py",
    f"--workdir={tmp_path / 'run'}",
    f"--config.data.data_dir={tmp_path}",
  )
  assert "jaxdml prepare cars196 --source=" in error
  assert not (tmp_path / "run").exists()


def test_workdir_is_a_file(data_dir, tmp_path):
  (tmp_path / "run").write_text("a file")
  refused(
    f"--workdir={tmp_path / 'run'}: ",
    "--config=configs/eps_digits.py",
    f"--workdir={tmp_path / 'run'}",
    f"--config.data.data_dir={data_dir}",
    code=1,
  )
  assert (tmp_path / "run").read_text() == "a file"


def test_ctrl_c_is_one_line(monkeypatch, capsys):
  def interrupted(config, workdir):
    raise KeyboardInterrupt

  given = [("CONFIG", None), ("_WORKDIR", "x"), ("_MULTIHOST", False)]
  for name, value in given:
    monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
  monkeypatch.setattr(main.loop, "train_and_evaluate", interrupted)
  assert main._main([]) == 130
  assert "interrupted; the same command goes on" in capsys.readouterr().err


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
