"""Laws of the engine, on one loss of each kind of row function: blocks, chosen columns, devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdml import distances, losses, mining
from jaxdml.losses import _blocks, _engine, reducers
from jaxdml.types import Refs, Rows
from tests.losses import table, test_contract
from tests.losses.table import (
  DEGENERATE,
  DISTANCES,
  GROUPS,
  KINDS,
  OPTIONS,
  PARAMETRIC,
  PARAMETRIC_KINDS,
  TUPLE_KINDS,
  D,
  N,
  batch,
  compiled,
  value_and_gradients,
)

every_kind = pytest.mark.parametrize("name", KINDS.values())
# What needs statistics of all pairs goes the long way.
TWO_PASS = {"histogram", "lifted_structure"}


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def same(actual, wanted):
  chex.assert_trees_all_close(actual, wanted, rtol=1e-9, atol=1e-11)


def busy(name, seed=4):
  """A batch with a mask, weights and ids that are not the slots."""
  b = batch(seed, name=name) | {"where": np.arange(N) != 5, "ids": np.arange(N)[::-1].copy()}
  return b | {"weights": np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1], float)}


# Blocks of anchors.


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "group", "size"),
  [(name, group, 3) for name, group in table.CASES if name in KINDS.values()]
  + [(name, "one_row", size) for name in ("margin", "histogram") for size in (1, 5, 64)],
)
def test_blocks_change_nothing(name, group, size):
  """With every miner, through the loss's default distance and reducer."""
  miners = [miner.fn for miner in GROUPS[group].values()]

  def over_miners(size, b):
    of = lambda i: value_and_gradients(
      name, b, mining_fn=mining.switch(i, *miners), block_size=size
    )
    return jax.lax.map(of, jnp.arange(len(miners)))

  whole, in_blocks = compiled(lambda b: (over_miners(N, b), over_miners(size, b)))(busy(name))
  assert np.any(whole[0]) and np.any(whole[1]["x"])
  same(in_blocks, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "margin", "histogram"])
def test_every_reducer_in_blocks(name):
  """Those that are linear in the rows, and the same ones hidden from the engine in a lambda."""

  def both(b):
    result = []
    for reduce in table.REDUCERS:
      fn = reducers.create(reduce)
      hidden = lambda rows, w, fn=fn: jnp.sum(fn(rows, w))
      ways = [hidden] if reduce == "none" else [hidden, fn]
      whole = value_and_gradients(name, b, reduce_fn=hidden, block_size=N)
      of = functools.partial(value_and_gradients, name, b, block_size=4)
      result.append((whole, [of(reduce_fn=way) for way in ways]))
    return result

  for whole, in_blocks in compiled(both)(busy(name)):
    assert np.any(whole[0])
    for way in in_blocks:
      same(way, whole)


@pytest.mark.slow
@every_kind
def test_inside_scan_and_checkpoint(name):
  """As a scanned training step has it: what the engine closes over must not leak its tracers."""

  def steps(by, b, size, wrap):
    def step(total, scale):
      of = wrap(lambda x: table.call(name, b | by | {"x": x}, block_size=size))
      return total + of(scale * by["x"] + 0.1 * total) * (1.0 + scale), None

    return jax.lax.scan(step, 0.0, jnp.array([1.0, 0.8]))[0]

  def gradients(b):
    by = table.learnt(b) | {"weights": b["weights"]}
    of = lambda size, wrap: jax.value_and_grad(lambda by: steps(by, b, size, wrap))(by)
    return of(N, lambda fn: fn), of(3, jax.checkpoint)

  plain, checkpointed = compiled(gradients)(busy(name))
  assert np.any(plain[0]) and np.any(plain[1]["x"])
  same(checkpointed, plain)


