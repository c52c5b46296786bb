"""Laws that every loss with parameters keeps; the table is in proxy_table.py."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, mining
from jaxdml.losses import reducers
from tests.losses import proxy_reference
from tests.losses.proxy_table import (
  ANGULAR,
  CLASSES,
  DISTANCE,
  DISTANCES,
  LEARNABLE,
  LOSS,
  MINERS,
  OPTIONS,
  REDUCERS,
  D,
  N,
  batch,
  init,
  program,
  vectors,
)
from tests.losses.table import compiled

every_loss = pytest.mark.parametrize("name", LOSS)
close = lambda a, b, rtol=1e-9: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)
ALL_DISTANCES = tuple(name for name in distances.NAMES if name != "hyperbolic")


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def _table(name):
  """(miner index, miner, distance index, distance)."""
  allowed = ("cosine",) if name in ANGULAR else DISTANCES
  for (i, miner), (j, distance) in itertools.product(enumerate(MINERS), enumerate(DISTANCES)):
    if distance in allowed:
      yield i, miner, j, distance


def _expected(name, miner, distance, b, reduce="mean"):
  return proxy_reference.loss(
    name, b["x"], b["y"], vectors(b["params"]), distance=distance, where=b["where"],
    repeats=b["weights"], hardest=miner == "hardest_negative", reduce=reduce, **OPTIONS[name],
  )  # fmt: skip


@every_loss
def test_value_is_the_reference(name, x64):
  """In float64, with masks and integer weights, which are replicated examples."""
  f = program(name)
  for i, miner, j, distance in _table(name):
    plain = batch(name, seed=i)
    (value, _), _ = f(i, j, plain)
    close(value, _expected(name, miner, distance, plain))
    busy = batch(name, seed=10 + i) | {
      "where": np.arange(N) != 3,
      "weights": np.array([1, 0, 2, 1, 3, 1, 2, 1], float),
    }
    (_, by_reducer), _ = f(i, j, busy)
    for reduce in REDUCERS:
      close(by_reducer[reduce], _expected(name, miner, distance, busy, reduce))


@every_loss
def test_gradient_is_the_finite_difference(name, x64):
  """Of embeddings and parameters, along random directions in float64, away from ties."""
  f, h = program(name), 1e-6
  for i, _, j, _ in _table(name):
    b = batch(name, seed=7)
    learnt = {"x": b["x"], "params": b["params"]}
    _, gradient = f(i, j, b)
    for learns in learnt:
      rng = np.random.default_rng(100 + i + j)  # not the seed of the data
      direction = jax.tree.map(lambda a, rng=rng: rng.normal(size=a.shape), learnt[learns])
      moved = [
        {learns: jax.tree.map(lambda a, v, s=s: a + s * v, learnt[learns], direction)}
        for s in (h, -h)
      ]
      up, down = (f(i, j, b | change)[0][0] for change in moved)
      products = jax.tree.map(lambda g, v: np.sum(g * v), gradient[learns], direction)
      close(sum(jax.tree.leaves(products)), (up - down) / (2 * h), rtol=1e-5)
      assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[learns]))


@every_loss
def test_blocks_change_nothing(name, x64):
  whole, blocked = program(name), program(name, 3, names=(DISTANCE[name],))
  for i in range(len(MINERS)):
    b = batch(name, seed=i) | {"where": np.arange(N) != 5}
    jax.tree.map(close, blocked(i, 0, b), whole(i, DISTANCES.index(DISTANCE[name]), b))


@every_loss
def test_blocks_of_a_linear_reducer_change_nothing(name, x64):
  """The default reducer takes another path through memory, which learns hyperparameters too."""
  b, options = batch(name, seed=3), OPTIONS[name]
  learnt = {"x": b["x"], "params": b["params"], LEARNABLE[name]: options[LEARNABLE[name]]}

  def value(learnt, block_size):
    rest = {k: v for k, v in learnt.items() if k != "x"}
    return LOSS[name](
      learnt["x"], b["y"], **(options | rest), weights=np.arange(1.0, N + 1), block_size=block_size
    )

  fns = [compiled(jax.value_and_grad(lambda v, size=size: value(v, size))) for size in (None, 3)]
  results = [fn(learnt) for fn in fns]
  jax.tree.map(close, *results)
  (_, gradient), h = results[0], 1e-6
  hyper = LEARNABLE[name]
  up, down = (fns[0](learnt | {hyper: learnt[hyper] + s})[0] for s in (h, -h))
  close(gradient[hyper], (up - down) / (2 * h), rtol=1e-5)
  assert gradient[hyper] != 0


@every_loss
def test_masked_is_removed(name, x64):
  """What a masked row holds, NaN and unknown labels included, changes nothing."""
  f = program(name)
  where = np.ones(N, bool)
  where[[0, 5]] = False
  for i, miner, j, distance in _table(name):
    b = batch(name, seed=11) | {"where": where}
    (value, _), gradient = f(i, j, b)
    x, y, weights = b["x"].copy(), b["y"].copy(), b["weights"].copy()
    x[~where], y[~where] = [[np.nan] * D, [np.inf, -1e300, 1.0]], [-3, CLASSES]
    weights[~where] = [7.0, 0.0]
    garbage, gradient_with_garbage = f(i, j, b | {"x": x, "y": y, "weights": weights})
    assert value == garbage[0]
    jax.tree.map(np.testing.assert_array_equal, gradient, gradient_with_garbage)
    assert not np.any(gradient["x"][~where])
    small = {k: v if k == "params" else v[where] for k, v in b.items()}
    close(value, _expected(name, miner, distance, small))


@every_loss
def test_weights_are_replicas(name, x64):
  b = batch(name, seed=19)
  repeats = np.array([1, 0, 2, 1, 3, 1, 2, 1])
  f = compiled(
    jax.value_and_grad(
      lambda p, x, y, w: LOSS[name](x, y, params=p, weights=w, **OPTIONS[name]), argnums=(0, 1)
    )
  )
  value, (of_params, of_x) = f(b["params"], b["x"], b["y"], repeats.astype(float))
  index = np.repeat(np.arange(N), repeats)
  again, (of_params_again, of_copies) = f(
    b["params"], b["x"][index], b["y"][index], np.ones(len(index))
  )
  close(value, again)
  jax.tree.map(close, of_params, of_params_again)
  close(of_x, np.stack([of_copies[index == i].sum(0) for i in range(N)]))


@every_loss
def test_nan_is_never_hidden(name, x64):
  f = program(name)
  for i, _, j, _ in _table(name):
    b = batch(name, seed=17)
    x, infinite, y = b["x"].copy(), b["x"].copy(), b["y"].copy()
    x[4] = np.nan
    infinite[2, 1] = np.inf
    params = {k: np.where(np.arange(CLASSES) == 4, np.nan, v.T).T for k, v in b["params"].items()}
    negative, unknown = y.copy(), y.copy()
    negative[1], unknown[6] = -1, CLASSES
    changes = [{"x": x}, {"x": infinite}, {"params": params}, {"y": negative}, {"y": unknown}]
    no_weight = np.array([1.0, 0, 1, 1, 0, 1, 0, 1])
    changes += [{"weights": no_weight} | c for c in (changes[0], changes[3], changes[4])]
    for change in changes:
      (value, by_reducer), _ = f(i, j, b | change)
      assert np.isnan(value) and all(np.any(np.isnan(v)) for v in by_reducer.values()), change


@every_loss
def test_other_values_compile_nothing(name, x64):
  f = program(name)
  f(0, 0, batch(name))
  before = len(f.traces)
  for seed in range(3):
    f(1, seed, batch(name, seed) | {"y": np.arange(N) // (seed + 2), "where": np.arange(N) > seed})
  assert len(f.traces) == before and f._cache_size() == 1


@every_loss
def test_vmap_is_a_loop(name, x64):
  f = program(name)
  batches = [batch(name, seed) | {"where": np.arange(N) != seed} for seed in range(3)]
  stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
  mapped = f.over_batches(1, 3, stacked)
  for k, b in enumerate(batches):
    jax.tree.map(lambda many, one, k=k: close(many[k], one), mapped, f(1, 3, b))


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_degenerate_is_finite_and_zero_of_nothing(name, dtype):
  f = program(name, defaults=True, names=ALL_DISTANCES)
  b = batch(name, seed=1, dtype=np.float32)
  on_the_vectors = np.float32(vectors(b["params"]).reshape(CLASSES, -1, D)[b["y"], 0])
  same = {k: np.broadcast_to(v[:1, ..., :1, :], v.shape) if v.ndim == 3 else
          np.broadcast_to(v[:1], v.shape) for k, v in b["params"].items()}  # fmt: skip
  batches = {
    "one_class": {"y": np.zeros(N, int)},
    "all_equal": {"x": np.full((N, D), 0.37)},
    "all_zero": {"x": np.zeros((N, D))},
    "tiny": {"x": 1e-30 * b["x"]},
    "large": {"x": 1e2 * b["x"]},
    "on_the_vectors": {"x": on_the_vectors},
    "opposite": {"x": -on_the_vectors},
    "equal_vectors": {"params": same},
    "zero_vectors": {"params": jax.tree.map(np.zeros_like, b["params"])},
    "all_masked": {"where": np.zeros(N, bool)},
    "no_weight": {"weights": np.zeros(N, np.float32)},
  }
  for case, changes in batches.items():
    changed = b | changes
    changed["x"] = jnp.asarray(changed["x"], dtype)
    for i, miner in enumerate(MINERS):
      for j, distance in enumerate(ALL_DISTANCES):
        (value, by_reducer), gradient = jax.device_get(f(i, j, changed))
        where = (case, miner, distance)
        assert value.dtype == np.float32 and gradient["x"].dtype == dtype
        assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves((value, gradient))), where
        assert all(np.all(np.isfinite(v)) for v in by_reducer.values()), where
        if case in ("all_masked", "no_weight"):
          assert not np.any(gradient["x"]), where
          assert name == "soft_triple" or value == 0, where
          assert not np.any(by_reducer["none"]), where


@every_loss
def test_single_class(name):
  """Nothing to tell apart; ProxyNCA, which compares with the others only, has no element."""
  x, y = jnp.ones((2, D)), jnp.zeros(2, int)
  f = compiled(
    jax.value_and_grad(lambda p, x: LOSS[name](x, y, params=p, **OPTIONS[name]), argnums=(0, 1))
  )
  value, gradient = f(init(name, classes=1), x)
  assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
  if name not in ("proxy_anchor", "soft_triple"):
    assert value == 0


@pytest.mark.slow
@every_loss
def test_jit_is_eager_as_called_by_a_user(name):
  b = batch(name, seed=23, dtype=np.float32)
  options = {"params": b["params"], "mining_fn": mining.hardest_negative}
  static = jax.jit(LOSS[name], static_argnames=("mining_fn", "block_size"))
  if name == "sphereface":
    options["margin"] = 3
    static = jax.jit(LOSS[name], static_argnames=("mining_fn", "block_size", "margin"))
  eager = LOSS[name](b["x"], b["y"], **options)
  for block_size in (None, 3):
    close(static(b["x"], b["y"], block_size=block_size, **options), eager, rtol=2e-6)


@pytest.mark.parametrize("name", ["proxy_nca", "proxy_anchor", "soft_triple", "sphereface"])
def test_expanded_rows_and_random_miners(name, x64):
  """Miners that make more rows of an anchor, and random ones: the same in blocks as whole."""
  b = batch(name, seed=29)
  miner = mining.chain(mining.expand_positives(), mining.random_negative)
  value = lambda x, size: LOSS[name](
    x, b["y"], params=b["params"], mining_fn=miner, key=jax.random.key(3), block_size=size,
    reduce_fn=reducers.sum, **OPTIONS[name],
  )  # fmt: skip
  whole, blocked = (compiled(lambda x, size=size: value(x, size))(b["x"]) for size in (None, 3))
  close(blocked, whole)
  assert np.isfinite(whole) and whole != 0
