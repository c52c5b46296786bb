"""Laws that every loss keeps with every miner and distance; the table is in table.py."""

import jax
import numpy as np
import pytest

from jaxdml import losses, mining
from tests.losses import names, reference
from tests.losses.table import (
  CASES,
  CLASSES,
  LOSSES,
  REDUCERS,
  REFERENCE,
  D,
  N,
  arguments,
  batch,
  cells,
  compiled,
  default_reducer,
  program,
  run,
)

cases = pytest.mark.parametrize(("loss", "group"), CASES)
# Weights in these are constants of the gradient: finite differences hold them still.
CONSTANT_WEIGHTS = ("circle", "ranked_list")


def close(actual, expected, rtol=1e-9, about=""):
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-11, err_msg=str(about))


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def _terms(loss, group, cell, b, mine=None, **options):
  """The reference's terms of each anchor."""
  return reference.anchors(
    loss, b["x"], b["y"], mine=mine or cell.reference(group, b), distance=REFERENCE[cell.distance],
    ids=b["ids"], where=b["where"], repeats=b["weights"].astype(int), **options, **LOSSES[loss],
  )  # fmt: skip


def _expected(loss, group, cell, b, **options):
  terms = _terms(loss, group, cell, b, **options)
  return reference.reduced(terms, reference.LOSSES[loss][2], b["weights"].astype(int))


def test_the_table_has_every_loss_and_miner():
  assert sorted(LOSSES) == sorted(names.TUPLE) == sorted(reference.LOSSES)
  assert len(cells("one_row")) == 9 * 9 and len(cells("more_rows")) == 3 * 9


@cases
def test_value_is_the_reference(loss, group):
  f = program(loss, group)
  plain = [batch(cell.index) for cell in cells(group)]
  for cell, b, (value, _, _) in zip(cells(group), plain, run(f, group, plain), strict=True):
    close(value, _expected(loss, group, cell, b), about=cell)


@pytest.mark.parametrize(("loss", "group"), [*CASES, ("triplet", "two_rows")])
def test_value_with_masks_and_weights_is_the_reference(loss, group):
  """With shared ids and integer weights, which are replicated anchors, in all reductions."""
  busy = {
    "where": np.arange(N) != 3,
    "weights": np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1], float),
    "ids": np.array([5, 6, 7, 8, 9, 6, 1, 2, 3, 4]),  # examples 1 and 5 are the same image
  }
  batches = [batch(100 + cell.index) | busy for cell in cells(group)]
  results = run(program(loss, group), group, batches)
  for cell, b, (value, by_reducer, _) in zip(cells(group), batches, results, strict=True):
    terms = _terms(loss, group, cell, b)
    by_hand = {r: reference.reduced(terms, r, b["weights"].astype(int)) for r in REDUCERS}
    for reduce in REDUCERS:
      close(by_reducer[reduce], by_hand[reduce], about=(cell, reduce))
    close(value, by_hand[reference.LOSSES[loss][2]], about=cell)
    close(np.sum(by_reducer["none"]), by_reducer["sum"], about=cell)


@cases
def test_gradient_is_the_finite_difference(loss, group):
  """Along random directions in float64; the data are away from ties and kinks."""
  f, h = program(loss, group), 1e-6
  here = [batch(1000 + cell.index) for cell in cells(group)]
  directions = np.random.default_rng(3).normal(size=(len(here), N, D))
  moved = lambda s: [b | {"x": b["x"] + s * v} for b, v in zip(here, directions, strict=True)]
  up, down, results = (run(f, group, b) for b in (moved(h), moved(-h), here))
  for cell, b, v, result, *ends in zip(
    cells(group), here, directions, results, moved(h), moved(-h), strict=True
  ):
    if loss in CONSTANT_WEIGHTS:
      mine = cell.reference(group, b)
      ends = [_expected(loss, group, cell, end, mine=mine, fixed=b["x"]) for end in ends]
    else:
      ends = [up[cell.index].value, down[cell.index].value]
    slope = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(
      np.sum(result.gradient * v), slope, rtol=2e-5, atol=1e-8, err_msg=str(cell)
    )


