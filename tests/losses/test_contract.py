"""Laws that every loss keeps with every miner and distance; the table is in table.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining, refs
from tests.losses import proxy_reference, reference, table
from tests.losses.table import (
  CASES,
  CLASSES,
  LEARNABLE,
  NOT_BY_EXAMPLE,
  OPTIONS,
  PARAMETRIC,
  REDUCERS,
  TUPLE,
  TUPLE_KINDS,
  D,
  N,
  batch,
  cells,
  compiled,
  default_reducer,
  expected,
  has_reference,
  program,
  run,
)

cases = pytest.mark.parametrize(("name", "group"), CASES)
# Weights in these are constants of the gradient: finite differences hold them still.
CONSTANT_WEIGHTS = ("circle", "ranked_list")


def close(actual, wanted, rtol=1e-9, about=""):
  np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=1e-11, err_msg=str(about))


def same(actual, wanted, rtol=1e-9):
  chex.assert_trees_all_close(actual, wanted, rtol=rtol, atol=1e-11)


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def _by_example(b, index):
  """The batch of the examples at `index`."""
  return {k: v if k in NOT_BY_EXAMPLE else v[index] for k, v in b.items()}


def test_the_table_has_every_loss_and_miner():
  assert sorted(OPTIONS) == sorted(losses.LOSSES)
  assert sorted(TUPLE) == sorted(reference.LOSSES)
  assert sorted(PARAMETRIC) == sorted([*proxy_reference.EXAMPLE_LOSSES, "proxy_anchor"])
  assert sorted([*LEARNABLE, "histogram"]) == sorted(losses.LOSSES)
  assert len(cells("one_row")) == 9 * 9 and len(cells("more_rows")) == 3 * 9


@cases
def test_value_is_the_reference(name, group):
  plain = [batch(cell.index, name=name) for cell in cells(group)]
  results = run(program(name, group), group, plain)
  for cell, b, result in zip(cells(group), plain, results, strict=True):
    if has_reference(name, cell):
      close(result.value, expected(name, group, cell, b), about=cell)


@pytest.mark.parametrize(("name", "group"), [*CASES, ("triplet", "two_rows")])
def test_value_with_masks_and_weights_is_the_reference(name, group):
  """With shared ids and integer weights, which are replicated anchors, in all reductions."""
  busy = {
    "where": np.arange(N) != 3,
    "weights": np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1], float),
    "ids": np.array([5, 6, 7, 8, 9, 6, 1, 2, 3, 4]),  # examples 1 and 5 are the same image
  }
  batches = [batch(100 + cell.index, name=name) | busy for cell in cells(group)]
  results = run(program(name, group), group, batches)
  for cell, b, (value, by_reducer, _) in zip(cells(group), batches, results, strict=True):
    if has_reference(name, cell):
      by_hand = expected(name, group, cell, b, REDUCERS)
      for reduce in REDUCERS:
        close(by_reducer[reduce], by_hand[reduce], about=(cell, reduce))
      default = "mean" if name in PARAMETRIC else reference.LOSSES[name][2]
      close(value, by_hand[default], about=cell)
    if name != "soft_triple":  # whose penalty has no place among unreduced rows
      close(np.sum(by_reducer["none"]), by_reducer["sum"], about=cell)


@cases
def test_gradient_is_the_finite_difference(name, group):
  """Of embeddings, parameters and a hyperparameter, along random directions away from kinks."""
  f, h = program(name, group), 1e-6
  here = [batch(1000 + cell.index, name=name) for cell in cells(group)]
  rng = np.random.default_rng(3)
  results = run(f, group, here)
  for part in table.learnt(here[0]):
    directions = [jax.tree.map(lambda a: rng.normal(size=np.shape(a)), b[part]) for b in here]
    moved = lambda s, part=part, directions=directions: [
      b | {part: jax.tree.map(lambda a, v: a + s * v, b[part], direction)}
      for b, direction in zip(here, directions, strict=True)
    ]
    ups, downs = moved(h), moved(-h)
    if name in CONSTANT_WEIGHTS:
      mines = [
        table.GROUPS[group][c.miner].reference or table.kept(c.miner, group, c.distance, b)
        for c, b in zip(cells(group), here, strict=True)
      ]
      up, down = (
        [
          expected(name, group, cell, end, mine=mine, fixed=b["x"])
          for cell, end, b, mine in zip(cells(group), ends, here, mines, strict=True)
        ]
        for ends in (ups, downs)
      )
    else:
      up, down = ([r.value for r in run(f, group, ends)] for ends in (ups, downs))
    for cell, direction, result in zip(cells(group), directions, results, strict=True):
      products = jax.tree.map(lambda g, v: np.sum(g * v), result.gradient[part], direction)
      slope = (up[cell.index] - down[cell.index]) / (2 * h)
      np.testing.assert_allclose(
        sum(jax.tree.leaves(products)), slope, rtol=2e-5, atol=1e-8, err_msg=f"{cell}, {part}"
      )
    largest = max(np.max(np.abs(leaf)) for r in results for leaf in jax.tree.leaves(r.gradient))
    assert largest > 1e-3, f"{part} learns nothing"


@cases
def test_masked_is_removed(name, group):
  """What a masked row holds, NaN and unknown classes included, changes value nor gradient."""
  f = program(name, group)
  where = np.ones(N, bool)
  where[[0, 5]] = False
  b = batch(seed=11, name=name) | {"where": where}
  garbage = b["x"].copy()
  garbage[~where] = [[np.nan] * D, [np.inf, -1e300, 0.0, 1.0]]
  garbage = b | {"x": garbage, "weights": np.where(where, b["weights"], np.nan)}
  if name in PARAMETRIC:
    garbage["y"] = b["y"].copy()
    garbage["y"][~where] = [-3, CLASSES]
  results = zip(run(f, group, b), run(f, group, garbage), strict=True)
  small = _by_example(b, where)
  for cell, (clean, with_garbage) in zip(cells(group), results, strict=True):
    assert clean.value == with_garbage.value, cell
    jax.tree.map(np.testing.assert_array_equal, clean.gradient, with_garbage.gradient)
    assert not np.any(clean.gradient["x"][~where]), cell
    if not cell.random and has_reference(name, cell):
      close(clean.value, expected(name, group, cell, small), about=cell)


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_are_replicas(name):
  """Value and every gradient, with the references those of the whole either way."""
  repeats = np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1])
  b = batch(seed=19, name=name)
  index = np.repeat(np.arange(N), repeats)
  given = refs.create("all_pairs")(b["x"], b["y"], ids=b["ids"])[3]
  options = {} if name in PARAMETRIC else {"refs": given}

  def both(b):
    once = table.value_and_gradients(name, b | {"weights": jnp.asarray(repeats, float)}, **options)
    return once, table.value_and_gradients(name, _by_example(b, index), **options)

  (value, once), (again, copies) = compiled(both)(b)
  close(value, again)
  same({k: once[k] for k in once if k in NOT_BY_EXAMPLE},
       {k: copies[k] for k in copies if k in NOT_BY_EXAMPLE})  # fmt: skip
  close(once["x"], np.stack([copies["x"][index == i].sum(0) for i in range(N)]))


@cases
def test_order_does_not_matter(name, group):
  f = program(name, group)
  order = np.random.default_rng(5).permutation(N)
  b = batch(seed=13, name=name)
  results = zip(run(f, group, b), run(f, group, _by_example(b, order)), strict=True)
  for cell, (given, shuffled) in zip(cells(group), results, strict=True):
    if cell.random:
      continue
    close(shuffled.value, given.value, about=cell)
    same(shuffled.gradient, given.gradient | {"x": given.gradient["x"][order]})
    if name != "proxy_anchor":  # whose rows are proxies
      close(shuffled.by_reducer["none"], given.by_reducer["none"][order], about=cell)


@cases
def test_nan_is_never_hidden(name, group):
  f, b = program(name, group), batch(seed=17, name=name)
  one, all_of_them, infinite = b["x"].copy(), np.full((N, D), np.nan), b["x"].copy()
  one[4] = np.nan  # the only example of its class: hardly any pair sees it
  infinite[2, 1] = np.inf
  labels = (b["y"], np.zeros(N, int), np.arange(N) % (CLASSES - 1))
  changes = [{"x": x, "y": y} for x in (one, all_of_them, infinite) for y in labels]
  if name in PARAMETRIC:
    known = np.arange(CLASSES) < CLASSES - 1  # the last class has no example
    changes += [{"params": {k: np.where(known, v.T, np.nan).T for k, v in b["params"].items()}}]
    unknown = [np.where(np.arange(N) == 1, bad, b["y"]) for bad in (-1, CLASSES)]
    no_weight = {"weights": np.where(np.isin(np.arange(N), (1, 4)), 0.0, 1.0)}
    changes += [{"y": y} for y in unknown] + [{"y": y} | no_weight for y in unknown]
    changes += [{"x": one} | no_weight]
  for change in changes:
    for cell, (value, by_reducer, _) in zip(cells(group), run(f, group, b | change), strict=True):
      hidden = {r: v for r, v in by_reducer.items() if not np.any(np.isnan(v))}
      assert np.isnan(value) and not hidden, (cell, hidden)


@cases
def test_other_values_compile_nothing(name, group):
  f = program(name, group)
  run(f, group, batch(name=name))
  before = len(f.traces)
  for seed in range(3):
    labels = np.arange(N) // (seed + 2)
    run(f, group, batch(seed, name=name) | {"y": labels, "where": np.arange(N) > seed})
  assert len(f.traces) == before and f._cache_size() == 1


# As a user calls it: the loss's own distance and reducer, eager, compiled, and on eight devices.

DEVICES, EACH = 8, 3
TOTAL = DEVICES * EACH
_RNG = np.random.default_rng(0)
IMAGES, ENCODER = _RNG.normal(size=(DEVICES, EACH, 5)), _RNG.normal(size=(5, D))
# Devices with 3, 1 and 0 valid anchors: a mean of local means would be wrong.
WHERE = np.ones((DEVICES, EACH), bool)
WHERE[1, 1:] = WHERE[4] = False
WEIGHTS = _RNG.integers(1, 4, (DEVICES, EACH)).astype(float)
LABELS = np.arange(TOTAL).reshape(DEVICES, EACH) % 5


def user_loss(name, learnt, images, labels, where, weights, axis_name=None, **options):
  """The loss of images; with an axis, of one device's, against those of all."""
  x = images @ learnt["encoder"]
  rest = {"where": where, "weights": weights, "axis_name": axis_name} | OPTIONS[name] | options
  if name in PARAMETRIC:
    rest["params"] = learnt["params"]
  elif axis_name is not None:
    ids = refs.gather_ids(len(x), axis_name)
    rest |= {"ids": ids, "refs": refs.gather(x, labels, axis_name, ids=ids, where=where)}
  return losses.LOSSES[name].fn(x, labels, **rest)