def test_blocks_inside_vmap_are_a_loop():
  batches = [batch(seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *a: np.stack(a), *batches)

  def both(stacked):
    each = [
      functools.partial(value_and_gradients, name, block_size=4)
      for name in ("contrastive", "lifted_structure", "triplet")
    ]
    return [(jax.vmap(one)(stacked), jax.lax.map(one, stacked)) for one in each]

  for mapped, looped in compiled(both)(stacked):
    assert np.any(mapped[0])
    same(mapped, looped)


@pytest.mark.slow
@every_kind
def test_the_engine_chooses_blocks_itself(name, monkeypatch):
  """With a budget that is too small for the batch, through one row an anchor and through more."""
  sizes, asked, split = set(), set(), _blocks.split
  monkeypatch.setattr(_blocks, "split", lambda *args: (sizes.add(args[2]), split(*args))[1])
  expand = mining.create("expand_positives", max_positives=2)

  def small(n, elements):
    asked.add(elements)
    return _blocks.Sizes(4, n)

  def both(b):
    of = functools.partial(value_and_gradients, name, b)
    whole = [of(mining_fn=m, block_size=N) for m in (None, expand)]
    assert not sizes
    monkeypatch.setattr(_blocks, "CPU_ELEMENTS", 0)
    monkeypatch.setattr(_blocks, "default_sizes", small)
    return whole, [of(mining_fn=m) for m in (None, expand)]

  whole, chosen = compiled(both)(busy(name))
  anchors, columns = (table.CLASSES, N) if name == "proxy_anchor" else (N, N)
  if name in PARAMETRIC and name != "proxy_anchor":
    columns = table.CLASSES * (table.PER_CLASS if name == "soft_triple" else 1)
  assert asked == {columns, 2 * columns} and 4 in sizes and sizes <= {4, anchors}
  same(chosen, whole)


def _blocks_in(text):
  """Anchors of a block in the text of a lowered program: 4096 = blocks x size."""
  return {
    size for size in (2**k for k in range(13)) if f"tensor<{4096 // size}x{size}xi32>" in text
  }


@pytest.mark.parametrize("mine", [None, "nearest_positive+semihard_negative"])
def test_blocks_are_those_of_the_platform_lowered_for(mine):
  """A step for a TPU may be compiled on a CPU machine: the host's backend says nothing."""
  x, y = jax.ShapeDtypeStruct((4096, 8), np.float32), jax.ShapeDtypeStruct((4096,), np.int32)
  mine = mine and mining.create(mine)
  traced = jax.jit(jax.grad(lambda x, y: losses.margin_loss(x, y, mining_fn=mine))).trace(x, y)
  text = {
    platform: traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "tpu", "cuda")
  }
  # 16,777,216 distances: 128 anchors at a time in a CPU's cache, all at once in other memory.
  sizes = _blocks.default_sizes(4096, 4096)
  assert sizes == (256, 4096)
  assert sizes.cpu in _blocks_in(text["cpu"])
  assert not _blocks_in(text["tpu"]) & {sizes.cpu} and not _blocks_in(text["cuda"]) & {sizes.cpu}
  both = traced.lower(lowering_platforms=("cpu", "tpu")).as_text()
  assert sizes.cpu in _blocks_in(both)


def test_default_sizes(monkeypatch):
  size = lambda n, elements: _blocks.default_sizes(n, elements).cpu
  # The more references, the more anchors add to their gradient at once, within the memory.
  assert [size(2**16, 2**k) for k in (13, 14, 15, 16, 17, 18)] == [128, 256, 512, 256, 128, 64]
  assert _blocks.default_sizes(2**13, 2**13).other == 2**13
  assert _blocks.default_sizes(2**15, 2**20).other == 64
  monkeypatch.setattr(_blocks, "CPU_ELEMENTS", 2**12)
  assert size(64, 64) == 64  # just fits
  assert size(65, 64) == 65  # 128 anchors may take 16 times as much
  assert size(4096, 64) == 128
  assert size(300, 64) == 100  # three even blocks
  assert size(4096, 16) == 256
  assert size(4096, 600) == 64  # 109 would fit: a power of two below it
  assert size(4096, 2**20) == 8  # never below 8
  assert size(5, 2**20) == 5
  for n in (9, 100, 1000, 12345):
    for columns in (10, 1000, 10**6):
      assert 1 <= size(n, columns) <= n
      assert size(n, columns) <= 8 or size(n, columns) * columns <= 2**16


def blocks_of(cut):
  """Rows that are cut already, alike on every platform."""
  return _blocks.Blocks(cut, lambda rows, size: rows, _blocks.Sizes(1, 1))


