"""The encoder of docs/encoders.md, which has no published weights and is not registered, trains."""

import pathlib
import re

import numpy as np
import pytest

from jaxdml import inference, models, training
from tests.training.conftest import data_dir as data_dir
from tests.training.test_loop import digits_config

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()


@pytest.mark.slow
def test_it_trains_and_loads(data_dir, tmp_path, monkeypatch):
  (block,) = re.findall(r"```python\n(# my_encoders\.py\n.*?)```", TEXT, re.DOTALL)
  (name,) = re.findall(r"--config\.encoder\.name=(my_encoders:\w+)", TEXT)
  (tmp_path / "my_encoders.py").write_text(block)
  monkeypatch.syspath_prepend(tmp_path)
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
