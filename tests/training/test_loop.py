"""The trainer in one process: results, resuming, NaN, unreadable checkpoints, odd data."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import signal
import time
import types

import jax
import numpy as np
import pytest

from jaxdml import data, training
from jaxdml.training import checkpoints, loop, monitors, parallel
from jaxdml.training.config import ConfigError
from jaxdml.training.metrics_log import MetricsWriter
from tests.training.helpers import build_program, tiny_config


def digits_config(data_dir, **overrides):
  """Even/odd on digits, 8 steps."""
  return tiny_config(
    **{
      "data.dataset": "digits",
      "data.preprocess": "digits",
      "data.data_dir": data_dir,
      "data.label": "parity",
      "data.eval_label": "label",
      "data.images_per_class": 16,
      "mining.positive": "nearest_positive",
      "train.duration": "8 steps",
      "train.evaluate_every": "4 steps",
      "train.checkpoint_every": "2 steps",
      "train.log_every": "2 steps",
      "eval.select_by": "last",
      **overrides,
    }
  )


# For tests that do not look at what an evaluation measures.
LIGHT = {
  "eval.clustering": False,
  "eval.diagnostics": False,
  "eval.raw_pixels": False,
  "eval.untrained": False,
}


def final_state(workdir, config):
  program = build_program(config, num_classes=2, total_steps=8, steps_per_epoch=29)
  abstract = jax.eval_shape(program.init, jax.random.key(0))
  manager = checkpoints.Checkpoints(pathlib.Path(workdir), keep=2)
  state, progress = manager.restore("last", abstract)
  manager.close()
  return state, progress


def assert_bitwise(one, other):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """An uninterrupted run: (config, workdir, rows)."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  config = digits_config(data_dir, **{"hdml.enabled": True, "hdml.slots": 4})
  return config, workdir, loop.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_rows_files_and_learning(finished, capsys):
  config, workdir, rows = finished
  assert list(rows) == ["raw pixels", "untrained encoder", "trained model"]
  for row in rows.values():
    assert {"recall@1", "recall@8", "map@r", "r_precision", "nmi", "f1"} <= row.keys()
    assert row["num_queries"] == 896
  assert json.loads((workdir / "results.json").read_text()) == rows
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  trained = [line for line in lines if "loss" in line]
  assert [line["step"] for line in trained] == [2, 4, 6, 8]
  assert {"loss/real", "loss/synthetic", "hdml/lambda", "images_per_second"} <= trained[0].keys()
  assert all(0 <= line["data_wait"] <= 1 for line in trained)
  evaluated = [line for line in lines if "eval/digits test/map@r" in line]
  assert all("eval/digits test/collapse/within/map@r" in line for line in evaluated)
  assert [line["step"] for line in evaluated] == [0, 4, 8]
  assert rows["raw pixels"].keys() == rows["trained model"].keys() >= {"collapse/modes_kept"}
  assert list(workdir.glob("events.out.tfevents.*"))
  # The same command again trains nothing and gives the same table.
  again = loop.train_and_evaluate(config, workdir)
  assert again == rows
  assert "nothing selected" in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_run_made_longer_is_the_longer_run(finished, tmp_path, capsys):
  """The schedule is constant: half of the steps, then the others, are all of them at once."""
  config, workdir, rows = finished
  shorter = config.copy_and_resolve_references()
  shorter.train.duration = "4 steps"
  assert loop.train_and_evaluate(shorter, tmp_path / "run") != rows
  assert loop.train_and_evaluate(config, tmp_path / "run") == rows
  said = f"{tmp_path / 'run'} becomes longer: 8 steps in place of 4; from here on"
  assert f"{said} optimizer.schedule=constant is that of 8 steps" in capsys.readouterr().err
  assert_bitwise(final_state(tmp_path / "run", config), final_state(workdir, config))


@pytest.mark.slow
def test_the_plain_form_is_trained_as_one_more_floor(data_dir, tmp_path, capsys, monkeypatch):
  """Its row is what the same config without EPS and HDML gives; SIGTERM in it ends the run."""
  config = digits_config(data_dir, **LIGHT)
  config.eval.plain = True
  config.train.duration, config.train.evaluate_every = "2 steps", "2 steps"
  with monkeypatch.context() as patched:
    patched.setattr(loop._Run, "_steps_from", lambda *_: False)
    assert loop.train_and_evaluate(config, tmp_path / "run") is None
  rows = loop.train_and_evaluate(config, tmp_path / "run")
  assert list(rows) == ["plain form", "trained model"]
  assert "without EPS and HDML" in capsys.readouterr().err
  config.eval.plain = False
  config.mining.positive = "all_positives"
  alone = loop.train_and_evaluate(config, tmp_path / "alone")["trained model"]
  assert alone == rows["plain form"] != rows["trained model"]