def test_sum_blocks_sums_values_aux_and_gradients():
  """Of blocks, of what they share, and of floats that the function closes over."""
  cut = {"a": jnp.arange(6.0).reshape(3, 2), "k": jnp.arange(3)}

  def total(a, shared, captured, scale):
    def fn(block, shared):
      value = jnp.sum(block["a"] ** 2 * shared) * captured + block["k"]
      return value, (block["k"], jnp.sum(block["a"]))

    value, aux = _blocks.sum_blocks(fn, blocks_of(cut | {"a": a}), shared)
    return scale * value, aux

  given = (cut["a"], jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array(0.5))
  (value, aux), gradients = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)(*given)
  squares = np.arange(6.0).reshape(3, 2) ** 2
  inner = np.sum(squares * [1, 2])
  same(value, 0.5 * (3 * inner + 0 + 1 + 2))
  same(aux, (0 + 1 + 2, 15.0))
  same(gradients[0], 0.5 * 3 * 2 * np.arange(6.0).reshape(3, 2) * [1, 2])
  same(gradients[1], 0.5 * 3 * squares.sum(axis=0))
  same(gradients[2], 0.5 * inner)
  same(gradients[3], 3 * inner + 3)


def test_gradients_of_many_blocks_add_up_in_float32():
  """Half precision would stop at 256: the next block's 1 is less than half a step there."""
  ones = jnp.ones(2, jnp.bfloat16)
  blocks = blocks_of(jnp.ones((512, 1)))
  of_block = lambda block, shared: (jnp.sum(block[0] * shared), ())
  gradient = jax.grad(lambda shared: _blocks.sum_blocks(of_block, blocks, shared)[0])(ones)
  np.testing.assert_array_equal(np.float32(gradient), [512, 512])


def test_split_pads_with_the_last_row():
  cut, real = _blocks.split({"a": jnp.array([[1], [2], [3], [4], [5]])}, 5, 3)
  np.testing.assert_array_equal(cut["a"][..., 0], [[1, 2, 3], [4, 5, 5]])
  np.testing.assert_array_equal(real, [[True, True, True], [True, True, False]])


@pytest.mark.slow
def test_rows_that_a_miner_makes_of_padding_belong_to_no_anchor():
  """A row function of your own may give something for a row that has no pair."""
  b = batch()
  ones = lambda pairs, inputs: Rows.of_anchors(*[jnp.ones(len(pairs.anchor))] * 2)
  counted = functools.partial(
    _engine.from_rows, ones, b["x"], b["y"], distances.euclidean, reducers.none,
    mining_fn=mining.create("expand_positives"),
  )  # fmt: skip
  same(counted(block_size=3), np.full(N, float(N)))


@pytest.mark.parametrize("loss", ["contrastive", "margin"])
def test_products_of_matrices_are_not_computed_again(loss):
  """Forward, and backward for both sides; with two denominators once more, to find those."""
  y = batch()["y"]
  of = lambda x: losses.LOSSES[loss].fn(x, y, block_size=N // 2)
  text = jax.jit(jax.value_and_grad(of)).lower(batch()["x"]).as_text()
  assert text.count("stablehlo.dot_general") == {"contrastive": 4, "margin": 3}[loss]


# Columns that a miner names.

MINERS = {
  "eps_semihard": mining.create("nearest_positive+semihard_negative"),
  "batch_hard": mining.create("hardest_positive+hardest_negative"),
  "eps_random": mining.create("nearest_positive+random_negative"),
  "filtered": mining.create("nearest_positive+hardest_negative+multi_similarity_filter"),
  "pairs_semihard": mining.create("expand_positives+semihard_negative", max_positives=2),
}
# Of these an anchor has more rows than one, of which each has its own columns: the long way.
MORE_ROWS = {"pairs_semihard"}


@functools.cache
def chosen(name, defaults=False, miners=tuple(MINERS), hows=("named", "blocks", "masks")):
  """batch -> {(miner, how): (value, by reducer), gradients}; and how often columns were picked."""
  picks = []

  def value(by, b, miner, size):
    options = {
      "mining_fn": miner,
      "distance_fn": distances.cosine,
      "reduce_fn": table.all_reducers(table.default_reducer(name)),
      "block_size": size,
    }
    b = b | by
    if defaults:
      return losses.LOSSES[name].fn(b["x"], b["y"], **table.arguments(name, b) | options)
    return table.call(name, b, **options)

  def all_ways(b):
    def pick(*args):
      picks.append(args)
      return original(*args)

    original, _engine._chosen = _engine._chosen, pick
    try:
      results = {}
      for name in miners:
        miner = MINERS[name]
        ways = {"named": (miner, None), "blocks": (miner, 3), "masks": (mining.switch(0, miner), N)}
        for how in hows:
          by = table.learnt(b) | {"weights": b["weights"]}
          gradient = jax.value_and_grad(value, has_aux=True)
          results[name, how] = gradient(by, b, *ways[how])
      return results
    finally:
      _engine._chosen = original

  return compiled(all_ways), picks


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [name for name in TUPLE_KINDS if name != "lifted_structure"] + ["proxy_anchor"]
)
def test_named_columns_are_the_masks(name):
  """Losses with class vectors know a class by its column, and see all of them."""
  fn, picks = chosen(name)
  b = batch(seed=4, name=name) | {"weights": np.array([1.0, 0, 2, 1, 1, 3, 1, 1, 1, 1])}
  b |= {"where": np.arange(N) != 6, "ids": np.array([0, 1, 2, 0, 4, 5, 6, 7, 8, 9])}
  if name in PARAMETRIC:  # so many classes that copies of two would be few
    b["params"] = jax.tree.map(np.float64, table.init(name, 0, 12))
  results = jax.device_get(fn(b))
  long_way = name in TWO_PASS or name in PARAMETRIC
  assert len(picks) == (0 if long_way else 2 * len(MINERS.keys() - MORE_ROWS))
  for (miner, how), actual in results.items():
    chex.assert_trees_all_close(actual, results[miner, "masks"], rtol=1e-9, atol=1e-12)
    assert np.any(actual[1]["x"]), (miner, how, "the gradient is zero everywhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", TUPLE_KINDS)
