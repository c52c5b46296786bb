"""`jaxdml evaluate --encoder`: weights as they are, without any training, and what is refused."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import commands, data, evaluation, models, pretrained
from jaxdml.data import preprocess
from jaxdml.models import base
from jaxdml.models.resnet import BasicBlock, ResNet
from tests.commands.test_search import refused
from tests.pretrained.published import published
from tests.training.conftest import data_dir as data_dir


@pytest.fixture
def weights(monkeypatch, tmp_path):
  """A small encoder "tiny" with converted weights, bicubic and of 32 pixels."""
  fits = dataclasses.replace(
    models.ENCODERS["resnet18"].published,
    preprocessing=base.Preprocessing(image_size=32, crop_pct=0.75, interpolation="bicubic"),
  )
  make = functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, width=4)
  monkeypatch.setitem(models.ENCODERS, "tiny", base.Entry(make, fits))
  # Kernels about 0: of positive ones alone all features would point the same way.
  arrays = {name: x - 0.5 * (x.ndim > 1) for name, x in published("tiny").items()}
  np.savez(tmp_path / "t.npz", **arrays)
  out = str(tmp_path / "tiny")
  assert (
    commands.main(["convert", "--arch=tiny", f"--source={tmp_path / 't.npz'}", "--out", out]) == 0
  )
  return out


def test_frozen_weights_are_measured_by_their_own_pooling_and_pixels(
  weights, data_dir, tmp_path, capsys
):
  out = tmp_path / "frozen.json"
  given = [f"--init={weights}", "--dataset=digits", f"--data_dir={data_dir}", f"--out={out}"]
  assert commands.main(["evaluate", "--encoder=tiny", *given]) == 0
  printed = capsys.readouterr().out
  assert "digits test, by label: 896 queries" in printed
  assert "Encoder: tiny starts from t.npz" in printed and "frozen pretrained encoder " in printed
  result = json.loads(out.read_text())
  assert list(result["metrics"]) == ["raw pixels", "frozen pretrained encoder"]
  pixels = {"image_size": 32, "crop_pct": 0.75, "interpolation": "bicubic", "normalize": "imagenet"}
  assert result["data"] == {"preprocess": "standard", **pixels}

  # The same by hand: pixels as the card says, the encoder alone, cosine similarity.
  test = data.load("digits", "test", data_dir=data_dir)
  prepare, rng = (
    preprocess.create("standard", 32, False, 3, **_crop(pixels)),
    np.random.default_rng(),
  )
  images = np.stack([prepare(encoded, rng) for encoded in test.read(range(len(test)))])
  encoder = models.create("tiny")
  params, batch_stats, _ = pretrained.load(weights, encoder)
  apply = jax.jit(functools.partial(encoder.apply, train=False))
  variables = {"params": params, "batch_stats": batch_stats}
  x = np.asarray(apply(variables, jnp.asarray(prepare.normalize(images))))
  expected = evaluation.retrieval_metrics(x, test.column("label"), ks=(1, 8))
  found = result["metrics"]["frozen pretrained encoder"]
  for name in ("recall@1", "recall@8", "map@r"):
    assert found[name] == pytest.approx(expected[name], abs=2e-3)
  assert found["recall@1"] != result["metrics"]["raw pixels"]["recall@1"]


def _crop(pixels):
  return {key: pixels[key] for key in ("crop_pct", "interpolation")}


def test_what_is_no_run_and_no_encoder(tmp_path, capsys):
  refused("evaluate", [], capsys, "one of --workdir, .* and --encoder, .* is required")
  refused("evaluate", ["--encoder=convnet"], capsys, "--encoder needs --dataset")
  run = f"--workdir={tmp_path}"
  refused(
    "evaluate",
    [run, "--encoder=convnet"],
    capsys,
    "one of --workdir, .* and --encoder, .* is required",
  )
  refused("evaluate", [run, "--init=imagenet"], capsys, "--init and --image_size are for --encoder")
  given = ["--encoder=convnet", "--dataset=glyphs", "--init=imagenet"]
  refused("evaluate", given, capsys, r"config\.encoder\.init: no published weights fit convnet")
