"""Anchors in blocks give the value and gradient of the whole, however the block size is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining
from jaxdml.losses import _blocks as blocks
from jaxdml.losses import reducers
from tests.losses.table import CASES, GROUPS, LOSSES, N, arguments, batch, compiled

LINEAR = ("mean", "mean_elements", "mean_nonzero", "sum")
BATCH = batch(seed=4) | {"where": np.arange(N) != 5, "ids": np.arange(N)[::-1].copy()}
BATCH["weights"] = np.array([1, 0, 2, 1, 1, 3, 1, 1, 2, 1], float)


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)


def loss_of(name, x, weights, b, **options):
  """The loss with its own distance and reducer, unless given others."""
  rest = arguments(b) | {"weights": weights}
  return losses.LOSSES[name].fn(x, b["y"], **rest, **(LOSSES[name] | options))


def value_and_gradients(name, b, **options):
  """(value, gradients of the embeddings and of the anchors' weights)."""
  fn = functools.partial(loss_of, name, b=b, **options)
  return jax.value_and_grad(fn, argnums=(0, 1))(b["x"], b["weights"])


@functools.cache
def over_miners(name, group, block_size):
  miners = [miner.fn for miner in GROUPS[group].values()]

  def one(miner, b):
    mine = mining.switch(miner, *miners)
    return value_and_gradients(name, b, mining_fn=mine, block_size=block_size)

  return compiled(lambda b: jax.lax.map(lambda i: one(i, b), jnp.arange(len(miners))))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "group", "block_size"),
  [(loss, group, 3) for loss, group in CASES]
  + [(loss, "one_row", size) for loss in ("margin", "histogram") for size in (1, 5, 64)],
)
def test_blocks_change_nothing(name, group, block_size):
  """With every miner, through the loss's default distance and reducer."""
  whole = over_miners(name, group, N)(BATCH)
  assert np.any(whole[0]) and np.any(whole[1][0])
  jax.tree.map(close, over_miners(name, group, block_size)(BATCH), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "margin", "lifted_structure", "histogram"])
def test_every_reducer_in_blocks(name):
  """Those that are linear in the rows, and the same ones hidden from the engine in a lambda."""

  def table(b):
    result = []
    for reduce in (*LINEAR, "none"):
      fn = reducers.create(reduce)
      hidden = lambda rows, w, fn=fn: jnp.sum(fn(rows, w))
      ways = (hidden, fn, functools.partial(fn)) if reduce in LINEAR else (hidden,)
      whole = value_and_gradients(name, b, reduce_fn=hidden, block_size=N)
      of = functools.partial(value_and_gradients, name, b, block_size=4)
      result.append((whole, [of(reduce_fn=way) for way in ways]))
    return result

  for whole, in_blocks in compiled(table)(BATCH):
    assert np.any(whole[0])
    for way in in_blocks:
      jax.tree.map(close, way, whole)


@pytest.mark.parametrize("name", LOSSES)
def test_the_engine_chooses_blocks_itself(name, monkeypatch):
  """With a budget that is too small for the batch, through one row an anchor and through more."""
  sizes, split = [], blocks.split
  monkeypatch.setattr(blocks, "split", lambda *args: (sizes.append(args[2]), split(*args))[1])
  expand = mining.create("expand_positives", max_positives=2)

  def both(b):
    whole = [value_and_gradients(name, b, mining_fn=m, block_size=N) for m in (None, expand)]
    assert not sizes
    monkeypatch.setattr(blocks, "_CPU_ELEMENTS", 8 * N)
    monkeypatch.setattr(blocks, "_CPU_ROWS", 1)
    return whole, [value_and_gradients(name, b, mining_fn=m) for m in (None, expand)]

  whole, chosen = compiled(both)(BATCH)
  # Twice, at least, for each of the two miners: 8 of 10 anchors would fit, 5 and 5 are even.
  assert len(sizes) >= 2 and set(sizes) == {5}
  jax.tree.map(close, chosen, whole)