def test_named_columns_of_degenerate_batches(name):
  # One miner each way, short and long: the others differ in what they choose alone.
  with jax.enable_x64(False):
    fn, _ = chosen(name, True, ("eps_semihard", "pairs_semihard"), ("named", "masks"))
    for case, changes in DEGENERATE.items():
      b = batch(seed=1) | changes
      b |= {"x": np.float32(b["x"]), "weights": np.float32(b["weights"])}
      results = jax.device_get(fn(b))
      for (miner, how), actual in results.items():
        about = f"{case}, {miner}, {how}"
        chex.assert_tree_all_finite(actual)
        # Where all points are equal a gradient is a difference of roundings times a steep slope.
        np.testing.assert_allclose(
          actual[0][0], results[miner, "masks"][0][0], rtol=1e-4, atol=1e-5, err_msg=about
        )


def _triplet(x, mine, **options):
  y = jnp.asarray(batch()["y"])
  return losses.triplet_loss(x, y, mining_fn=mine, margin=0.4, **options)


def test_a_mask_put_in_place_of_the_miners_is_what_counts():
  """The columns that were named before say nothing about it, in a chain or around it."""
  x = jnp.asarray(batch()["x"], jnp.float32)
  first = lambda mask: mask & (jnp.cumsum(mask, axis=1) == 1)
  only_first = lambda pairs: pairs._replace(
    positive=first(pairs.positive), negative=first(pairs.negative)
  )
  y = batch()["y"]
  same_class = y[:, None] == y[None, :]
  widened = lambda pairs: pairs._replace(positive=same_class & ~np.eye(N, dtype=bool))

  def then_first(pairs):
    mined = MINERS["batch_hard"](pairs)
    return mined._replace(positive=first(pairs.positive), negative=first(pairs.negative))

  assert _triplet(x, then_first) == _triplet(x, only_first) != _triplet(x, MINERS["batch_hard"])
  # Behind two miners that leave a partner each, all the positives again.
  mine = mining.chain(MINERS["batch_hard"], widened)
  np.testing.assert_allclose(_triplet(x, mine), _triplet(x, mining.hardest_negative), rtol=1e-6)
  assert abs(_triplet(x, mine) - _triplet(x, MINERS["batch_hard"])) > 1e-3


def test_a_nan_that_no_anchor_selects_still_shows():
  x, y = np.float32(batch()["x"]), batch()["y"]
  row = int(np.flatnonzero(y == 4)[0])  # alone in its class
  x[row] = np.nan
  where = np.arange(N) != row
  assert np.isfinite(_triplet(jnp.asarray(x), MINERS["eps_semihard"], where=where))
  assert np.isnan(_triplet(jnp.asarray(x), MINERS["eps_semihard"]))


def test_references_of_their_own_get_gradients():
  """A memory or another view: gradients land on the references that were picked, and only there."""
  x, y = jnp.asarray(batch()["x"], jnp.float32), jnp.asarray(batch()["y"])
  others = jnp.asarray(batch(seed=7)["x"], jnp.float32)
  of = lambda others, mine: _triplet(x, mine, refs=Refs(others, y))
  mine = MINERS["eps_semihard"]
  actual = jax.grad(of)(others, mine)
  np.testing.assert_allclose(actual, jax.grad(of)(others, mining.switch(0, mine)), atol=1e-6)
  assert np.any(actual)


