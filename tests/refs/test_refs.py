"""References other than the batch: private ones, ids, masks, layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining, refs
from jaxdml.types import Refs
from tests.losses import reference
from tests.losses.table import OPTIONS, TUPLE_KINDS, compiled

N, M, D = 5, 7, 4
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(N, D)).astype(np.float32), np.array([0, 1, 2, 3, 4])
RX, RY = RNG.normal(size=(M, D)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1, 9])
WHERE = np.array([True, True, True, False, True, True, True])
IDS = np.arange(N)
R_IDS = np.array([0, 11, 2, 13, 14, 15, 16])  # references 0 and 2 are the anchors 0 and 2


def program(name, **options):
  mine = mining.nearest_positive

  def loss(x, rx, ry, where, ids):
    fn = losses.LOSSES[name].fn
    given = Refs(rx, ry, where, ids)
    return fn(x, Y, refs=given, ids=IDS, mining_fn=mine, **OPTIONS[name], **options)

  return compiled(jax.value_and_grad(loss, argnums=(0, 1)))


def tile(a):
  return np.tile(a, (N,) + (1,) * a.ndim)


def test_private_references_of_lifted_structure_have_no_other_anchors():
  refs = [tile(a) for a in (RX.astype(float), RY, WHERE, R_IDS)]
  expected = reference.loss(
    "lifted_structure", X.astype(float), Y, refs=refs, ids=IDS,
    mine=reference.chain(reference.nearest_positive), **OPTIONS["lifted_structure"],
  )  # fmt: skip
  given = [tile(a) for a in (RX, RY, WHERE, R_IDS)]
  value, gradients = program("lifted_structure")(X, *given)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  blocked, blocked_gradients = program("lifted_structure", block_size=2)(X, *given)
  np.testing.assert_allclose(blocked, value, rtol=1e-6)
  for a, b in zip(blocked_gradients, gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TUPLE_KINDS if name != "lifted_structure"])
def test_private_refs_equal_shared_ones_when_tiled(name):
  shared, (to_x, to_refs) = program(name)(X, RX, RY, WHERE, R_IDS)
  expected = reference.loss(
    name, X.astype(float), Y, refs=(RX.astype(float), RY, WHERE, R_IDS), ids=IDS,
    mine=reference.chain(reference.nearest_positive), **OPTIONS[name],
  )  # fmt: skip
  np.testing.assert_allclose(shared, expected, rtol=1e-5)
  for options in ({}, {"block_size": 2}):
    tiled = program(name, **options)(X, *map(tile, (RX, RY, WHERE, R_IDS)))
    np.testing.assert_allclose(tiled[0], shared, rtol=1e-5)
    np.testing.assert_allclose(tiled[1][0], to_x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(tiled[1][1], axis=0), to_refs, rtol=1e-4, atol=1e-6)


def test_refs_that_are_the_batch_equal_no_refs():
  loss = compiled(lambda x, refs, ids: losses.triplet_loss(x, Y // 2, refs=refs, ids=ids))
  np.testing.assert_allclose(
    loss(X, Refs(X, Y // 2, None, IDS), IDS), loss(X, None, None), rtol=1e-6
  )


def test_without_ids_an_anchor_meets_itself():
  x, y = jnp.array([[0.0], [1.0]]), jnp.array([0, 1])
  keep = lambda **kw: losses.contrastive_loss(
    x, y, negative_margin=3.0, distance_fn=lambda a, b: jnp.abs(a - b.T) + 1.0,
    reduce_fn=losses.reducers.none, **kw,
  )  # fmt: skip
  negatives, selves = (3 - 2) ** 2, 1**2
  np.testing.assert_allclose(keep(), [negatives, negatives])
  np.testing.assert_allclose(keep(refs=Refs(x, y)), [negatives + selves] * 2)
  ids = jnp.array([4, 5])
  np.testing.assert_allclose(keep(refs=Refs(x, y, None, ids), ids=ids), [negatives] * 2)


def test_an_empty_slot_is_never_read():
  loss = compiled(
    jax.value_and_grad(
      lambda rx, where: losses.margin_loss(X, Y, refs=Refs(rx, RY, where)), argnums=0
    )
  )
  garbage = RX.copy()
  garbage[~WHERE] = np.nan
  value, gradient = loss(garbage, WHERE)
  assert np.isfinite(value) and not np.any(gradient[~WHERE]) and np.all(np.isfinite(gradient))
  np.testing.assert_array_equal(value, loss(RX, WHERE)[0])
  assert np.isnan(loss(garbage, np.ones(M, bool))[0])


def test_references_may_be_stored_in_another_precision():
  loss = compiled(lambda rx: losses.npair_loss(X, Y, refs=Refs(rx, RY)))
  np.testing.assert_allclose(loss(jnp.asarray(RX, jnp.bfloat16)), loss(RX), rtol=0.02)


@pytest.mark.parametrize("name", refs.LAYOUTS)
def test_layouts(name):
  x = jnp.arange(6.0)[:, None] * jnp.ones((6, 2))
  y = jnp.array([0, 0, 1, 1, 2, 2])
  anchors, labels, ids, given = refs.create(name)(x, y, None)
  step = {"all_pairs": 1, "npair": 2, "triplet": 3}[name]
  np.testing.assert_array_equal(anchors, x[::step])
  np.testing.assert_array_equal(labels, y[::step])
  shape = {"all_pairs": (6, 2), "npair": (3, 2), "triplet": (2, 2, 2)}[name]
  assert given.embeddings.shape == shape and given.labels.shape == shape[:-1]
  expected = {"all_pairs": range(6), "npair": [1, 3, 5], "triplet": [[1, 2], [4, 5]]}[name]
  np.testing.assert_array_equal(given.embeddings[..., 0], np.array(expected))
  np.testing.assert_array_equal(given.labels, y[np.array(expected)])
  value = compiled(lambda a, b, i, r: losses.contrastive_loss(a, b, ids=i, refs=r))(
    anchors, labels, ids, given
  )
  assert np.isfinite(value)


@pytest.mark.parametrize("name", refs.LAYOUTS)
def test_layouts_of_two_devices_are_those_of_one(name):
  """Numbered by slots, no reference may be taken for the anchor of the same number."""
  x, y = RNG.normal(size=(12, D)).astype(np.float32), np.arange(12) // 4

  def loss(x, y, axis_name=None):
    anchors, labels, ids, given = refs.create(name)(x, y, axis_name)
    return losses.contrastive_loss(anchors, labels, ids=ids, refs=given, axis_name=axis_name)

  device = compiled(jax.vmap(lambda x, y: loss(x, y, "batch"), axis_name="batch"))
  values = device(x.reshape(2, 6, D), y.reshape(2, 6))
  np.testing.assert_allclose(values, np.full(2, compiled(loss)(x, y)), rtol=1e-5)


def test_layouts_refuse_what_does_not_divide():
  with pytest.raises(ValueError, match=r"npair layout .* multiple of 2 .*; got 5 embeddings"):
    refs.create("npair")(X, Y, None)
  with pytest.raises(ValueError, match=r"triplet layout .* multiple of 3 .*; got 5 embeddings"):
    refs.create("triplet")(X, Y, None)
  with pytest.raises(ValueError, match="unknown layout 'pairs'; valid names: all_pairs, npair"):
    refs.create("pairs")
