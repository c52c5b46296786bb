"""Laws that every loss keeps with every miner and distance; the table is in table.py."""

import itertools

import jax
import numpy as np
import pytest

from jaxdml import losses, mining
from tests.losses import reference
from tests.losses.table import (
  CASES,
  CLASSES,
  DISTANCES,
  GROUPS,
  LOSSES,
  REDUCERS,
  D,
  N,
  batch,
  kept,
  program,
)

cases = pytest.mark.parametrize(("loss", "group"), CASES)
close = lambda a, b, rtol=1e-9: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def _table(group):
  """(miner index, miner, distance index, distance) for the whole table."""
  for (i, miner), (j, distance) in itertools.product(
    enumerate(GROUPS[group]), enumerate(DISTANCES)
  ):
    yield i, miner, j, distance


def _expected(loss, group, miner, distance, b, reduce=None):
  mine = GROUPS[group][miner][1] or kept(miner, group, distance, b)
  return reference.loss(
    loss, b["x"], b["y"], mine=mine, distance=distance, reduce=reduce, ids=b["ids"],
    where=b["where"], repeats=b["weights"].astype(int), **LOSSES[loss],
  )  # fmt: skip


@pytest.mark.parametrize(("loss", "group"), [*CASES, ("triplet", "two_rows")])
def test_value_is_the_reference(loss, group):
  """In float64, with masks, shared ids and integer weights, which are replicated anchors."""
  f = program(loss, group)
  for i, miner, j, distance in _table(group):
    plain = batch(seed=i)
    (value, _), _ = f(i, j, plain)
    close(value, _expected(loss, group, miner, distance, plain))
    busy = batch(seed=100 + i) | {
      "where": np.arange(N) != 3,
      "weights": np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1], float),
      "ids": np.array([5, 6, 7, 8, 9, 6, 1, 2, 3, 4]),  # examples 1 and 5 are the same image
    }
    (value, by_reducer), _ = f(i, j, busy)
    close(value, _expected(loss, group, miner, distance, busy))
    for reduce in REDUCERS:
      close(by_reducer[reduce], _expected(loss, group, miner, distance, busy, reduce))
    close(np.sum(by_reducer["none"]), by_reducer["sum"])


@cases
def test_gradient_is_the_finite_difference(loss, group):
  """Along random directions in float64; the data are away from ties and kinks."""
  f, h = program(loss, group), 1e-6
  for i, _, j, _ in _table(group):
    b = batch(seed=7)
    _, gradient = f(i, j, b)
    direction = np.random.default_rng(i + j).normal(size=(N, D))
    up, down = (f(i, j, b | {"x": b["x"] + s * direction})[0][0] for s in (h, -h))
    close(np.sum(gradient * direction), (up - down) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize(
  ("loss", "group", "block_size"),
  [(loss, group, 3) for loss, group in CASES] + [("margin", "one_row", b) for b in (1, 5, 64)],
)
def test_blocks_change_nothing(loss, group, block_size):
  distance = reference.LOSSES[loss][1]
  whole, blocked = program(loss, group), program(loss, group, block_size, names=(distance,))
  for i in range(len(GROUPS[group])):
    b = batch(seed=i) | {"where": np.arange(N) != 5, "ids": np.arange(N)[::-1].copy()}
    jax.tree.map(close, blocked(i, 0, b), whole(i, DISTANCES.index(distance), b))


@cases
def test_masked_is_removed(loss, group):
  """What a masked row holds, NaN included, changes neither value nor gradient."""
  f = program(loss, group)
  where = np.ones(N, bool)
  where[[0, 5]] = False
  for i, miner, j, distance in _table(group):
    b = batch(seed=11) | {"where": where}
    (value, _), gradient = f(i, j, b)
    garbage = b["x"].copy()
    garbage[~where] = [[np.nan] * D, [np.inf, -1e300, 0.0, 1.0]]
    (with_garbage, _), gradient_with_garbage = f(i, j, b | {"x": garbage})
    assert value == with_garbage
    np.testing.assert_array_equal(gradient, gradient_with_garbage)
    assert not np.any(gradient[~where])
    if GROUPS[group][miner][1] is not None:
      small = {k: v if k == "key" else v[where] for k, v in b.items()}
      close(value, _expected(loss, group, miner, distance, small))


@cases
def test_order_does_not_matter(loss, group):
  f = program(loss, group)
  order = np.random.default_rng(5).permutation(N)
  for i, miner, j, _ in _table(group):
    if GROUPS[group][miner][1] is None:  # a random draw is made by column
      continue
    b = batch(seed=13)
    (value, by_reducer), gradient = f(i, j, b)
    moved = {k: v if k == "key" else v[order] for k, v in b.items()}
    (moved_value, moved_by_reducer), moved_gradient = f(i, j, moved)
    close(moved_value, value)
    close(moved_gradient, gradient[order])
    close(moved_by_reducer["none"], by_reducer["none"][order])


@cases
def test_nan_is_never_hidden(loss, group):
  f = program(loss, group)
  for i, miner, j, _ in _table(group):
    b = batch(seed=17)
    one, all_of_them = b["x"].copy(), np.full((N, D), np.nan)
    one[4] = np.nan  # the only example of its class: hardly any pair sees it
    infinite = b["x"].copy()
    infinite[2, 1] = np.inf
    for x in (one, all_of_them, infinite):
      for y in (b["y"], np.zeros(N, int), np.arange(N) % CLASSES):
        (value, by_reducer), _ = f(i, j, b | {"x": x, "y": y})
        bad = {name: v for name, v in by_reducer.items() if not np.any(np.isnan(v))}
        assert np.isnan(value) and not bad, (miner, DISTANCES[j], bad)


@cases
def test_other_values_compile_nothing(loss, group):
  f = program(loss, group)
  f(0, 0, batch())
  before = len(f.traces)
  for seed in range(3):
    f(1, seed, batch(seed) | {"y": np.arange(N) // (seed + 1), "where": np.arange(N) > seed})
  assert len(f.traces) == before and f._cache_size() == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_is_a_loop(loss):
  f = program(loss)
  batches = [batch(seed) | {"where": np.arange(N) != seed} for seed in range(3)]
  stacked = jax.tree.map(lambda *a: jax.numpy.stack(a), *batches)
  mapped = f.over_batches(4, 0, stacked)
  for k, b in enumerate(batches):
    jax.tree.map(lambda many, one, k=k: close(many[k], one), mapped, f(4, 0, b))


@pytest.mark.parametrize("loss", LOSSES)
def test_jit_is_eager(loss):
  """Called as a user would: plain arrays, nothing but the loss inside jit, options static."""
  x, y = batch(seed=23)["x"], batch()["y"]
  fn = losses.LOSSES[loss]
  eager = fn(x, y, mining_fn=mining.nearest_positive, **LOSSES[loss])
  static = jax.jit(fn, static_argnames=("mining_fn", "block_size"))
  for block_size in (None, 4):
    options = {"mining_fn": mining.nearest_positive, "block_size": block_size}
    close(static(x, y, **options, **LOSSES[loss]), eager)
    close(static(x[::-1], y[::-1], **options, **LOSSES[loss]), eager)
  assert static._cache_size() == 2
