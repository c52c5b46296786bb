"""A head trained on kept features: as on images, made once, checked, an ordinary run."""

import jax
import numpy as np
import pytest

from jaxdml import data, inference, models, training
from jaxdml.training import features, loop, networks, runs
from jaxdml.training.config import ConfigError
from tests.training.helpers import compiled, fake_batch, tiny_config
from tests.training.test_loop import LIGHT, assert_bitwise, digits_config, final_state


def _config(data_dir, folder, **keys):
  keys = {"embedding.hidden": (6,), "eval.select_by": "map@r", "eval.batch_size": 64, **keys}
  return digits_config(data_dir, **{"encoder.cache_features": str(folder), **LIGHT, **keys})


def test_an_mlp_is_relu_layers_before_the_head():
  y = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  model = models.Embedding(3, norm="none", hidden=(7, 2))
  params = model.init(jax.random.key(0), y, train=False)["params"]
  x = np.float64(y)
  for name in ("hidden0", "hidden1"):
    x = np.maximum(x @ np.float64(params[name]["kernel"]) + params[name]["bias"], 0)
  x = x @ np.float64(params["fc"]["kernel"]) + params["fc"]["bias"]
  np.testing.assert_allclose(model.apply({"params": params}, y, train=False), x, atol=1e-5)


def test_a_step_is_that_of_images_through_a_frozen_encoder():
  keys = {"encoder.frozen_bn": True, "embedding.hidden": (6,)}
  images = compiled(tiny_config(**{"encoder.frozen_stages": 2, **keys}))
  kept = compiled(tiny_config(**{"encoder.cache_features": "kept", **keys}))
  batch, variables = fake_batch(0), networks.deployed(tiny_config(), images.state._asdict())
  values = jax.jit(images.program.features)(variables, batch["image"])
  state, metrics = kept.step(kept.state, {**batch, "image": values})
  theirs, expected = images.step(images.state, batch)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  for a, b in zip(*(jax.tree.leaves(s.params["embedding"]) for s in (state, theirs)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_stand_ins_are_of_the_class():
  """Images 1 and 4 cannot be decoded; 2 and 3 are the next and the last of their classes."""
  kept = features.Features(np.array([0, 2, 3]), np.float32([[10], [12], [13]]))
  (batch,) = features.train_batches(kept, np.array([7, 7, 7, 8, 8]), [np.array([1, 4, 0])])
  assert batch["image"].tolist() == [[12], [13], [10]] and batch["index"].tolist() == [2, 3, 0]
  assert batch["label"].tolist() == [7, 8, 7]
  with pytest.raises(data.ImageDecodeError, match="no image of class 9"):
    next(features.train_batches(kept, np.array([7, 9, 7, 8, 8]), [np.array([0])]))


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """(config, workdir, rows) of a run, and the folder of its features."""
  root = tmp_path_factory.mktemp("features")
  config = _config(data_dir, root / "kept")
  return config, root / "run", loop.train_and_evaluate(config, root / "run"), root / "kept"


@pytest.mark.slow
def test_it_is_an_ordinary_run(finished, tmp_path):
  _, workdir, rows, _ = finished
  run = runs.restore(workdir)
  # Images through encoder and head give what was measured on features.
  score = run.evaluator.score(run.evaluator.embed(run.state))
  for name, value in rows["trained model"].items():
    assert score[name] == pytest.approx(value, abs=2e-3), name
  model = inference.load(workdir)
  embedded = model.embed_batch(run.images(range(16)))
  np.testing.assert_allclose(embedded, run.embed()[:16], rtol=1e-4, atol=1e-4)
  assert_bitwise(run.state.params["encoder"], run.untrained.params["encoder"])
  assert_bitwise(run.state.batch_stats["encoder"], run.untrained.batch_stats["encoder"])
  assert run.progress.best_step and "hidden0" in model.variables["params"]["embedding"]
  learns = run.setup.program.learns(run.state.params)
  assert set(learns) == {"embedding"}


@pytest.mark.slow
def test_features_are_the_encoders_and_made_once(finished, tmp_path, monkeypatch, capsys):
  config, workdir, rows, folder = finished
  run = runs.restore(workdir)
  variables = networks.deployed(run.setup.config, run.state._asdict())
  kept = features.load(run.setup.config, run.setup.measured, variables)
  expected = run.evaluator.embed(run.state, run.setup.program.features)
  np.testing.assert_array_equal(kept.index, expected.columns["index"])
  np.testing.assert_allclose(kept.values, expected.embeddings, rtol=1e-5, atol=1e-5)
  capsys.readouterr()

  # A second run, with another head, finds them, and ends where the first would have.
  def none(*_):
    raise AssertionError("made again")

  with monkeypatch.context() as patched:
    patched.setattr(features.runs.Evaluator, "part_embedder", none)
    other = _config(run.setup.config.data.data_dir, folder, **{"embedding.dim": 4})
    assert loop.train_and_evaluate(other, tmp_path / "other") != rows
    assert loop.train_and_evaluate(config, tmp_path / "same") == rows
  assert_bitwise(*(final_state(path, config)[0] for path in (workdir, tmp_path / "same")))
  assert "making features" not in capsys.readouterr().err
  # What is damaged or cut off is made again, alone.
  shard = next(iter(sorted(folder.glob("*/00000.npz"))))
  content = shard.read_bytes()
  shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  for images in (run.setup.measured, run.setup.train):
    again = features.load(run.setup.config, images, variables)
    assert len(again.index) == len(images)
  said = capsys.readouterr().err
  assert f"{shard} is damaged, and made anew" in said and said.count("making features") == 1
  # Another encoder, or other pixels, have features of their own.
  changed = jax.tree.map(lambda x: x + 1, variables)
  features.load(run.setup.config, run.setup.measured, changed)
  assert "making features" in capsys.readouterr().err
  few = run.setup.measured.select(np.arange(70))
  assert len(features.load(run.setup.config, few, variables).index) == 70


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ({"encoder.lora.rank": 2}, "encoder.cache_features: an encoder with kept features has no"),
    ({"embedding.hidden": (0,)}, r"embedding.hidden: expected whole numbers of at least 1.*\(0,\)"),
    (
      {"embedding.hidden": (4,), "hdml.enabled": True, "hdml.synthetic_bn": "real"},
      "hdml.synthetic_bn: real takes features that the BatchNorm sees",
    ),
  ],
)
def test_refuses(keys, message):
  with pytest.raises(ConfigError, match=message):
    training.resolve(tiny_config(**{"encoder.cache_features": "kept", **keys}))