def test_default_block_size(monkeypatch):
  # The more references, the more anchors add to their gradient at once, within the memory.
  sizes = [blocks.default_block_size(2**16, 2**k) for k in (13, 14, 15, 16, 17, 18)]
  assert sizes == [128, 256, 512, 256, 128, 64]
  monkeypatch.setattr(blocks, "_CPU_ELEMENTS", 2**12)
  assert blocks.default_block_size(64, 64) == 64  # just fits
  assert blocks.default_block_size(65, 64) == 65  # 128 anchors may take 16 times as much
  assert blocks.default_block_size(4096, 64) == 128
  assert blocks.default_block_size(300, 64) == 100  # three even blocks
  assert blocks.default_block_size(4096, 16) == 256
  assert blocks.default_block_size(4096, 600) == 64  # 109 would fit: a power of two below it
  assert blocks.default_block_size(4096, 2**20) == 8  # never below 8
  assert blocks.default_block_size(5, 2**20) == 5
  for n in (9, 100, 1000, 12345):
    for columns in (10, 1000, 10**6):
      size = blocks.default_block_size(n, columns)
      assert 1 <= size <= n and (size <= 8 or size * columns <= 2**16)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert blocks.default_block_size(2**13, 2**13) == 2**13
  assert blocks.default_block_size(2**15, 2**20) == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_inside_scan_and_checkpoint(name):
  """As a scanned training step has it: what the engine closes over must not leak its tracers."""

  def steps(b, block_size, wrap):
    def step(total, scale):
      value = wrap(
        lambda x, w: loss_of(name, scale * x, w, b, block_size=block_size) * (1.0 + scale)
      )
      return total + value(b["x"] + 0.1 * total, b["weights"]), None

    return jax.lax.scan(step, 0.0, jnp.array([1.0, 0.8]))[0]

  def gradients(b):
    of = lambda size, wrap: jax.value_and_grad(
      lambda x, w: steps(b | {"x": x, "weights": w}, size, wrap), argnums=(0, 1)
    )(b["x"], b["weights"])
    return of(N, lambda fn: fn), of(3, jax.checkpoint)

  plain, checkpointed = compiled(gradients)(BATCH)
  assert np.any(plain[0]) and np.any(plain[1][0])
  jax.tree.map(close, checkpointed, plain)


def test_blocks_inside_vmap_are_a_loop():
  stacked = {k: np.stack([batch(seed)[k] for seed in range(3)]) for k in BATCH}

  def both(stacked):
    each = [
      functools.partial(value_and_gradients, name, block_size=4)
      for name in ("contrastive", "lifted_structure", "triplet")
    ]
    return [(jax.vmap(one)(stacked), jax.lax.map(one, stacked)) for one in each]

  for mapped, looped in compiled(both)(stacked):
    assert np.any(mapped[0])
    jax.tree.map(close, mapped, looped)


def test_sum_blocks_sums_values_aux_and_gradients():
  """Of blocks, of what they share, and of floats that the function closes over."""
  cut = {"a": jnp.arange(6.0).reshape(3, 2), "k": jnp.arange(3)}

  def total(a, shared, captured, scale):
    def fn(block, shared):
      value = jnp.sum(block["a"] ** 2 * shared) * captured + block["k"]
      return value, (block["k"], jnp.sum(block["a"]))

    value, aux = blocks.sum_blocks(fn, cut | {"a": a}, shared)
    return scale * value, aux

  given = (cut["a"], jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array(0.5))
  (value, aux), gradients = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)(*given)
  squares = np.arange(6.0).reshape(3, 2) ** 2
  inner = np.sum(squares * [1, 2])
  close(value, 0.5 * (3 * inner + 0 + 1 + 2))
  close(aux, (0 + 1 + 2, 15.0))
  close(gradients[0], 0.5 * 3 * 2 * np.arange(6.0).reshape(3, 2) * [1, 2])
  close(gradients[1], 0.5 * 3 * squares.sum(axis=0))
  close(gradients[2], 0.5 * inner)
  close(gradients[3], 3 * inner + 3)


def test_split_pads_with_the_last_row():
  cut, real = blocks.split({"a": jnp.array([[1], [2], [3], [4], [5]])}, 5, 3)
  np.testing.assert_array_equal(cut["a"][..., 0], [[1, 2, 3], [4, 5, 5]])
  np.testing.assert_array_equal(real, [[True, True, True], [True, True, False]])


@pytest.mark.parametrize("loss", ["contrastive", "margin"])
def test_products_of_matrices_are_not_computed_again(loss):
  """Forward, and backward for both sides; with two denominators once more, to find those."""
  of = lambda x: losses.LOSSES[loss].fn(x, BATCH["y"], block_size=N // 2)
  text = jax.jit(jax.value_and_grad(of)).lower(BATCH["x"]).as_text()
  assert text.count("stablehlo.dot_general") == {"contrastive": 4, "margin": 3}[loss]
