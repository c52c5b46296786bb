"""The encoders of docs/encoders.md, which have no published weights and no entry here, train."""

import pathlib
import re
import sys
import types

import jax
import numpy as np
import pytest

from jaxdml import inference, models, training
from jaxdml.training import setup
from jaxdml.training.config import ConfigError
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()


def write_module(name, directory, monkeypatch):
  """Puts the page's block of that module where it can be imported."""
  (block,) = re.findall(rf"```python\n(# {name}\.py\n.*?)```", TEXT, re.DOTALL)
  (directory / f"{name}.py").write_text(block)
  monkeypatch.syspath_prepend(directory)


@pytest.mark.slow
def test_it_trains_and_loads(data_dir, tmp_path, monkeypatch):
  (name,) = re.findall(r"--config\.encoder\.name=(my_encoders:\w+)", TEXT)
  write_module("my_encoders", tmp_path, monkeypatch)
  keys = {
    "encoder.name": name, "encoder.options": {"width": 8}, "train.duration": "2 steps",
    "train.evaluate_every": "2 steps", "eval.raw_pixels": False,
  }  # fmt: skip
  rows = training.train_and_evaluate(digits_config(data_dir, **keys), tmp_path / "run")
  assert 0 < rows["trained model"]["recall@1"] <= 1
  trained = inference.load(tmp_path / "run")
  params = trained.variables["params"]["encoder"]
  assert params["conv"]["kernel"].shape[-1] == 8
  assert trained.embed_batch(np.zeros((1, *trained.image_shape), np.uint8)).shape == (1, 8)
  assert isinstance(models.create(name, width=8), models.Encoder)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("equinox", "linen", "plain")]


@pytest.mark.parametrize("library", ["nnx", *_SLOW])
def test_networks_of_other_libraries_train_and_load(library, data_dir, tmp_path, monkeypatch):
  if library == "equinox":
    pytest.importorskip("equinox", reason="comes with the extra [test]")
  assert "--config.encoder.name=my_networks:from_nnx" in TEXT
  write_module("my_networks", tmp_path, monkeypatch)
  keys = {
    "encoder.name": f"my_networks:from_{library}", "encoder.options": {"width": 8},
    "optimizer.layer_decay": 0.5, "train.duration": "2 steps", "train.evaluate_every": "2 steps",
    "eval.raw_pixels": False, "eval.untrained": False, "eval.clustering": False,
    "eval.diagnostics": False, "eval.select_by": "map@r",
  }  # fmt: skip
  workdir = tmp_path / "run"
  config = digits_config(data_dir, **keys)
  rows = training.train_and_evaluate(config, workdir)
  assert 0 < rows["trained model"]["recall@1"] <= 1
  trained = inference.load(workdir)
  shapes = [x.shape for x in jax.tree.leaves(trained.variables["params"]["encoder"])]
  assert any(8 in shape for shape in shapes)
  start = setup.prepare(training.resolve(config)).initial_state()
  kinds = {"params": start.params, "batch_stats": start.batch_stats}
  for kind, tree in kinds.items():
    if "encoder" in tree:
      then, now = (
        jax.tree.leaves(tree["encoder"]),
        jax.tree.leaves(trained.variables[kind]["encoder"]),
      )
      moved = [not np.array_equal(a, b) for a, b in zip(then, now, strict=True)]
      assert trained.step == 0 or all(moved), kind
  assert ("encoder" in start.batch_stats) == (library in ("nnx", "linen"))
  assert trained.embed_batch(np.zeros((1, *trained.image_shape), np.uint8)).shape == (1, 8)


@pytest.mark.parametrize("gives, got", [
  (lambda x: x, r"\(1, 16, 16, 1\)"), (lambda x: x.mean((1, 2, 3)), r"\(1,\)"),
  (lambda x: {"features": x}, "dict"),
])  # fmt: skip
def test_features_of_another_shape_are_one_clear_line(gives, got, data_dir, tmp_path, monkeypatch):
  module = types.ModuleType("wrong_networks")
  init = lambda key, images: {"params": {"w": np.ones(2, np.float32)}}
  apply = lambda variables, images, train: gives(images)
  module.make = lambda **fields: models.from_functions(init, apply, 5, **fields)
  monkeypatch.setitem(sys.modules, "wrong_networks", module)
  config = digits_config(data_dir, **{"encoder.name": "wrong_networks:make", "encoder.options": {}})
  expected = r"^config.encoder.name: expected features \[n, feature_dim\], \(1, 5\) of one image"
  with pytest.raises(ConfigError, match=rf"{expected}; the encoder gives {got}") as caught:
    training.train_and_evaluate(config, tmp_path / "run")
  assert len(str(caught.value).splitlines()) == 1
  assert not (tmp_path / "run").exists()
