"""A trained model without its data set: the run's own embeddings, or one clear error."""

import json
import shutil

import numpy as np
import pytest

from jaxdml import inference, training
from jaxdml.training import checkpoints, defaults, setup
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.config import ConfigError
from jaxdml.training.trained import fingerprint
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config


def write_run(workdir, run_config):
  """A workdir as training leaves it, with the state before the first step as the best of step 3."""
  run_config = training.resolve(run_config)
  prepared = setup.prepare(run_config)
  workdir_lib.check(run_config, workdir, prepared.steps_per_epoch)
  manager = checkpoints.Checkpoints(workdir, keep=1)
  state = prepared.initial_state()
  manager.save("best", 3, state, checkpoints.Progress(0.5, 3))
  manager.close()
  return state


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  """An HDML run on digits: parameters and statistics that a model leaves out are there, too."""
  path = tmp_path_factory.mktemp("model") / "run"
  write_run(path, digits_config(data_dir, **{"hdml.enabled": True, "hdml.slots": 4}))
  return path


@pytest.fixture
def moved(workdir, tmp_path):
  """A copy whose data set is nowhere."""
  path = tmp_path / "moved"
  shutil.copytree(workdir, path)
  edit(path, "data", data_dir=str(tmp_path / "nowhere"), dataset="never_prepared")
  return path


def edit(path, section, **values):
  tree = json.loads((path / "config.json").read_text())
  tree[section] |= values
  tree.pop("seal", None)
  (path / "config.json").write_text(json.dumps(tree))


def test_embeds_as_the_run_does_without_its_data_set(workdir, moved, monkeypatch, tmp_path):
  run = training.restore(workdir)
  encoded, expected = run.setup.measured.read(np.arange(13)), run.embed()[:13]
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
  trained = inference.load(moved)
  images = np.stack([trained.preprocess(e) for e in encoded])
  np.testing.assert_array_equal(images, run.images(np.arange(13)))
  # 13 images do not divide among the 8 devices of tests/conftest.py.
  embeddings = trained.embed_batch(images)
  np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-6)
  assert embeddings.dtype == np.float32 and embeddings.flags.writeable
  assert trained.embed_batch(images[:0]).shape == (0, 8)
  assert (trained.step, trained.dimension, trained.image_shape) == (3, 8, (16, 16, 1))
  assert set(trained.variables["params"]) == {"encoder", "embedding"}
  assert trained.fingerprint == inference.load(workdir).fingerprint


def test_images_of_another_size_in_evaluation(workdir, moved):
  """`eval.image_size` is the trained model's and the run's evaluation's, not training's."""
  edit(moved, "eval", image_size=24)
  run, model = training.restore(workdir), inference.load(moved)
  encoded = run.setup.measured.read(np.arange(3))
  images = np.stack([model.preprocess(e) for e in encoded])
  assert images.shape == (3, 24, 24, 1) == (3, *model.image_shape)
  assert model.embed_batch(images).shape == (3, 8)
  assert model.fingerprint != inference.load(workdir).fingerprint
  evaluator = training.runs.Evaluator(model.config, run.setup.measured, model.embed)
  np.testing.assert_array_equal(evaluator.preprocess(encoded[0], None), images[0])
  embedded = setup.abstract_batch(model.config, 2, train=False)["image"].shape
  assert embedded == (2, 24, 24, 1)
  assert setup.abstract_batch(model.config, 2)["image"].shape == (2, 16, 16, 1)


def test_pictures_are_kept_only_where_their_directory_is(workdir, tmp_path):
  path, pictures = tmp_path / "run", tmp_path / "encoding"
  shutil.copytree(workdir, path)
  edit(path, "data", cache=str(pictures))
  expected = training.restore(path).images(np.arange(2))
  assert not pictures.exists()
  pictures.mkdir()
  np.testing.assert_array_equal(training.restore(path).images(np.arange(2)), expected)
  assert sum(file.is_file() for file in pictures.rglob("*")) == 2


def test_networks_without_statistics(data_dir, tmp_path):
  overrides = {"encoder.name": "vit_s16", "encoder.options": {"depth": 0}, "embedding.norm": "none"}
  state = write_run(tmp_path / "run", digits_config(data_dir, **overrides))
  trained = inference.load(tmp_path / "run")
  assert trained.variables["batch_stats"] == {}
  for name in ("encoder", "embedding"):
    np.testing.assert_equal(trained.variables["params"][name], state.params[name])


def test_fingerprint_is_the_same_everywhere_and_of_what_matters():
  kernel = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
  variables = {"params": {"encoder": {"kernel": kernel}}, "batch_stats": {}}

  def of(tree, **overrides):
    changed = defaults.get_config()
    changed.update_from_flattened_dict(overrides)
    return fingerprint(changed, tree)

  one = of(variables)
  # Of another process on another machine: embeddings already stored are those of this model.
  assert one == "c9b1509fa7edbbf7"
  same = {"data.data_dir": "/elsewhere", "optimizer.learning_rate": 1.0, "data.dataset": "digits"}
  # The usual crop and interpolation, too, whether a config names them or is older than the keys.
  same |= {"data.crop_pct": 7 / 8, "data.interpolation": "bilinear"}
  assert of(variables, **same) == one
  for different in (
    {"data.image_size": 64},
    {"encoder.options": {"grid": 1}},
    {"embedding.dim": 9},
    {"data.crop_pct": 1.0},
    {"data.interpolation": "bicubic"},
  ):
    assert of(variables, **different) != one
  assert of({"params": {"encoder": {"kernel": np.nextafter(kernel, 2)}}, "batch_stats": {}}) != one
  assert of({"params": {"encoder": {"other": kernel}}, "batch_stats": {}}) != one
  assert of({"params": {"encoder": {"kernel": kernel.T}}, "batch_stats": {}}) != one


@pytest.mark.parametrize(
  ("images", "error", "message"),
  [
    (np.zeros((2, 16, 16, 1), np.float32), TypeError, "expected uint8"),
    (np.zeros((2, 16, 16, 3), np.uint8), ValueError, r"expected \[b, 16, 16, 1\]"),
    (np.zeros((16, 16, 1), np.uint8), ValueError, r"expected \[b, 16, 16, 1\]"),
  ],
)
def test_refuses_other_images(workdir, images, error, message):
  with pytest.raises(error, match=message):
    inference.load(workdir).embed_batch(images)


def test_refuses_what_is_no_run(tmp_path, moved):
  with pytest.raises(checkpoints.CheckpointError, match="holds no run"):
    inference.load(tmp_path / "nowhere")
  shutil.rmtree(moved / "checkpoints")
  with pytest.raises(checkpoints.CheckpointError, match="holds no checkpoint"):
    inference.load(moved)


def test_refuses_another_version(moved):
  edit(moved, "encoder", colour="blue")
  with pytest.raises(ConfigError, match="no config of this version"):
    inference.load(moved)


def test_refuses_an_unknown_encoder(moved):
  edit(moved, "encoder", name="convnext")
  with pytest.raises(ConfigError, match="convnext"):
    inference.load(moved)


@pytest.mark.parametrize("dim", [4, 16])
def test_refuses_a_checkpoint_of_another_shape(moved, dim):
  edit(moved, "embedding", dim=dim)
  with pytest.raises(checkpoints.CheckpointError, match="cannot read the checkpoint"):
    inference.load(moved)


def test_refuses_a_damaged_checkpoint(moved):
  (state,) = (moved / "checkpoints" / "best").glob("*/state")
  for path in state.rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:10])
  with pytest.raises(checkpoints.CheckpointError, match="cannot read the checkpoint"):
    inference.load(moved)
