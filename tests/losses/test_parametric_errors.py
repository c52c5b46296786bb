"""What a loss with parameters accepts: its parameters, its signature, and what it refuses."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses
from tests.losses.proxy_table import LOSS, OPTIONS, PER_CLASS_OPTION

every_loss = pytest.mark.parametrize("name", LOSS)


@every_loss
def test_init(name):
  option = PER_CLASS_OPTION.get(name)
  params = losses.init(name, jax.random.key(0), 7, 64)
  ((key, array),) = params.items()
  assert array.dtype == jnp.float32
  default = {"soft_triple": 10, "sub_center_arcface": 3}
  shape = (7, default[name], 64) if option else (7, 64)
  assert (key, array.shape) == ("centers" if option else "proxies", shape)
  np.testing.assert_allclose(np.linalg.norm(array, axis=-1), 1.0, atol=0.35)
  assert np.any(array != losses.init(name, jax.random.key(1), 7, 64)[key])
  if option:
    assert losses.init(name, jax.random.key(0), 2, 4, **{option: 5})[key].shape == (2, 5, 4)
  with pytest.raises(ValueError, match="must be at least 1; got"):
    losses.init(name, jax.random.key(0), 0, 64)


@every_loss
def test_signature(name):
  parameters = inspect.signature(LOSS[name]).parameters
  names = list(parameters)
  shared = ["where", "weights", "distance_fn", "mining_fn", "key", "reduce_fn", "block_size",
            "axis_name"]  # fmt: skip
  assert names == ["embeddings", "labels", "params", *OPTIONS[name], *shared]
  assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in names[2:])
  assert parameters["params"].default is inspect.Parameter.empty
  assert LOSS[name].__name__ == f"{name}_loss" and "docs/conventions.md" in LOSS[name].__doc__


X, Y = np.ones((4, 3), np.float32), np.arange(4) // 2


def _refused(name):
  loss = LOSS[name]
  option = PER_CLASS_OPTION.get(name)
  key, shape = ("centers", (5, 2)) if option else ("proxies", (5,))
  axes = rf"\[num_classes, {option}, 3\]" if option else r"\[num_classes, 3\]"
  expected = rf"^params must be {{'{key}': floating point {axes}}}; got "
  made = rf"Make them with losses.init\('{name}', key, num_classes, 3"
  good = {key: np.zeros((*shape, 3), np.float32)}
  wrong = {
    "another dimension": (
      {key: np.zeros((*shape, 4), np.float32)},
      rf"{{'{key}': float32\[5, .*4\]}}",
    ),
    "another rank": ({key: np.zeros((*shape, 1, 3))}, rf"{{'{key}': "),
    "no class": ({key: np.zeros((0, *shape[1:], 3))}, rf"{{'{key}': "),
    "integers": ({key: np.zeros((*shape, 3), int)}, rf"{{'{key}': int"),
    "another key": ({"weights": good[key]}, r"the keys \['weights'\]"),
    "one key too many": ({**good, "bias": 0.0}, rf"the keys \['bias', '{key}'\]"),
    "an array": (good[key], "ndarray"),
    "None": (None, "NoneType"),
  }  # fmt: skip
  for case, (params, came) in wrong.items():
    yield case, lambda p=params: loss(X, Y, params=p), ValueError, f"{expected}{came}.*{made}"
  call = lambda x, y, **options: lambda: loss(x, y, params=good, **options)
  yield "no params", lambda: loss(X, Y), TypeError, "params"
  yield "float labels", call(X, Y + 0.5), TypeError, "labels must be integers from 0 to num_classes"
  yield "3-d embeddings", call(X[None], Y), ValueError, r"embeddings must be \[n, d\]"
  yield "integers", call(X.astype(int), Y), TypeError, "embeddings must be floating point"
  yield "labels", call(X, Y[:3]), ValueError, r"labels must be \[4\]"
  yield "where", call(X, Y, where=np.ones(3, bool)), ValueError, r"where must be \[4\]"
  yield "weights", call(X, Y, weights=1.0), ValueError, r"weights must be \[4\]"
  yield "block_size", call(X, Y, block_size=0), ValueError, "block_size must be at least 1"
  yield "refs", call(X, Y, refs=None), TypeError, "refs"


@every_loss
def test_refused_with_its_message(name):
  for case, call, error, message in _refused(name):
    with pytest.raises(error, match=message):
      call()
      pytest.fail(f"{case} was accepted")
