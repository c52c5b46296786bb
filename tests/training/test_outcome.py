"""The words at a run's end."""

import json
import types

import numpy as np
import pytest

from jaxdml import training
from jaxdml.training import outcome


class Split:
  """A split of so many images of two classes fewer."""

  def __init__(self, images):
    self.images = images

  def __len__(self):
    return self.images

  def classes(self, label):
    assert label == "label"
    return np.arange(self.images - 2)


def run_of(selecting, measured, select_by="map@r"):
  config = training.default_config()
  config.eval.select_by = select_by
  return types.SimpleNamespace(config=config, selecting=selecting, measured=measured)


def test_validation_is_said_to_be_easier_where_it_is_smaller():
  few, many = Split(10), Split(30)
  said = outcome.smaller_selection(run_of(few, many))
  assert said.startswith("validation has 10 images of 8 classes, test 30 of 28: ")
  assert "overfitting" in said
  assert outcome.smaller_selection(run_of(many, few)) is None
  assert outcome.smaller_selection(run_of(many, many)) is None
  assert outcome.smaller_selection(run_of(few, many, "last")) is None


@pytest.mark.parametrize(
  ("beta", "trust", "expected"),
  [
    (50.0, [0.99, 0.93], "had 4% of the loss's weight on average: hardly tried; set hdml.b"),
    ("auto", [0.99, 0.93], "shorten hdml.window"),
    ("auto", [0.9, 0.3], "had 40% of the loss's weight on average"),
  ],
)  # fmt: skip
def test_the_weight_of_synthetics_is_said(tmp_path, beta, trust, expected):
  lines = [json.dumps({"step": i, "hdml/trust_in_real": t}) for i, t in enumerate(trust)]
  (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
  config = training.default_config()
  assert outcome.synthetic_share(config, tmp_path) is None
  config.hdml.enabled, config.hdml.beta = True, beta
  said = outcome.synthetic_share(config, tmp_path)
  assert expected in said and (";" in said) == (beta != "auto" and trust[1] > 0.9)
  assert outcome.synthetic_share(config, tmp_path / "none") is None
