"""A memory of 100,000 embeddings equals one big batch; one of 17,000,000 is counted right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining, refs
from jaxdml.refs import memory
from jaxdml.types import Refs
from tests.losses.table import TUPLE_KINDS, compiled

N, SIZE, D, CLASSES = 128, 100_000, 8, 20_000
MINERS = {
  "all": lambda pairs: pairs,
  "nearest_positive": mining.nearest_positive,
  "nearest_positive+semihard_negative": mining.chain(
    mining.nearest_positive, mining.semihard_negative
  ),
  "hardest": mining.chain(mining.hardest_positive, mining.hardest_negative),
}


@functools.cache
def filled(size, dim, batches):
  """(memory filled by `batches` batches of N, what its slots must hold: embeddings, labels)."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batches, N, dim)).astype(np.float32)
  y = rng.integers(0, CLASSES, (batches, N)).astype(np.int32)
  where = rng.random((batches, N)) < 0.99
  step = lambda queue, batch: (memory.enqueue(queue, *batch[:2], where=batch[2]), None)
  queue = jax.jit(lambda q, b: jax.lax.scan(step, q, b)[0])(memory.init(size, dim), (x, y, where))
  stored, labels = x[where], y[where]
  total = len(labels)
  newest = np.arange(max(total - size, 0), total)
  slots = np.empty(size, int)
  slots[newest % size] = newest
  return queue, stored[slots], labels[slots]


def both_ways(name, miners, x, y, queue, kept, kept_labels, miner):
  """(value, gradient) with the memory, and of one big batch with the gradient stopped on it."""
  mine = mining.switch(miner, *(MINERS[m] for m in miners))
  loss = functools.partial(losses.LOSSES[name].fn, mining_fn=mine)

  def with_memory(x):
    anchors, labels, ids, given = refs.create("all_pairs")(x, y)
    return loss(anchors, labels, refs=memory.extend(given, queue), ids=ids)

  def one_big_batch(x):
    big = jnp.concatenate([x, jax.lax.stop_gradient(kept)])
    ids = jnp.arange(len(big))
    given = Refs(big, jnp.concatenate([y, kept_labels]), None, ids)
    return loss(x, y, refs=given, ids=ids[: len(x)])

  return tuple(jax.value_and_grad(fn)(x) for fn in (with_memory, one_big_batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", TUPLE_KINDS)
def test_a_memory_of_100_000_is_one_big_batch(name):
  queue, kept, kept_labels = filled(SIZE, D, 800)
  assert queue.filled == SIZE and queue.cursor > 0
  np.testing.assert_array_equal(queue.embeddings, kept)
  np.testing.assert_array_equal(queue.labels, kept_labels)
  rng = np.random.default_rng(1)
  y = np.repeat(rng.permutation(CLASSES)[: N // 2], 2).astype(np.int32)
  x = rng.normal(size=(N, D)).astype(np.float32)
  # Every miner with some (pairs, softmax, triplets), one with the others.
  every = name in ("contrastive", "npair", "triplet")
  miners = list(MINERS) if every else ["nearest_positive+semihard_negative"]
  program = jax.jit(functools.partial(both_ways, name, miners))
  for index, miner in enumerate(miners):
    ours, big = program(x, y, queue, kept, kept_labels, index)
    assert np.isfinite(big[0]) and big[0] != 0 and np.any(big[1])
    np.testing.assert_allclose(ours[0], big[0], rtol=1e-6, err_msg=miner)
    scale = np.abs(big[1]).max()
    np.testing.assert_allclose(ours[1], big[1], rtol=1e-5, atol=1e-6 * scale, err_msg=miner)


@pytest.mark.slow
@pytest.mark.parametrize("name", TUPLE_KINDS)
def test_memory_slots_are_anchors_of_weight_zero(name):
  """Every example of one big batch an anchor, those of the memory with weight 0."""
  size, n = 24, 8
  rng = np.random.default_rng(2)
  x, kept = (rng.normal(size=(count, 4)).astype(np.float32) for count in (n, size))
  y, kept_labels = np.arange(n, dtype=np.int32) // 2, rng.integers(0, 6, size).astype(np.int32)
  queue = memory.enqueue(memory.init(size, 4), kept, kept_labels)
  weights = np.float32([1.0] * n + [0.0] * size)
  loss = functools.partial(losses.LOSSES[name].fn, mining_fn=mining.nearest_positive)

  def with_memory(x):
    anchors, labels, ids, given = refs.create("all_pairs")(x, y)
    return loss(anchors, labels, refs=memory.extend(given, queue), ids=ids)

  def one_big_batch(x):
    big = jnp.concatenate([x, kept])
    return loss(big, jnp.concatenate([y, kept_labels]), weights=weights)

  ours, big = compiled(
    lambda x: tuple(jax.value_and_grad(fn)(x) for fn in (with_memory, one_big_batch))
  )(x)
  assert big[0] != 0 and np.any(big[1])
  np.testing.assert_allclose(ours[0], big[0], rtol=2e-6)
  np.testing.assert_allclose(ours[1], big[1], rtol=2e-5, atol=2e-6 * np.abs(big[1]).max())


HUGE = 17_000_000
COMPARED = {
  "every_pair": (None, 150.0),
  "hardest": (mining.chain(mining.hardest_positive, mining.hardest_negative), 2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPARED)
def test_more_comparisons_than_int32_counts(case):
  """128 x 17,000,000 = 2.18e9 > 2^31, and more in a row than float32 counts one by one (2^24).

  What matters lies in the last slots; the closed form is summed in float64.
  """
  mining_fn, beta = COMPARED[case]
  x, y = np.linspace(-1, 1, N, dtype=np.float32)[:, None], np.arange(N, dtype=np.int32)
  near = np.concatenate([x + 0.5, x - 0.25])
  near_labels = np.concatenate([y, np.full(N, -2, np.int32)])
  far = HUGE - len(near)

  def almost_full():
    queue = memory.init(HUGE, 1)
    return queue._replace(
      embeddings=queue.embeddings + 100.0, labels=queue.labels - 3, cursor=jnp.int32(far),
      filled=jnp.int32(far),
    )  # fmt: skip

  queue = jax.jit(memory.enqueue, donate_argnums=0)(jax.jit(almost_full)(), near, near_labels)
  assert queue.filled == HUGE and queue.cursor == 0

  def loss(x, queue):
    return losses.margin_loss(
      x, y, refs=memory.refs(queue), ids=y, distance_fn=lambda a, b: jnp.abs(a - b.T),
      beta=beta, margin=0.0, reduce_fn=losses.reducers.mean_elements, mining_fn=mining_fn,
      block_size=4,
    )  # fmt: skip

  value, gradient = jax.jit(jax.value_and_grad(loss))(x, queue)
  anchors = x.astype(float)
  offset = anchors - near.astype(float).T  # [N, 2 N]; every positive is within beta and costs 0
  negative = y[:, None] != near_labels
  if case == "hardest":
    nearest = np.where(negative, np.abs(offset), np.inf).argmin(1)
    chosen = offset[np.arange(N), nearest]
    total, slope = np.sum(beta - np.abs(chosen)), -np.sign(chosen)
    count = 2 * N
  else:
    total = far * np.sum(beta - (100.0 - anchors)) + np.sum((beta - np.abs(offset)) * negative)
    slope = far - np.sum(np.sign(offset) * negative, axis=1)
    count = N * HUGE
  np.testing.assert_allclose(value, total / count, rtol=1e-6)
  np.testing.assert_allclose(gradient[:, 0], slope / count, rtol=1e-5)