class LateBatches:
  """Batches that come half a second late, much longer than a step takes."""

  def __init__(self, batches):
    self._batches = batches

  def __enter__(self):
    self._batches.__enter__()
    return self

  def __exit__(self, *exc):
    self._batches.__exit__(*exc)

  def __iter__(self):
    for batch in self._batches:
      time.sleep(0.5)
      yield batch


@pytest.mark.slow
def test_a_run_that_waits_for_images_says_so_once(data_dir, tmp_path, monkeypatch, capsys):
  real = loop.setup.train_batches
  monkeypatch.setattr(
    loop.setup, "train_batches", lambda *args, **kwargs: LateBatches(real(*args, **kwargs))
  )
  durations = {"train.evaluate_every": "8 steps", "train.checkpoint_every": "8 steps"}
  loop.train_and_evaluate(digits_config(data_dir, **durations, **LIGHT), tmp_path / "run")
  lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
  waits = {line["step"]: line["data_wait"] for line in lines if "data_wait" in line}
  assert waits.keys() == {2, 4, 6, 8}
  assert all(monitors.TOO_LONG < waits[step] <= 1 for step in (4, 6, 8))
  assert capsys.readouterr().err.count("the devices waited for images") == 1


@pytest.mark.slow
def test_tuning_never_looks_at_the_test_split(data_dir, tmp_path, monkeypatch, capsys):
  seen = []
  real = loop.Evaluator
  monkeypatch.setattr(
    loop, "Evaluator", lambda config, dataset, *rest, **options: seen.append(dataset)
    or real(config, dataset, *rest, **options),
  )  # fmt: skip
  changes = {"data.label": "label", "eval.validation_fraction": 0.4, "eval.test": False}
  changes |= {"data.images_per_class": 8, "eval.raw_pixels": False, "eval.untrained": False}
  rows = loop.train_and_evaluate(digits_config(data_dir, **changes), tmp_path / "run")
  assert list(rows) == ["trained model"]
  assert [dataset.split for dataset in seen] == ["train:validation"]
  assert rows["trained model"]["num_queries"] == len(seen[0])
  printed = capsys.readouterr()
  assert "digits train:validation, by label" in printed.out
  assert "map@r" in printed.err
  assert "collapse/" not in printed.err + printed.out  # in the files alone


@pytest.mark.slow
def test_signals_save_and_resuming_is_exact(finished, tmp_path, monkeypatch, capsys):
  config, workdir, rows = finished
  calls = []
  real = parallel.compile_step

  def compile_and_stop(step, way):
    compiled = real(step, way)

    def run(state, batch):
      calls.append(1)
      if len(calls) in (3, 6):
        signal.raise_signal(signal.SIGTERM if len(calls) == 3 else signal.SIGINT)
      return compiled(state, batch)

    return run

  monkeypatch.setattr(parallel, "compile_step", compile_and_stop)
  assert loop.train_and_evaluate(config, tmp_path / "run") is None
  assert len(calls) == 3
  assert "SIGTERM: saved step 3 of 8" in capsys.readouterr().err
  with pytest.raises(KeyboardInterrupt):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert len(calls) == 6
  assert "SIGINT: saved step 6 of 8" in capsys.readouterr().err
  resumed = loop.train_and_evaluate(config, tmp_path / "run")
  assert len(calls) == 8
  assert resumed == rows
  mine, theirs = final_state(tmp_path / "run", config), final_state(workdir, config)
  assert int(mine[0].step) == 8
  assert_bitwise(mine, theirs)
  steps_seen = [
    line["step"]
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    if "loss" in line
  ]
  assert steps_seen == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize("evaluate_every", ["1 steps", "4 steps"])
