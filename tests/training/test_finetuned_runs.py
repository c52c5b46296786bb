"""Whole runs of what docs/encoders.md calls fine-tuning: killed, resumed, read, started from."""

import signal

import numpy as np
import pytest

from jaxdml import inference, training
from jaxdml.training import loop, networks, parallel, runs, trained
from jaxdml.training.config import replace
from tests.training.test_loop import LIGHT, assert_bitwise, digits_config, final_state

KEYS = {
  "encoder.lora.rank": 2,
  "encoder.lora.targets": r"conv\d/kernel",
  "optimizer.name": "lion",
  "train.ema_decay": 0.7,
  "train.evaluate_every": "2 steps",
  "train.patience": 9,
  "optimizer.freeze_encoder": "2 steps",
  "eval.select_by": "map@r",
  **LIGHT,
}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """An uninterrupted run: (config, workdir, rows)."""
  config = digits_config(data_dir, **KEYS)
  workdir = tmp_path_factory.mktemp("finetuned") / "run"
  return config, workdir, loop.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(finished, tmp_path, monkeypatch):
  config, workdir, rows = finished
  real = parallel.compile_step

  def compile_and_stop(step, way):
    compiled, calls = real(step, way), []

    def run(state, batch):
      calls.append(1)
      if len(calls) == 3:
        signal.raise_signal(signal.SIGTERM)
      return compiled(state, batch)

    return run

  with monkeypatch.context() as patched:
    patched.setattr(parallel, "compile_step", compile_and_stop)
    assert loop.train_and_evaluate(config, tmp_path / "run") is None
  assert loop.train_and_evaluate(config, tmp_path / "run") == rows
  mine, theirs = final_state(tmp_path / "run", config), final_state(workdir, config)
  assert int(mine[0].step) == 8
  assert_bitwise(mine[0], theirs[0])
  assert mine[1] == theirs[1]


@pytest.mark.slow
def test_readers_know_of_no_adapters(finished):
  """What is loaded for embedding, search and export is what evaluation measured."""
  config, workdir, rows = finished
  run, read = runs.restore(workdir), trained.read(workdir)
  assert_bitwise(read.variables, networks.deployed(run.setup.config, run.state._asdict()))
  assert set(read.variables["params"]) == {"encoder", "embedding"}
  # The averages are read, not what trained.
  head = lambda params: params["embedding"]["fc"]["kernel"]
  assert not np.array_equal(head(read.variables["params"]), head(run.state.params))
  assert run.evaluator.score(run.evaluator.embed(run.state)) == rows["trained model"]
  images = run.images(range(8))
  embedded = inference.load(workdir).embed_batch(images)
  np.testing.assert_allclose(embedded, run.embed()[:8], rtol=1e-4, atol=1e-5)
  # Another run starts from the encoder with the adapters in it.
  init = {"encoder.init": str(workdir), "encoder.lora.rank": 0}
  again = training.setup.prepare(training.resolve(replace(training.resolve(config), init)))
  assert_bitwise(again.initial_state().params["encoder"], read.variables["params"]["encoder"])
  kernel = lambda params: params["encoder"]["conv0"]["kernel"]
  assert run.progress.best_step
  assert not np.array_equal(kernel(read.variables["params"]), kernel(run.untrained.params))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_patience_ends_a_run_which_then_counts_as_finished(
  data_dir, tmp_path, monkeypatch, capsys, killed
):
  """Scores 1, 5, 5, 4, 3, ...: with a patience of 2 the evaluation of step 3 is the last."""
  scores = dict(enumerate([1.0, 5.0, 5.0, 4.0, 9.0]))
  real, trained_steps = runs.Evaluator.score, []

  def embed(self, state, *rest):
    trained_steps.append(int(state.step))
    return real_embed(self, state, *rest)

  def score(self, embedded, **options):
    return {**real(self, embedded, **options), "map@r": scores[trained_steps[-1]]}

  real_embed = runs.Evaluator.embed
  monkeypatch.setattr(runs.Evaluator, "embed", embed)
  monkeypatch.setattr(runs.Evaluator, "score", score)
  keys = {"train.patience": 2, "train.evaluate_every": "1 steps", "eval.select_by": "map@r"}
  config = digits_config(data_dir, **keys, **LIGHT)
  if killed:  # Before the one that ends it is counted: the count is the checkpoint's.
    with monkeypatch.context() as patched:
      patched.setattr(loop._Run, "stopped", property(lambda run: run.progress.waited > 0))
      patched.setattr(loop._Run, "results", lambda run: None)
      assert loop.train_and_evaluate(config, tmp_path / "run") is None
    assert trained_steps[-1] == 2
  rows = loop.train_and_evaluate(config, tmp_path / "run")
  assert trained_steps[-2:] == [3, 1]  # the last evaluation, and the best model for the results
  assert rows["trained model"]["map@r"] == 5.0
  assert (tmp_path / "run" / "results.json").is_file()
  said = "step 3 of 8 is the last (train.patience): map@r 5.000 of step 1 stayed the best"
  assert said in capsys.readouterr().err
  # Given again, it trains no more and says what would make it; a longer duration does not.
  longer = digits_config(data_dir, **{**keys, **LIGHT, "train.duration": "9 steps"})
  for given, total in ((config, 8), (longer, 9)):
    assert loop.train_and_evaluate(given, tmp_path / "run") == rows
    assert trained_steps[-2:] == [1, 1]
    said = f"train.patience=2 ended this run at step 3 of {total}; with a larger one, or 0 for none"
    assert said in capsys.readouterr().err
  # Step 4 is better, and then four in a row are not.
  scores.update(dict.fromkeys(range(5, 10), 0.0))
  patient = replace(longer, {"train.patience": 4})
  assert loop.train_and_evaluate(patient, tmp_path / "run")["trained model"]["map@r"] == 9.0
  assert trained_steps[-2:] == [8, 4]