@cases
def test_masked_is_removed(loss, group):
  """What a masked row holds, NaN included, changes neither value nor gradient."""
  f = program(loss, group)
  where = np.ones(N, bool)
  where[[0, 5]] = False
  b = batch(seed=11) | {"where": where}
  garbage = b["x"].copy()
  garbage[~where] = [[np.nan] * D, [np.inf, -1e300, 0.0, 1.0]]
  weights = np.where(where, b["weights"], np.nan)
  garbage = b | {"x": garbage, "weights": weights}
  results = zip(run(f, group, b), run(f, group, garbage), strict=True)
  small = {k: v if k == "seed" else v[where] for k, v in b.items()}
  for cell, (clean, with_garbage) in zip(cells(group), results, strict=True):
    assert clean.value == with_garbage.value, cell
    np.testing.assert_array_equal(clean.gradient, with_garbage.gradient)
    assert not np.any(clean.gradient[~where]), cell
    if "random" not in cell.miner and "weighted" not in cell.miner:
      close(clean.value, _expected(loss, group, cell, small), about=cell)


@cases
def test_order_does_not_matter(loss, group):
  f = program(loss, group)
  order = np.random.default_rng(5).permutation(N)
  b = batch(seed=13)
  moved = {k: v if k == "seed" else v[order] for k, v in b.items()}
  results = zip(run(f, group, b), run(f, group, moved), strict=True)
  for cell, (given, shuffled) in zip(cells(group), results, strict=True):
    if "random" in cell.miner or "weighted" in cell.miner:  # a draw is made by column
      continue
    close(shuffled.value, given.value, about=cell)
    close(shuffled.gradient, given.gradient[order], about=cell)
    close(shuffled.by_reducer["none"], given.by_reducer["none"][order], about=cell)


@cases
def test_nan_is_never_hidden(loss, group):
  f, b = program(loss, group), batch(seed=17)
  one, all_of_them, infinite = b["x"].copy(), np.full((N, D), np.nan), b["x"].copy()
  one[4] = np.nan  # the only example of its class: hardly any pair sees it
  infinite[2, 1] = np.inf
  for x in (one, all_of_them, infinite):
    for y in (b["y"], np.zeros(N, int), np.arange(N) % CLASSES):
      results = run(f, group, b | {"x": x, "y": y})
      for cell, (value, by_reducer, _) in zip(cells(group), results, strict=True):
        hidden = {name: v for name, v in by_reducer.items() if not np.any(np.isnan(v))}
        assert np.isnan(value) and not hidden, (cell, hidden)


@cases
def test_other_values_compile_nothing(loss, group):
  f = program(loss, group)
  run(f, group, batch())
  before = len(f.traces)
  for seed in range(3):
    labels = np.arange(N) // (seed + 1)
    run(f, group, batch(seed) | {"y": labels, "where": np.arange(N) > seed})
  assert len(f.traces) == before and f._cache_size() == 1


def _plain(loss, **options):
  """As a user would call it: the loss's own distance and reducer, nothing switched."""

  def value(x, b):
    return losses.LOSSES[loss].fn(x, b["y"], **arguments(b), **options, **LOSSES[loss])

  return lambda b: jax.value_and_grad(value)(b["x"], b)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_is_a_loop(loss):
  batches = [batch(seed) | {"where": np.arange(N) != seed} for seed in range(3)]
  stacked = {k: np.stack([b[k] for b in batches]) for k in batches[0]}
  mine = mining.create("random_positive+random_negative")

  def both(stacked):
    one = _plain(loss, mining_fn=mine)
    return jax.vmap(one)(stacked), jax.lax.map(one, stacked)

  mapped, looped = compiled(both)(stacked)
  assert np.any(mapped[0])
  jax.tree.map(close, mapped, looped)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_jit_is_eager(loss):
  """Plain arrays, nothing but the loss inside jit, options static."""
  x, y = batch(seed=23)["x"], batch()["y"]
  fn = losses.LOSSES[loss].fn
  options = {"mining_fn": mining.nearest_positive, **LOSSES[loss]}
  expected = fn(x, y, **options)
  static = jax.jit(fn, static_argnames=("mining_fn", *sorted({"bins"} & set(LOSSES[loss]))))
  for order in (slice(None), slice(None, None, -1)):
    close(static(x[order], y[order], **options), expected)
  assert static._cache_size() == 1
  assert expected == fn(x, y, reduce_fn=default_reducer(loss), **options)