def test_nan_aborts_and_keeps_the_last_good_checkpoint(data_dir, tmp_path, evaluate_every):
  config = digits_config(
    data_dir,
    **{**LIGHT, "optimizer.learning_rate": 1e30, "train.evaluate_every": evaluate_every},
  )
  with pytest.raises(loop.NonFiniteError, match="NaN or infinite at step") as caught:
    loop.train_and_evaluate(config, tmp_path / "run")
  assert "optimizer.learning_rate" in str(caught.value)
  state, _ = final_state(tmp_path / "run", config)
  assert f"step {int(state.step)} in" in str(caught.value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_put_aside_and_the_run_goes_on_from_the_one_before(
  finished, tmp_path, capsys
):
  config, workdir, rows = finished
  shutil.copytree(workdir, tmp_path / "run")
  last = tmp_path / "run" / "checkpoints" / "last" / "8"
  for path in (last / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert loop.train_and_evaluate(config, tmp_path / "run") == rows
  said = capsys.readouterr().err
  assert f"cannot read the checkpoint {last}" in said and "resuming from step 8 of 8" in said
  assert (last.parent.parent / "damaged-last-8" / "state").is_dir()


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_found_anew(finished, tmp_path, capsys):
  config, workdir, rows = finished
  shutil.copytree(workdir, tmp_path / "run")
  (best,) = (tmp_path / "run" / "checkpoints" / "best").glob("[0-9]*")
  shutil.rmtree(best / "state")
  with pytest.raises(checkpoints.CheckpointError, match="finds the best anew") as caught:
    training.restore(tmp_path / "run")
  assert str(best) in str(caught.value) and "last/8, last/6" in str(caught.value)
  # Doing what the message says ends the run with the last model, the best there is now.
  again = loop.train_and_evaluate(config, tmp_path / "run")
  assert "the best checkpoint, of step 8, is gone" in capsys.readouterr().err
  assert again == rows
  assert loop.train_and_evaluate(config, tmp_path / "run") == rows
  # What is evaluated again at the same step is not logged twice.
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == len((workdir / "metrics.jsonl").read_text().splitlines())


def test_what_cannot_run_is_found_before_the_workdir_is_taken(data_dir, tmp_path):
  none = "no training step can be made of it"
  for wrong, message in (
    ({"data.image_size": 17}, none),
    ({"encoder.options": {"widths": ()}}, none),
    (
      {"memory.size": 64, "memory.warmup": "3 epochs"},
      r"config\.memory\.warmup: expected to end before training does, after \d+ steps; got '3 ep",
    ),
  ):
    with pytest.raises(ConfigError, match=message):
      loop.train_and_evaluate(digits_config(data_dir, **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("before_a_checkpoint", [False, True])
def test_a_run_stopped_at_its_start_measures_it_once(
  data_dir, tmp_path, monkeypatch, before_a_checkpoint
):
  config = digits_config(data_dir, **{**LIGHT, "train.duration": "2 steps"})
  workdir = tmp_path / 'it\'s [1] \\ "ü"\nrun'  # Orbax's patterns, quotes and a line end.
  place = loop.setup, "train_batches"
  if before_a_checkpoint:
    place = checkpoints.Checkpoints, "save"
  with monkeypatch.context() as patched:
    patched.setattr(*place, lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      loop.train_and_evaluate(config, workdir)
  loop.train_and_evaluate(config, workdir)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [0, 2, 2]  # the second: loss and evaluation
  assert training.restore(workdir).progress.lines >= 1


def test_a_step_that_is_traced_again_is_an_error(data_dir, tmp_path, monkeypatch):
  """As by batches of another shape: each would be compiled, in the middle of a run."""
  monkeypatch.setattr(parallel, "compile_step", lambda step, way: step)
  run = loop._Run(digits_config(data_dir, **LIGHT), tmp_path / "run", None)
  with contextlib.closing(run):
    step = jax.vmap(run.step_fn, in_axes=(None, 0), axis_name=parallel.AXIS)
    state = run.setup.abstract_state()
    for size, times in ((4, 1), (8, 2)):
      image = jax.ShapeDtypeStruct((1, size, 16, 16, 1), np.uint8)
      column = jax.ShapeDtypeStruct((1, size), np.int32)
      batch = {"image": image, "label": column, "index": column}
      if times == 1:
        jax.eval_shape(step, state, batch)
      else:
        with pytest.raises(AssertionError, match="traced > 1 times"):
          jax.eval_shape(step, state, batch)


def test_a_score_that_is_no_number_is_never_the_best(data_dir, tmp_path):
  """As where no image that can be decoded has a match: nothing would ever be better."""
  config = digits_config(data_dir, **{**LIGHT, "eval.select_by": "map@r"})
  run = loop._Run(config, tmp_path / "run", None)
  scores = {"map@r": float("nan"), "num_undecodable": 3}
  with contextlib.closing(run), MetricsWriter(tmp_path / "run", None) as writer:
    run.progress = checkpoints.Progress()
    run.selection = types.SimpleNamespace(
      name="digits test", embed=lambda state: None, score=lambda embedded: scores
    )
    with pytest.raises(ConfigError, match="map@r of digits test is not a number"):
      run.evaluate(types.SimpleNamespace(step=0), writer)
    assert run.progress.best is None and run.checkpoints.latest_step("best") is None


def test_the_rate_of_the_first_steps_is_without_what_they_take_to_compile(
  data_dir, tmp_path, monkeypatch
):
  """The first step takes ten seconds; the others, which are tiny, are less than one."""
  config = digits_config(
    data_dir, **{**LIGHT, "train.duration": "4 steps", "train.log_every": "4 steps"}
  )
  compile_step, clock, slept = loop.parallel.compile_step, time.perf_counter, []

  def slow(*given):
    step_fn = compile_step(*given)

    def step(*arrays):
      out = step_fn(*arrays)
      slept.append(10.0 if not slept else 0.0)
      return out

    return step

  monkeypatch.setattr(loop.parallel, "compile_step", slow)
  monkeypatch.setattr(loop.time, "perf_counter", lambda: clock() + sum(slept))
  loop.train_and_evaluate(config, tmp_path)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  (rate,) = [line["images_per_second"] for line in lines if "images_per_second" in line]
  assert rate * 10 > 4 * config.data.batch_size


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
  manager = checkpoints.Checkpoints(tmp_path, keep=1)

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(manager._managers["last"], "save", full)
  with pytest.raises(checkpoints.CheckpointError, match="No space left on device") as caught:
    manager.save("last", 1, {"x": np.zeros(2)}, checkpoints.Progress())
  assert str(tmp_path / "checkpoints") in str(caught.value)
  monkeypatch.setattr(manager._managers["best"], "wait_until_finished", full)
  with pytest.raises(checkpoints.CheckpointError, match="make room there"):
    manager.wait()
  monkeypatch.undo()
  manager.close()


def test_class_with_one_image_is_refused_when_too_few_remain(data_dir, tmp_path, monkeypatch):
  config = digits_config(data_dir)
  real = data.load

  def load(name, split, **kwargs):
    dataset = real(name, split, **kwargs)
    parity = dataset.column("parity")
    odd = np.flatnonzero(parity == 1)[:1]
    return dataset.select(np.concatenate([np.flatnonzero(parity == 0), odd]))

  monkeypatch.setattr(data, "load", load)
  with pytest.raises(ConfigError, match="parity"):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


class Damaged(data.Dataset):
  """Digits of which the first is damaged."""

  def read(self, indices):
    return [b"junk" if i == 0 else b for i, b in zip(indices, super().read(indices), strict=True)]


@pytest.mark.slow
def test_damaged_images_are_counted_and_too_many_stop_it(data_dir, tmp_path, monkeypatch, capsys):
  real = data.load
  fields = [field.name for field in dataclasses.fields(data.Dataset)]

  def load(name, split, **kwargs):
    dataset = real(name, split, **kwargs)
    return Damaged(**{field: getattr(dataset, field) for field in fields}).select(np.arange(40))

  monkeypatch.setattr(data, "load", load)
  keys = {**LIGHT, "train.duration": "4 steps", "data.max_bad_images": 0.0}
  with pytest.raises(data.ImageDecodeError, match="1 of 40 images cannot be decoded, more than"):
    loop.train_and_evaluate(digits_config(data_dir, **keys), tmp_path / "run")
  # The share may be raised for the same run.
  keys["data.max_bad_images"] = 0.1
  rows = loop.train_and_evaluate(digits_config(data_dir, **keys), tmp_path / "run")
  assert rows["trained model"]["num_undecodable"] == 1
  assert rows["trained model"]["num_queries"] + rows["trained model"]["num_without_match"] == 39
  output = capsys.readouterr()
  assert "1 images that cannot be decoded left out. Trained model" in output.out
  assert "1 of 40 training images cannot be decoded; others of their classes stood in" in output.err
  assert "(1 images that cannot be decoded left out)" in output.err


def test_batch_not_divisible_by_images_per_class(data_dir, tmp_path):
  config = digits_config(data_dir, **{"data.images_per_class": 5})
  with pytest.raises(ConfigError, match=r"data\.images_per_class"):
    loop.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("data.dataset", "glyph", "unknown data set 'glyph'; valid names are"),
    ("data.label", "digit", "digit"),
    ("data.eval_label", "shape", "shape"),
  ],
)
def test_data_that_is_not_there(data_dir, tmp_path, key, value, message):
  with pytest.raises(ConfigError, match=r"config\.data: ") as caught:
    loop.train_and_evaluate(digits_config(data_dir, **{key: value}), tmp_path / "run")
  assert message in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_a_step_copies_nothing_from_the_host(data_dir, tmp_path, monkeypatch):
  """What is not on the devices yet is refused, not copied at every step."""
  monkeypatch.setattr(parallel, "prefetch", lambda batches: map(parallel.split, batches))
  with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
    loop.train_and_evaluate(digits_config(data_dir), tmp_path / "run")