def test_a_gpu_adds_gradients_in_one_order():
  """By sorting: no scatter that adds, whose order is left to a GPU's threads."""
  x, y = jax.ShapeDtypeStruct((40, 3), np.float32), np.repeat(np.arange(10), 4)
  of = lambda x: losses.triplet_loss(x, y, mining_fn=MINERS["eps_semihard"])
  traced = jax.jit(jax.grad(of)).trace(x)
  text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu", "cuda")}
  scatters = {platform: t.count('"stablehlo.scatter"') for platform, t in text.items()}
  sorts = {platform: t.count('"stablehlo.sort"') for platform, t in text.items()}
  assert scatters["cuda"] < scatters["cpu"] == scatters["tpu"]
  assert sorts["cuda"] > sorts["cpu"] == sorts["tpu"]


@pytest.mark.parametrize("index", [[0, 0, 0, 0], [4, 2, 2, 4], [3, 1, 2, 0], [4, 4, 1, 0]])
def test_sum_sorted_is_segment_sum(index):
  values = jnp.arange(8.0).reshape(4, 2)
  index = jnp.asarray(index)
  actual = _engine.sum_sorted(values, index, 5)
  np.testing.assert_array_equal(actual, jax.ops.segment_sum(values, index, 5))


def test_few_partners_are_worth_copying_and_many_are_not(monkeypatch):
  picks = []
  original = _engine._chosen
  monkeypatch.setattr(_engine, "_chosen", lambda *a: (picks.append(1), original(*a))[1])

  def copies(n, *mines, **options):
    before = len(picks)
    x, y = jnp.zeros((n, 2)), jnp.zeros(n, int)
    jax.eval_shape(
      lambda x: losses.triplet_loss(x, y, mining_fn=mining.chain(*mines), **options), x
    )
    return len(picks) - before

  k_of = lambda k: (mining.nearest_positives(k=k), mining.hardest_negatives(k=k))
  assert copies(16, *k_of(1)) and copies(16, *k_of(2))
  assert not copies(16, *k_of(3))  # 6 copies of 16 embeddings
  assert copies(64, *k_of(4)) and not copies(64, *k_of(5))
  assert not copies(64, mining.nearest_positive)  # all the negatives
  assert not copies(64, *k_of(1), lambda pairs: pairs)
  assert not copies(64, *k_of(1), refs=Refs(jnp.zeros((64, 9, 2)), jnp.zeros((64, 9))))


# Devices; all losses are in the contract.


def by_pmap(device):
  return jax.pmap(device, axis_name="batch", in_axes=(None, 0, 0, 0, 0))


def by_shard_map(device):
  def local(learnt, *data):
    result = device(learnt, *(a[0] for a in data))
    return jax.tree.map(lambda a: a[None], result)

  mesh = Mesh(np.array(jax.devices()[: test_contract.DEVICES]), ("batch",))
  spec = PartitionSpec("batch")
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(PartitionSpec(), *[spec] * 4), out_specs=spec, check_vma=False
  )
  return compiled(mapped)


@pytest.mark.slow
@every_kind
def test_pmap_and_shard_map_in_blocks_are_one_device(name):
  mine = {} if name in PARAMETRIC else {"mining_fn": mining.nearest_positive}
  one = test_contract.on_one_device(name, **mine)
  test_contract.check_devices(name, by_pmap, *one, **mine)
  test_contract.check_devices(name, by_shard_map, *one, block_size=2, **mine)


@pytest.mark.parametrize("name", ["proxy_anchor", "soft_triple"])
def test_eleven_classes_on_eight_devices(name):
  """Two proxies a device and a half-filled one; the penalty counts once."""
  one = test_contract.on_one_device(name, classes=11)
  test_contract.check_devices(name, test_contract.by_vmap, *one)


def test_bad_example_on_one_device_is_nan_on_all():
  unknown, images = test_contract.LABELS.copy(), test_contract.IMAGES.copy()
  unknown[6, 0], images[3, 1, 2] = table.CLASSES, np.nan
  labels, given = test_contract.LABELS, test_contract.IMAGES
  for name in ("proxy_anchor", "cosface", "triplet"):
    learnt = {"encoder": test_contract.ENCODER, "params": table.init(name)}
    of = functools.partial(test_contract.user_loss, name, axis_name="batch")
    fn = test_contract.by_vmap(of)
    rest = (test_contract.WHERE, test_contract.WEIGHTS)
    assert np.all(np.isfinite(fn(learnt, given, labels, *rest)))
    assert np.all(np.isnan(fn(learnt, images, labels, *rest)))
    if name != "triplet":
      assert np.all(np.isnan(fn(learnt, given, unknown, *rest)))


