"""Runs that start from published weights: the encoder's state, the pixels, and what is refused."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from jaxdml import commands, evaluation, models, pretrained, training
from jaxdml.data import normalize, preprocess
from jaxdml.models import base
from jaxdml.models.resnet import BasicBlock, ResNet
from jaxdml.training import encoder_init, loop, setup, workdir
from jaxdml.training.config import ConfigError
from tests.inference.test_trained_model import write_run
from tests.pretrained.published import published
from tests.training.helpers import tiny_config
from tests.training.test_loop import digits_config

TINY = functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=4)


@pytest.fixture(scope="module", autouse=True)
def _tiny_encoder():
  """An encoder "tiny" that trains in no time, with published weights."""
  with pytest.MonkeyPatch.context() as patch:
    fits = models.ENCODERS["resnet18"].published
    fits = dataclasses.replace(
      fits, file="nobody's tiny.pth", preprocessing=base.caffe((104.0, 117.0, 128.0))
    )
    fits = dataclasses.replace(
      fits,
      preprocessing=dataclasses.replace(fits.preprocessing, crop_pct=0.9, interpolation="bicubic"),
    )
    patch.setitem(models.ENCODERS, "tiny", base.Entry(TINY, fits))
    yield


@pytest.fixture(scope="module")
def converted(tmp_path_factory, _tiny_encoder):
  folder = tmp_path_factory.mktemp("weights")
  np.savez(folder / "t.npz", **published("tiny"))
  source, out = str(folder / "t.npz"), str(folder / "tiny")
  assert commands.main(["convert", "--arch", "tiny", "--source", source, "--out", out]) == 0
  return folder / "tiny"


def config_of(directory, **keys):
  config = tiny_config()
  config.data.preprocess = "standard"
  config.data.channels = 3
  config.data.image_size = 32
  config.encoder.name = "tiny"
  config.encoder.init = str(directory)
  config.encoder.options = {}
  config.update_from_flattened_dict(keys)
  return config


def test_the_cards_normalisation_fills_in_for_none(converted):
  config = config_of(converted)
  resolved = training.resolve(config)
  assert config.data.normalize == "", "the caller's config stays as it is"
  assert resolved.data.normalize == "bgr mean 104 117 128 std 1 1 1"
  pixels = np.uint8([[10, 20, 30]])
  found = normalize.create(resolved.data.normalize, 3)(pixels)
  np.testing.assert_array_equal(found, [[30 - 104, 20 - 117, 10 - 128]])
  line = encoder_init.describe(resolved)
  assert "tiny starts from t.npz" in line
  assert "pixels: bgr mean 104 117 128 std 1 1 1; 0.9; bicubic; trained at 224 px, here 32" in line


def test_size_crop_and_interpolation_are_the_weights_unless_the_config_sets_them(converted):
  geometry = lambda data: (data.image_size, data.crop_pct, data.interpolation)
  resolved = training.resolve(config_of(converted, **{"data.image_size": 0}))
  assert geometry(resolved.data) == (224, 0.9, "bicubic")
  assert training.resolve(resolved) == resolved
  keys = {"data.crop_pct": 1.0, "data.interpolation": "bilinear"}
  resolved = training.resolve(config_of(converted, **keys))
  assert geometry(resolved.data) == (32, 1.0, "bilinear")
  assert "; 1.0, though they want 0.9; bilinear, though" in encoder_init.describe(resolved)
  # A preprocessing with a geometry of its own keeps it.
  warped = training.resolve(config_of(converted, **{"data.preprocess": "hdml"}))
  assert geometry(warped.data) == (32, 0.0, "")
  with pytest.raises(ConfigError, match=r"data\.image_size: expected at least 1, as no weights"):
    training.resolve(config_of("", **{"data.image_size": 0}))


def test_a_run_from_before_these_keys_resumes_as_it_was(converted, tmp_path):
  before = config_of(converted, **{"data.crop_pct": 7 / 8, "data.interpolation": "bilinear"})
  workdir.check(training.resolve(before), tmp_path, 10)
  path = tmp_path / "config.json"
  there = json.loads(path.read_text())
  del there["data"]["crop_pct"], there["data"]["interpolation"], there["seal"]
  path.write_text(json.dumps(there))
  workdir.check(training.resolve(before), tmp_path, 10)
  read = workdir.read_config(tmp_path).data
  old, new = (preprocess.from_config(d, train=False) for d in (read, before.data))
  assert old.load.args == new.load.args
  with pytest.raises(ConfigError, match=r"data\.interpolation: there 'bilinear', here 'bicubic'"):
    workdir.check(training.resolve(config_of(converted)), tmp_path, 10)


def test_a_normalisation_of_ones_own_is_kept_and_said(converted):
  config = config_of(converted, **{"data.normalize": "imagenet"})
  assert training.resolve(config).data.normalize == "imagenet"
  assert "pixels: imagenet, though they want bgr mean 104 117 128" in encoder_init.describe(config)


def test_named_normalisations_are_recognised():
  for arch, name in (
    ("resnet50", "imagenet"), ("googlenet", "caffe"), ("googlenet_bn", "half"),
    ("bn_inception", "bgr mean 104 117 128 std 1 1 1"),
  ):  # fmt: skip
    card = pretrained.Card(arch, "", "", "", 0, models.ENCODERS[arch].published.preprocessing)
    assert encoder_init.normalize_text(card) == name


@pytest.mark.parametrize(
  ("keys", "match"),
  [
    ({"encoder.name": "resnet50"}, "holds weights of tiny, and .* is resnet50"),
    ({"encoder.init": "/nowhere"}, "encoder.init: /nowhere: no such file or .*; expected hf:ORG"),
    ({"encoder.init": "imagenet"}, "carries weights of tiny: get nobody's tiny.pth"),
    ({"encoder.init": "imagenet", "encoder.name": "convnet"}, "no published weights fit convnet"),
    ({"data.channels": 1}, "config.data.channels: .* take 3; got 1"),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(converted, keys, match):
  with pytest.raises(ConfigError, match=match):
    training.resolve(config_of(converted, **keys))


@pytest.mark.slow
def test_a_run_starts_from_the_weights_resumes_and_is_restored(
  converted, data_dir, tmp_path, capsys
):
  keys = {
    "data.dataset": "digits",
    "data.data_dir": data_dir,
    "data.label": "parity",
    "data.eval_label": "label",
    "data.images_per_class": 16,
    "encoder.options": {"pooling": "gem"},
    "encoder.frozen_bn": True,
    "optimizer.learning_rate": 1e-6,
    "train.duration": "1 steps",
    "train.evaluate_every": "1 steps",
    "eval.raw_pixels": False,
  }
  config = config_of(converted, **keys)
  rows = loop.train_and_evaluate(config, tmp_path / "run")
  assert list(rows) == ["frozen pretrained encoder", "trained model"]
  said = capsys.readouterr().err.splitlines()
  first = said[0]
  # Random weights, a random head and one step: where it ends lower, that is the last line.
  below = workdir.shortfalls(rows, "map@r")
  assert [line for line in said if line.startswith("warning: ")] == [f"warning: {x}" for x in below]
  assert "tiny starts from t.npz" in first and "bgr mean" in first
  saved = json.loads((tmp_path / "run" / "config.json").read_text())
  assert saved["data"]["normalize"] == "bgr mean 104 117 128 std 1 1 1"

  state = training.restore(tmp_path / "run").untrained
  restored = training.restore(tmp_path / "run")
  name, features, distance = restored.before()
  assert (name, distance) == ("frozen pretrained encoder", None)
  found = evaluation.retrieval_metrics(features, restored.labels)
  assert found["map@r"] == pytest.approx(rows[name]["map@r"], abs=1e-6)
  assert features.shape[1] == models.create("tiny").feature_dim
  params, stats, _ = pretrained.load(converted, models.create("tiny"))
  found = dict(state.params["encoder"])
  assert found.pop("pool") == {"p": 3.0}
  jax.tree.map(np.testing.assert_array_equal, found, params)
  jax.tree.map(np.testing.assert_array_equal, state.batch_stats["encoder"], stats)

  assert loop.train_and_evaluate(config, tmp_path / "run") == rows


def test_a_run_starts_from_the_encoder_of_another(data_dir, tmp_path):
  first = digits_config(data_dir, **{"seed": 5, "data.normalize": "unit"})
  theirs = write_run(tmp_path / "first", first)
  config = digits_config(data_dir, **{"encoder.init": str(tmp_path / "first"), "embedding.dim": 4})
  resolved = training.resolve(config)
  assert resolved.data.normalize == "unit" and config.data.normalize == ""
  line = encoder_init.describe(resolved)
  assert f"convnet starts from the run in {tmp_path / 'first'}, step 3 (finger" in line
  assert "; pixels: unit; trained at 16 px, here 16" in line
  plain = training.resolve(digits_config(data_dir))
  fresh, state = (setup.prepare(c).initial_state() for c in (plain, resolved))
  equal = lambda a, b: all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))
  assert equal(state.params["encoder"], theirs.params["encoder"])
  assert not equal(fresh.params["encoder"], theirs.params["encoder"])
  assert state.params["embedding"].keys() == theirs.params["embedding"].keys()

  widths = {"widths": (4, 4), "grid": 2}
  for keys, match in (
    ({"encoder.options": widths}, r"config\.encoder\.options: expected .*8\]"),
    (
      {"encoder.name": "resnet18", "encoder.options": {}},
      r"config\.encoder\.name: expected 'convnet', as in the run of",
    ),
    ({"data.channels": 3}, r"config\.data\.channels: expected 1"),
  ):
    other = digits_config(data_dir, **{"encoder.init": str(tmp_path / "first"), **keys})
    with pytest.raises(ConfigError, match=match):
      training.resolve(other)
  shutil.rmtree(tmp_path / "first" / "checkpoints" / "best")
  with pytest.raises(ConfigError, match=r"config\.encoder\.init: .* holds no checkpoint"):
    training.resolve(config)
