"""HDML's dials: the batch looked into is the one that training sees; pictures, errors."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxdml import training
from jaxdml.hdml import HdmlState, Window
from jaxdml.training import loop, workdir
from studies import dials, synthetics
from tests.training.conftest import data_dir as data_dir
from tests.training.helpers import build_program, fake_batch, tiny_config
from tests.training.test_loop import digits_config


def window(mean):
  return Window(jnp.float32(mean), jnp.float32(0.0), jnp.int32(0))


def look(**overrides):
  """(program, state, batch, what the inspector finds, its arrays)."""
  config = tiny_config(**{"hdml.enabled": True, "hdml.weighted_average": False, **overrides})
  program = build_program(config, total_steps=8, steps_per_epoch=4)
  state = jax.jit(program.init)(jax.random.key(0))
  state = state._replace(hdml=HdmlState(window(0.7), window(30.0), jnp.float32(1.0)))
  batch = {name: jnp.asarray(x) for name, x in fake_batch(0).items()}
  inspect = synthetics.inspector(program.parts, state, jax.random.key(0))
  return program, state, batch, *jax.tree.map(np.asarray, jax.jit(inspect)(batch))


@pytest.fixture(scope="module")
def eps():
  return look(**{"mining.positive": "nearest_positive", "hdml.slots": 5})


@pytest.mark.slow
def test_losses_and_schedule_are_those_of_the_step(eps):
  program, state, batch, found, _ = eps
  metrics = {k: float(v) for k, v in jax.jit(program.step)(state, batch)[1].items()}
  for ours, logged in {
    "loss/real": "loss/real", "loss/synthetic": "loss/synthetic", "lambda": "hdml/lambda",
    "trust_in_real": "hdml/trust_in_real", "reconstruction/error": "hdml/reconstruction_error",
  }.items():  # fmt: skip
    assert found[ours] == pytest.approx(metrics[logged], rel=1e-4)
  assert 0.1 < found["lambda"] < 0.9 and 0.1 < found["trust_in_real"] < 0.9
  assert found["gradient/cosine/real"] == pytest.approx(1.0, abs=1e-5)
  for name in ("tuples", "pulled", "reconstructed", "synthetic", "total"):
    assert -1.0 <= found[f"gradient/cosine/{name}"] <= 1.00001


@pytest.mark.slow
def test_tuples_are_the_records_they_say(eps):
  program, state, batch, found, arrays = eps
  z = np.asarray(program.parts.forward(state.params, state, batch)[1])
  place = {int(record): i for i, record in enumerate(batch["index"])}
  label, use = np.asarray(batch["label"]), arrays["use"]
  assert use.any() and (arrays["moved"] <= use).all()
  d_neg, d_pulled = [], []
  for anchor, record, negative, pulled in zip(
    *(arrays[name][use] for name in ("anchor", "record", "negative", "pulled")), strict=True
  ):
    i, j = place[int(anchor)], place[int(record)]
    assert label[i] != label[j]
    np.testing.assert_allclose(negative, z[j], atol=1e-5)
    d_neg.append(np.linalg.norm(z[j] - z[i]))
    d_pulled.append(np.linalg.norm(pulled - z[i]))
  assert found["distance/negative"] == pytest.approx(np.mean(d_neg), rel=1e-4)
  assert found["distance/pulled"] == pytest.approx(np.mean(d_pulled), rel=1e-4)
  assert found["pull/share"] == pytest.approx(arrays["moved"].sum() / use.sum())
  ratio = np.mean(np.array(d_pulled) / np.array(d_neg))
  assert found["pull/ratio"] == pytest.approx(ratio, rel=1e-4) and ratio < 1


def test_nearest_equals_a_loop():
  rng = np.random.default_rng(0)
  queries, gallery = rng.normal(size=(2100, 3)), rng.normal(size=(40, 3))
  found = synthetics.nearest(queries, gallery)
  for i in (0, 1023, 1024, 2099):
    cosines = [queries[i] @ g / np.linalg.norm(g) for g in gallery]
    assert found[i] == np.argmax(cosines)


def test_curves(tmp_path):
  lines = [
    {"step": 0, "eval/digits test/map@r": 0.5},
    {"step": 2, "hdml/lambda": 1.0, "loss/real": 3.0},
    {"step": 4, "hdml/lambda": 0.5, "loss/real": 2.0, "hdml/pull_ratio": 0.9},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text(text + '{"step": 6, "hdml/la')
  found = dials.curves(tmp_path)
  assert list(found) == ["hdml/lambda", "hdml/pull_ratio", "loss/real"]
  assert [x.tolist() for x in found["hdml/lambda"]] == [[2.0, 4.0], [1.0, 0.5]]
  assert [x.tolist() for x in found["hdml/pull_ratio"]] == [[4.0], [0.9]]


def test_curves_of_no_such_run(tmp_path):
  with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
    dials.curves(tmp_path)
  (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss/real": 1.0}\n')
  with pytest.raises(ValueError, match="holds no hdml/lambda: the run is one without HDML"):
    dials.curves(tmp_path)


@pytest.mark.slow
def test_command(data_dir, tmp_path, capsys):
  config = digits_config(
    data_dir,
    **{"hdml.enabled": True, "hdml.slots": 4, "eval.raw_pixels": False, "eval.untrained": False},
    **{"eval.clustering": False, "eval.diagnostics": False},
  )
  loop.train_and_evaluate(config, tmp_path / "run")
  out = tmp_path / "out" / "deep"
  assert dials.main([f"--workdir={tmp_path / 'run'}", f"--out={out}", "--batches=2"]) == 0
  assert "wrote dials.json" in capsys.readouterr().out
  written = json.loads((out / "dials.json").read_text())
  metrics = written["metrics"]
  assert written["curves"]["hdml/lambda"]["step"] == [2.0, 4.0, 6.0, 8.0]
  assert metrics["step"] == 8 and metrics["head/chance"] == 0.5
  for kind in synthetics.KINDS:
    shares = [metrics[f"neighbour/{kind}/{whose}"] for whose in ("negative", "anchor", "other")]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[2] == 0.0  # there are two classes
  for name in ("dials.png", "neighbours.png"):
    assert (out / name).read_bytes().startswith(b"\x89PNG")
  run = training.restore(tmp_path / "run")
  with pytest.raises(ValueError, match="batches: expected at least 1; got 0"):
    synthetics.measure(run, batches=0)
  config = ConfigDict({"hdml": {"enabled": False}})
  plain = types.SimpleNamespace(setup=types.SimpleNamespace(config=config))
  with pytest.raises(ValueError, match="the run is one without HDML"):
    synthetics.measure(plain)


def test_command_without_a_run(tmp_path, capsys):
  assert dials.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
  assert "holds no run: there is no config.json" in capsys.readouterr().err
  (tmp_path / "config.json").write_text(f'{{"format": {workdir.FORMAT}}}')
  assert dials.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
  assert "holds no checkpoint" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