@pytest.mark.parametrize("name", ["triplet", *PARAMETRIC_KINDS])
def test_random_mining_draws_the_same_on_any_number_of_devices(name):
  mine = {"mining_fn": mining.create("random_positive+random_negative"), "key": jax.random.key(5)}
  if name == "proxy_anchor":  # of a class without an example, too, a random one is drawn
    mine["mining_fn"] = mining.random_positive
  test_contract.check_devices(
    name, test_contract.by_vmap, *test_contract.on_one_device(name, **mine), **mine
  )


# Distances that the engine takes apart (`prepare`, `combine`) are themselves as functions.

M = 6
# One that reads norms too; one with statistics, one that asks for distances between references.
PRODUCTS = [(distance, "npair") for distance in DISTANCES]
PRODUCTS += [("hyperbolic", "lifted_structure"), ("signal_to_noise", "angular")]


def test_every_named_distance_is_taken_apart():
  for fn in (*DISTANCES.values(), distances.normalized(distances.hyperbolic())):
    assert isinstance(fn, distances.Distance), fn
  assert not isinstance(distances.normalized(lambda x, y: -x @ y.T), distances.Distance)


@pytest.mark.slow
@pytest.mark.parametrize(("distance", "name"), PRODUCTS)
def test_a_distance_taken_apart_is_the_plain_function(distance, name):
  """Value and gradients of anchors and references: whole, in blocks, shared and private."""
  rng, b = np.random.default_rng(8), batch(seed=8)
  shared = Refs(rng.normal(size=(M, D)), np.array([0, 1, 2, 3, 0, 1]), np.arange(M) != 2)
  private = Refs(rng.normal(size=(N, M, D)), *(np.stack([a] * N) for a in shared[1:3]))
  fn = DISTANCES[distance]

  def of(distance_fn, refs, block_size):
    def value(x, embeddings):
      given = refs if refs is None else refs._replace(embeddings=embeddings)
      return losses.LOSSES[name].fn(
        x, b["y"], refs=given, distance_fn=distance_fn, block_size=block_size, **OPTIONS[name]
      )

    embeddings = np.zeros((M, D)) if refs is None else refs.embeddings
    return jax.value_and_grad(value, argnums=(0, 1))(b["x"], embeddings)

  def all_ways():
    return [
      (of(lambda x, y: fn(x, y), refs, N), [of(fn, refs, size) for size in (None, 4)])
      for refs in (None, shared, private)
    ]

  for plain, product in compiled(all_ways)():
    assert plain[0] > 0 and np.any(plain[1][0])
    for way in product:
      chex.assert_trees_all_close(way, plain, rtol=1e-9, atol=1e-10)


def test_references_are_prepared_once_however_many_blocks():
  calls = []

  @distances.product_distance(lambda x: (calls.append(x.shape), (x, ()))[1])
  def counted(products, x_terms, y_terms):
    return -products

  b = batch()
  refs = Refs(np.ones((M, D)), np.arange(M))
  losses.margin_loss(b["x"], b["y"], refs=refs, distance_fn=counted, block_size=2)
  assert sorted(calls) == [(M, D), (N, D)]


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["normalized_euclidean", "hyperbolic", "signal_to_noise"])
def test_half_precision_is_float32_inside(distance):
  """bfloat16 embeddings in blocks: their float32 values' loss, gradients in their own dtype."""
  with jax.enable_x64(False):
    b, fn = batch(seed=2), DISTANCES[distance]
    half = jnp.asarray(b["x"], jnp.bfloat16)
    of = lambda size: jax.value_and_grad(
      lambda x: losses.soft_margin_triplet_loss(x, b["y"], distance_fn=fn, block_size=size)
    )
    (value, gradient), (wide, wide_gradient) = compiled(
      lambda x: (of(3)(x), of(None)(x.astype(jnp.float32)))
    )(half)
    assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, wide, rtol=1e-4)
    scale = np.max(np.abs(wide_gradient))
    np.testing.assert_allclose(gradient.astype(np.float32), wide_gradient, atol=0.02 * scale)