def on_one_device(name, classes=CLASSES, **options):
  """(learnt, value, gradients) of the whole batch."""
  learnt = {"encoder": ENCODER}
  if name in PARAMETRIC:
    learnt["params"] = {k: np.asarray(v, float) for k, v in table.init(name, 0, classes).items()}
  whole = [a.reshape(TOTAL, *a.shape[2:]) for a in (IMAGES, LABELS, WHERE, WEIGHTS)]
  of = lambda learnt: user_loss(name, learnt, *whole, **options)
  return learnt, *jax.device_get(compiled(jax.value_and_grad(of))(learnt))


def check_devices(name, mapped, learnt, value, gradient, **options):
  """Eight devices with unequal numbers of valid examples are one that has all of them."""

  def device(learnt, *data):
    of = lambda learnt: user_loss(name, learnt, *data, axis_name="batch", **options)
    value, gradient = jax.value_and_grad(of)(learnt)
    return value, jax.lax.psum(gradient, "batch")

  values, gradients = jax.device_get(mapped(device)(learnt, IMAGES, LABELS, WHERE, WEIGHTS))
  assert value > 0 and all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
  np.testing.assert_array_equal(values, values[0])  # the same bits on every device
  close(values[0], value)
  for d in range(DEVICES):
    chex.assert_trees_all_close(
      jax.tree.map(lambda g, d=d: g[d], gradients), gradient, rtol=1e-8, atol=1e-10
    )


