"""Losses that see only the columns a miner named: the same as on every pair under its masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from jaxdml.losses import _engine as selected
from jaxdml.types import Pairs, Refs
from tests.losses import names
from tests.losses.table import (
  DEGENERATE,
  LOSSES,
  N,
  all_reducers,
  arguments,
  batch,
  compiled,
  default_reducer,
)

MINERS = {
  "eps_semihard": mining.create("nearest_positive+semihard_negative"),
  "batch_hard": mining.create("hardest_positive+hardest_negative"),
  "eps_random": mining.create("nearest_positive+random_negative"),
  "pairs_semihard": mining.create("expand_positives+semihard_negative", max_positives=2),
}
# Of these an anchor has more rows than one, of which each has its own columns: the long way.
MORE_ROWS = {"pairs_semihard"}
# What needs statistics of all pairs goes the long way.
TWO_PASS = {"histogram", "lifted_structure"}


@functools.cache
def program(loss, defaults=False, miners=tuple(MINERS), hows=("named", "blocks", "masks")):
  """batch -> {(miner, how): (value, by reducer), gradients}; and how often columns were picked."""
  picks = []

  def value(x, weights, b, miner, **options):
    return losses.LOSSES[loss].fn(
      x,
      b["y"],
      **arguments(b) | {"weights": weights},
      **({} if defaults else LOSSES[loss]),
      mining_fn=miner,
      distance_fn=distances.cosine,
      reduce_fn=all_reducers(default_reducer(loss)),
      **options,
    )

  def all_ways(b):
    def pick(*args):
      picks.append(args)
      return original(*args)

    original, selected._chosen = selected._chosen, pick
    try:
      results = {}
      for name in miners:
        miner = MINERS[name]
        ways = {"named": (miner, None), "blocks": (miner, 3), "masks": (mining.switch(0, miner), N)}
        for how in hows:
          f = functools.partial(value, b=b, miner=ways[how][0], block_size=ways[how][1])
          gradient = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)
          results[name, how] = gradient(b["x"], b["weights"])
      return results
    finally:
      selected._chosen = original

  return compiled(all_ways), picks


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_named_columns_are_the_masks(loss):
  with jax.enable_x64(True):
    fn, picks = program(loss)
    b = batch(seed=4) | {"weights": np.array([1.0, 0, 2, 1, 1, 3, 1, 1, 1, 1])}
    b |= {"where": np.arange(N) != 6, "ids": np.array([0, 1, 2, 0, 4, 5, 6, 7, 8, 9])}
    results = jax.device_get(fn(b))
  assert len(picks) == (0 if loss in TWO_PASS else 2 * len(MINERS.keys() - MORE_ROWS))
  for (miner, how), actual in results.items():
    jax.tree.map(
      functools.partial(
        np.testing.assert_allclose, rtol=1e-9, atol=1e-12, err_msg=f"{miner}, {how}"
      ),
      actual,
      results[miner, "masks"],
    )
    assert np.any(actual[1][0]), (miner, "the gradient is zero everywhere")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_degenerate_batches(loss):
  # One miner each way, short and long: the others differ in what they choose alone.
  fn, _ = program(loss, True, ("eps_semihard", "pairs_semihard"), ("named", "masks"))
  for name, changes in DEGENERATE.items():
    b = batch(seed=1) | changes
    b |= {"x": np.float32(b["x"]), "weights": np.float32(b["weights"])}
    results = jax.device_get(fn(b))
    for (miner, how), actual in results.items():
      about = f"{name}, {miner}, {how}"
      assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(actual)), about
      # Where all points are equal a gradient is a difference of roundings times a steep slope.
      np.testing.assert_allclose(
        actual[0][0], results[miner, "masks"][0][0], rtol=1e-4, atol=1e-5, err_msg=about
      )


def _value(x, mine, **options):
  y = jnp.asarray(batch()["y"])
  return losses.triplet_loss(x, y, mining_fn=mine, margin=0.4, **options)


def test_a_mask_put_in_place_of_the_miners_is_what_counts():
  """The columns that were named before say nothing about it."""
  x = jnp.asarray(batch()["x"], jnp.float32)
  first = lambda mask: mask & (jnp.cumsum(mask, axis=1) == 1)

  def then_first(pairs):
    found = pairs
    pairs = MINERS["batch_hard"](pairs)
    return pairs._replace(positive=first(found.positive), negative=first(found.negative))

  only_first = lambda pairs: pairs._replace(
    positive=first(pairs.positive), negative=first(pairs.negative)
  )
  assert _value(x, then_first) == _value(x, only_first) != _value(x, MINERS["batch_hard"])


def test_a_nan_that_no_anchor_selects_still_shows():
  x = np.float32(batch()["x"])
  y = jnp.asarray(batch()["y"])
  row = int(np.flatnonzero(np.asarray(y) == 4)[0])  # alone in its class
  x[row] = np.nan
  where = np.arange(N) != row
  assert np.isfinite(_value(jnp.asarray(x), MINERS["eps_semihard"], where=where))
  assert np.isnan(_value(jnp.asarray(x), MINERS["eps_semihard"]))


def test_references_of_their_own_get_gradients():
  """A memory or another view: gradients land on the references that were picked, and only there."""
  x, y = jnp.asarray(batch()["x"], jnp.float32), jnp.asarray(batch()["y"])
  others = jnp.asarray(batch(seed=7)["x"], jnp.float32)
  of = lambda others, mine: _value(x, mine, refs=Refs(others, y))
  mine = MINERS["eps_semihard"]
  actual = jax.grad(of)(others, mine)
  np.testing.assert_allclose(actual, jax.grad(of)(others, mining.switch(0, mine)), atol=1e-6)
  assert np.any(actual)


@pytest.mark.parametrize("loss", names.PARAMETRIC)
def test_losses_with_class_vectors(loss):
  """They know a class by its column, and see all of them."""
  x, y = jnp.asarray(batch()["x"], jnp.float32), jnp.asarray(batch()["y"])
  params = losses.init(loss, jax.random.key(1), 12, x.shape[1])

  of = lambda mine: jax.value_and_grad(
    lambda x, params: losses.LOSSES[loss].fn(x, y, params=params, mining_fn=mine), argnums=(0, 1)
  )
  mine = MINERS["eps_semihard"]
  named, masks = compiled(lambda *a: (of(mine)(*a), of(mining.switch(0, mine))(*a)))(x, params)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), named, masks)


def test_a_gpu_adds_gradients_in_one_order(monkeypatch):
  """By sorting: the same sums as of a scatter, whose order is left to a GPU's threads."""
  rng = np.random.default_rng(0)
  x, y = np.float32(rng.normal(size=(40, 3))), np.repeat(np.arange(10), 4)
  of = lambda x: losses.triplet_loss(x, y, mining_fn=MINERS["eps_semihard"])
  scattered = jax.jit(jax.grad(of))(x)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax.ops, "segment_sum", None)
  np.testing.assert_allclose(jax.jit(jax.grad(lambda x: of(x)))(x), scattered, atol=1e-6)


@pytest.mark.parametrize("index", [[0, 0, 0, 0], [4, 2, 2, 4], [3, 1, 2, 0], [4, 4, 1, 0]])
def test_sum_sorted_is_segment_sum(index):
  values = jnp.arange(8.0).reshape(4, 2)
  index = jnp.asarray(index)
  actual = selected.sum_sorted(values, index, 5)
  np.testing.assert_array_equal(actual, jax.ops.segment_sum(values, index, 5))


def test_few_partners_are_worth_copying_and_many_are_not():
  def pairs(k):
    columns = jnp.zeros((16, k), jnp.int32)
    blank = Pairs(jnp.zeros((16, 16)), jnp.zeros((16, 16), bool), jnp.zeros((16, 16), bool), None)
    return mining.keep(blank, positives=columns, negatives=columns)

  assert selected.few(pairs(1)) and selected.few(pairs(2))
  assert not selected.few(pairs(3))  # 6 copies of 16 embeddings
  assert not selected.few(pairs(2)._replace(negative_at=None))
