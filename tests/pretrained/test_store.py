"""Converted weights: what they fit, and what is said of those that are damaged or absent."""

import gc
import json
import shutil

import jax
import numpy as np
import pytest

from jaxdml import commands, models, pretrained
from jaxdml.pretrained import conversion, store
from tests.pretrained.published import published

# Orbax leaves half-done reads of damaged files behind; when they end, at times in a later test,
# their event loop is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  folder = tmp_path_factory.mktemp("weights")
  np.savez(folder / "r.npz", **published("resnet18"))
  arguments = ["--arch", "resnet18", "--source", str(folder / "r.npz"), "--out", str(folder / "w")]
  assert commands.main(["convert", *arguments]) == 0
  return folder / "w"


@pytest.mark.parametrize("options", [{"pooling": "gem", "remat": True}, {"pooling": "none"}])
def test_options_that_leave_the_parameters_alone(directory, options):
  params, stats, card = pretrained.load(directory, models.create("resnet18", **options))
  assert "pool" not in params and card.arch == "resnet18"
  assert models.count_parameters(params) == 11_176_512
  assert {type(leaf) for leaf in jax.tree.leaves((params, stats))} == {np.ndarray}


def test_another_encoder_is_refused_with_the_names(directory):
  with pytest.raises(pretrained.WeightsError, match="weights of resnet18 do not fit") as raised:
    pretrained.load(directory, models.create("resnet50"))
  assert "layer1_0/conv1/kernel (expected [1, 1, 64, 64], found [3, 3, 64, 64])" in str(
    raised.value
  )
  assert "missing (165): " in str(raised.value)


def test_absent_and_damaged_weights_are_refused(directory, tmp_path):
  encoder = models.create("resnet18")
  with pytest.raises(pretrained.WeightsError, match="no such directory"):
    pretrained.load(tmp_path / "nowhere", encoder)
  with pytest.raises(pretrained.WeightsError, match=r"it has no card\.json"):
    pretrained.load(tmp_path, encoder)
  copy = tmp_path / "copy"
  shutil.copytree(directory, copy)
  card = json.loads((copy / "card.json").read_text())
  for damaged in ("{", "[]", json.dumps(card | {"colour": 1}), json.dumps({"arch": "resnet18"})):
    (copy / "card.json").write_text(damaged)
    with pytest.raises(pretrained.WeightsError, match=r"card\.json is damaged"):
      pretrained.load(copy, encoder)
  for change in ({"classes": 8}, {"source": "x.npz"}, {"weights": "0" * 64}):
    # As a card of before the seals was, and as one that somebody changed.
    for damaged in (card | change, {k: v for k, v in card.items() if k != "seal"}):
      (copy / "card.json").write_text(json.dumps(damaged))
      with pytest.raises(pretrained.WeightsError, match=r"card\.json is damaged"):
        pretrained.load(copy, encoder)
  (copy / "card.json").write_text(json.dumps(card))
  data = max(copy.rglob("weights/d/*"), key=lambda path: path.stat().st_size)
  data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
  with pytest.raises(pretrained.WeightsError, match="cannot read the weights"):
    pretrained.load(copy, encoder)
  shutil.rmtree(copy / "weights")
  with pytest.raises(pretrained.WeightsError, match="cannot read the weights"):
    pretrained.load(copy, encoder)
  gc.collect()


def test_other_values_are_not_loaded(directory, tmp_path):
  """Orbax reads a flipped bit of its data as another number."""
  copy, encoder = tmp_path / "copy", models.create("resnet18")
  shutil.copytree(directory, copy)
  data = max(copy.rglob("weights/d/*"), key=lambda path: path.stat().st_size)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  with pytest.raises(pretrained.WeightsError, match="cannot read the weights"):
    pretrained.load(copy, encoder)


def test_a_card_survives_json():
  for published_weights in models.published_encoders().values():
    card = pretrained.Card("a", "b", "c", "d", 3, published_weights.preprocessing)
    assert pretrained.Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_imagenet_weights_that_no_package_carries():
  for arch in ("resnet50", "googlenet"):
    with pytest.raises(pretrained.WeightsError, match="no Python package carries") as raised:
      pretrained.load_imagenet(arch, models.create(arch))
    assert f"convert --arch {arch} --source FILE --out weights/{arch}" in str(raised.value)
  with pytest.raises(pretrained.WeightsError, match="no published weights fit convnet"):
    pretrained.imagenet_card("convnet")


def test_what_belongs_to_another_pooling_is_left_out_or_starts_anew():
  tiny = models.ViT(width=8, depth=1, heads=2, patch=8, grid=2, class_token=False, pooling="map")
  zeros = lambda encoder: jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(conversion.abstract(encoder))
  )
  card = pretrained.Card("siglip_b16", "b", "c", "d", 0, pretrained.Preprocessing())
  weights = {"batch_stats": {}, **zeros(tiny)}
  assert "pool" in store.fit(weights, card, tiny)[0]
  params, _ = store.fit(weights, card, tiny.clone(pooling="gem"))
  assert "pool" not in params and params.keys() == weights["params"].keys() - {"pool"}
  assert store.fit({"params": params, "batch_stats": {}}, card, tiny)[0].keys() == params.keys()


def test_a_file_s_encoder_is_found_by_names_before_anything_is_traced():
  arrays = published("dinov3_s16plus")
  before = conversion.leaves.cache_info().misses
  assert conversion.looks_like(arrays) == "dinov3_s16plus"
  assert conversion.leaves.cache_info().misses - before <= 2