def by_vmap(device):
  return compiled(jax.vmap(device, axis_name="batch", in_axes=(None, 0, 0, 0, 0)))


@pytest.mark.parametrize("name", OPTIONS)
def test_eight_devices_are_one_and_jit_is_eager(name):
  """Plain arrays, nothing but the loss inside jit, options static."""
  mine = {} if name in PARAMETRIC else {"mining_fn": mining.nearest_positive}
  check_devices(name, by_vmap, *on_one_device(name, **mine), **mine)
  fn, x = losses.LOSSES[name].fn, IMAGES.reshape(TOTAL, -1) @ ENCODER
  options = OPTIONS[name] | mine
  if name in PARAMETRIC:
    options["params"] = jax.tree.map(np.float64, table.init(name))
  eager = fn(x, LABELS.ravel(), **options)
  assert eager == fn(x, LABELS.ravel(), reduce_fn=default_reducer(name), **options)
  static = {"bins", "margin"} if name == "sphereface" else {"bins"}
  chex.clear_trace_counter()
  jitted = jax.jit(
    chex.assert_max_traces(fn, n=1),
    static_argnames=("mining_fn", *sorted(static & set(OPTIONS[name]))),
  )
  for order in (slice(None), slice(None, None, -1)):
    close(jitted(x[order], LABELS.ravel()[order], **options), eager)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TUPLE_KINDS, *table.PARAMETRIC_KINDS])
def test_vmap_is_a_loop(name):
  batches = [batch(seed, name=name) | {"where": np.arange(N) != seed} for seed in range(3)]
  stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
  mine = mining.create("random_positive+random_negative")
  one = lambda b: table.value_and_gradients(name, b, mining_fn=mine)
  mapped, looped = compiled(lambda s: (jax.vmap(one)(s), jax.lax.map(one, s)))(stacked)
  assert np.any(mapped[0])
  same(mapped, looped)
