"""The cross-batch queue against a plain deque, on one device and eight, and what it refuses."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining, refs
from jaxdml.refs import memory
from jaxdml.types import Refs
from tests.losses.table import compiled

D = 3


def batch(rng, n):
  """Embeddings, labels, record ids and a mask of about two thirds."""
  x = rng.normal(size=(n, D)).astype(np.float32)
  return x, rng.integers(0, 5, n), rng.integers(0, 50, n), rng.random(n) < 0.67


def content(queue):
  """[(embedding, label, id)] from the oldest to the newest."""
  size, filled, cursor = len(queue.labels), int(queue.filled), int(queue.cursor)
  slots = [(cursor - filled + k) % size for k in range(filled)]
  return [
    (tuple(np.asarray(queue.embeddings[s]).tolist()), int(queue.labels[s]), int(queue.ids[s]))
    for s in slots
  ]


def push(reference, x, labels, ids, where):
  """The same batch into a deque(maxlen=size)."""
  for i in np.flatnonzero(where):
    reference.append((tuple(x[i].tolist()), int(labels[i]), int(ids[i])))


@pytest.mark.parametrize(("size", "n"), [(7, 3), (6, 6), (5, 8), (1, 4), (64, 5)])
def test_first_in_first_out_like_a_deque(size, n):
  rng = np.random.default_rng(size)
  step = jax.jit(
    lambda q, x, y, ids, where: memory.enqueue(q, x, y, ids=ids, where=where), donate_argnums=0
  )
  queue, reference = memory.init(size, D), collections.deque(maxlen=size)
  written = 0
  for count in range(60):
    x, labels, ids, where = batch(rng, n)
    if count % 10 == 3:
      where[:] = False
    x[~where] = np.nan
    queue = step(queue, x, labels, ids, where)
    push(reference, x, labels, ids, where)
    written += where.sum()
    assert content(queue) == list(reference)
    given = memory.refs(queue)
    np.testing.assert_array_equal(given.where, np.arange(size) < len(reference))
  assert written > 1.5 * size and step._cache_size() == 1


def test_without_ids_no_slot_is_any_anchor():
  queue = memory.init(5, D)
  assert np.all(queue.ids < 0)
  for _ in range(4):
    queue = memory.enqueue(queue, jnp.ones((3, D)), jnp.zeros(3, int))
    np.testing.assert_array_equal(queue.ids, [-1, -2, -3, -4, -5])
  # Not a stale record either: a slot written with an id and then without one forgets it.
  queue = memory.enqueue(queue, jnp.ones((5, D)), jnp.zeros(5, int), ids=jnp.arange(5))
  queue = memory.enqueue(queue, jnp.ones((5, D)), jnp.zeros(5, int))
  np.testing.assert_array_equal(queue.ids, [-1, -2, -3, -4, -5])


def test_extend_appends_the_memory_to_the_batch():
  queue = memory.enqueue(memory.init(3, 2, jnp.bfloat16), jnp.ones((2, 2)), jnp.array([7, 8]))
  x = jnp.full((2, 2), 0.1)
  given = memory.extend(Refs(x, jnp.array([1, 2]), None, jnp.array([4, 5])), queue)
  np.testing.assert_array_equal(given.embeddings[:, 0], np.float32([0.1, 0.1, 1.0, 1.0, 0.0]))
  np.testing.assert_array_equal(given.labels, [1, 2, 7, 8, 0])
  np.testing.assert_array_equal(given.where, [True, True, True, True, False])
  np.testing.assert_array_equal(given.ids, [4, 5, -1, -2, -3])
  # Without ids and with a mask of its own.
  given = memory.extend(Refs(x, jnp.array([1, 2]), jnp.array([True, False])), queue)
  np.testing.assert_array_equal(given.where, [True, False, True, True, False])
  assert np.all(given.ids < 0) and len(set(given.ids.tolist())) == 5


def test_no_gradient_reaches_the_memory():
  queue = memory.enqueue(memory.init(4, D), *batch(np.random.default_rng(0), 9)[:2])
  x, y = jnp.ones((2, D)), jnp.array([0, 1])

  def through_refs(x, kept):
    given = memory.extend(Refs(x, y), queue._replace(embeddings=kept))
    return jnp.sum(given.embeddings**2)

  to_x, to_kept = jax.grad(through_refs, argnums=(0, 1))(x, queue.embeddings)
  assert np.all(to_x == 2.0) and not np.any(to_kept)
  stored = lambda x: jnp.sum(memory.enqueue(queue, x, y).embeddings ** 2)
  assert not np.any(jax.grad(stored)(x))


def test_warm_up_masks_every_slot():
  rng = np.random.default_rng(0)
  x, y, _, _ = batch(rng, 6)
  y = np.arange(6) // 2
  queue = memory.enqueue(memory.init(4, D), *batch(rng, 9)[:2])

  def loss(x, queue, enabled):
    anchors, labels, ids, given = refs.create("all_pairs")(x, y)
    given = memory.extend(given, queue, enabled=enabled)
    return losses.contrastive_loss(anchors, labels, refs=given, ids=ids)

  both = compiled(jax.value_and_grad(loss))
  alone, gradient = compiled(jax.value_and_grad(lambda x: losses.contrastive_loss(x, y)))(x)
  warming, warming_gradient = both(x, queue, False)
  np.testing.assert_allclose(warming, alone, rtol=1e-6)
  np.testing.assert_allclose(warming_gradient, gradient, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(both(x, memory.init(4, D), True)[0], alone, rtol=1e-6)
  assert abs(both(x, queue, True)[0] - alone) > 1e-3 * alone
  assert not np.any(memory.refs(queue, enabled=False).where)


def test_an_image_is_not_its_own_easy_positive():
  """Easy positive sampling would pick the older embedding of the very same image."""
  x, y = jnp.array([[1.0, 0.0]]), jnp.array([0])
  older = jnp.array([[0.8, 0.6], [0.6, 0.8], [0.0, -1.0]])
  queue = memory.init(3, 2)
  queue = memory.enqueue(queue, older, jnp.array([0, 0, 1]), ids=jnp.array([11, 12, 13]))

  def loss(record):
    return losses.contrastive_loss(
      x, y, refs=memory.refs(queue), ids=jnp.array([record]), negative_margin=0.0,
      mining_fn=mining.nearest_positive,
    )  # fmt: skip

  np.testing.assert_allclose(loss(11), (1 - 0.6) ** 2 + 0.8**2, rtol=1e-6)
  np.testing.assert_allclose(loss(0), (1 - 0.8) ** 2 + 0.6**2, rtol=1e-6)


@pytest.mark.parametrize("by", ["pmap", "vmap"])
def test_eight_devices_hold_the_queue_of_one(by):
  devices, each, size = 8, 3, 17
  one = jax.jit(lambda q, *b: memory.enqueue(q, *b[:2], ids=b[2], where=b[3]))

  def enqueue(queue, x, y, ids, where):
    return memory.enqueue(queue, x, y, ids=ids, where=where, axis_name="batch")

  if by == "pmap":
    assert len(jax.devices()) == devices
    many = jax.pmap(enqueue, axis_name="batch", donate_argnums=0)
  else:
    many = jax.jit(jax.vmap(enqueue, axis_name="batch"))
  queue = memory.init(size, D)
  queues = jax.tree.map(lambda a: jnp.stack([a] * devices), queue)
  rng = np.random.default_rng(3)
  for _ in range(7):
    whole = batch(rng, devices * each)
    queue = one(queue, *whole)
    queues = many(queues, *(a.reshape(devices, each, *a.shape[1:]) for a in whole))
    for device in range(devices):
      for a, b in zip(queue, jax.device_get(queues), strict=True):
        np.testing.assert_array_equal(a, b[device])
  assert queue.filled == size and queue.cursor != 0


def test_layouts_number_anchors_by_record():
  x, y = jnp.ones((6, 2)), jnp.arange(6)
  records = jnp.array([5, 9, 7, 8, 6, 4])
  expected = {
    "all_pairs": (records, records),
    "npair": ([5, 7, 6], [9, 8, 4]),
    "triplet": ([5, 8], [[9, 7], [6, 4]]),
  }
  for name, (anchors, references) in expected.items():
    _, _, ids, given = refs.create(name)(x, y, ids=records)
    np.testing.assert_array_equal(ids, anchors)
    np.testing.assert_array_equal(given.ids, references)
  split = lambda a: a.reshape(3, 2, *a.shape[1:])
  layout = lambda x, y, ids: refs.create("npair")(x, y, "batch", ids=ids)
  _, _, ids, given = jax.vmap(layout, axis_name="batch")(split(x), split(y), split(records))
  np.testing.assert_array_equal(ids.ravel(), [5, 7, 6])
  np.testing.assert_array_equal(given.ids, [[9, 8, 4]] * 3)


QUEUE = memory.init(4, 2)
X, Y = jnp.ones((3, 2)), jnp.arange(3)
REFUSED = {
  "size": (lambda: memory.init(0, 2), r"size must be 1 to 2\^30 embeddings; got 0"),
  "size_large": (lambda: memory.init(2**31, 2), r"size must be .*; got 2147483648"),
  "dim": (lambda: memory.init(2, 0), "dim must be at least 1; got 0"),
  "embeddings": (
    lambda: memory.enqueue(QUEUE, jnp.ones((3, 5)), Y),
    r"embeddings must be \[n, 2\], the memory's dimension; got shape \(3, 5\)",
  ),
  "rank": (lambda: memory.enqueue(QUEUE, jnp.ones(2), Y), r"embeddings must be \[n, 2\]"),
  "labels": (lambda: memory.enqueue(QUEUE, X, Y[:2]), r"labels must be \[3\].*got shape \(2,\)"),
  "ids": (lambda: memory.enqueue(QUEUE, X, Y, ids=Y[:1]), r"ids must be \[3\]"),
  "where": (lambda: memory.enqueue(QUEUE, X, Y, where=Y[None] > 0), r"where must be \[3\]"),
  "refs_dim": (
    lambda: memory.extend(Refs(jnp.ones((3, 5)), Y), QUEUE),
    "the memory holds embeddings of dimension 2; got references of dimension 5",
  ),
  "private": (
    lambda: memory.extend(refs.create("triplet")(X, Y)[3], QUEUE),
    r"a memory is shared by all anchors: .* all_pairs and npair\), .* got shape \(1, 2, 2\)",
  ),
  "no_ids": (
    lambda: losses.contrastive_loss(X, Y, refs=memory.extend(Refs(X, Y), QUEUE)),
    r"refs\.ids is given without ids",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
  call, message = REFUSED[case]
  with pytest.raises(ValueError, match=message):
    call()


def test_refuses_types():
  with pytest.raises(TypeError, match=r"dtype must be floating point; got int32"):
    memory.init(4, 2, jnp.int32)
  with pytest.raises(TypeError, match=r"labels must be integers; got float32"):
    memory.enqueue(QUEUE, X, jnp.ones(3))
  with pytest.raises(TypeError, match=r"ids must be integers; got float32"):
    memory.enqueue(QUEUE, X, Y, ids=jnp.ones(3))
  with pytest.raises(TypeError, match=r"labels must be integers that int32 holds; got uint32"):
    memory.enqueue(QUEUE, X, Y.astype(jnp.uint32))
  with pytest.raises(TypeError, match=r"where must be bool, True where it is there; got int32"):
    memory.enqueue(QUEUE, X, Y, where=Y)
  with pytest.raises(ValueError, match=r"ids holds 4294967296, of which JAX would keep the lower"):
    memory.enqueue(QUEUE, X, Y, ids=np.array([0, 1, 2**32]))


def test_wide_labels_are_kept_whole_where_jax_has_them():
  """Two classes that are the same in their lower 32 bits stay two."""
  with jax.enable_x64(True):
    queue = memory.enqueue(memory.init(4, 2), np.eye(2), np.array([2**32, 0]), ids=[7, 2**40])
    assert queue.labels[:2].tolist() == [2**32, 0] and queue.ids[:2].tolist() == [7, 2**40]
    value = losses.contrastive_loss(
      np.array([[1.0, 1.0]]), np.array([2**32]), ids=[9], refs=memory.refs(queue),
      distance_fn=distances.euclidean, positive_margin=0.0, negative_margin=3.0,
    )  # fmt: skip
  # One positive and one negative, both at distance 1.
  assert value == pytest.approx(1.0 + 2.0**2)
