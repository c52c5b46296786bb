"""Eight devices with a gathered batch equal one device with the whole batch: value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdml import losses, mining, refs
from jaxdml.losses import reducers
from tests.losses import reference
from tests.losses.table import LOSSES, compiled

DEVICES, EACH, FEATURES, D = 8, 3, 5, 4
TOTAL = DEVICES * EACH
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(DEVICES, EACH, FEATURES)).astype(np.float32)
LABELS = np.arange(TOTAL).reshape(DEVICES, EACH) % 7
# Devices with 3, 1 and 0 valid anchors: a mean of local means would be wrong.
WHERE = np.ones((DEVICES, EACH), bool)
WHERE[1, 1:] = WHERE[4] = False
WEIGHTS = RNG.integers(1, 4, (DEVICES, EACH)).astype(np.float32)
KEY = jax.random.key(5)
ENCODER = RNG.normal(size=(FEATURES, D)).astype(np.float32)


def local_step(name, options, encoder, images, labels, where, weights, key):
  """What one device does: its anchors against everyone's embeddings, gradients summed."""

  def loss(encoder):
    x = images @ encoder
    ids = refs.gather_ids(len(x), "batch")
    return losses.LOSSES[name].fn(
      x, labels, **LOSSES_OPTIONS[name], **options, ids=ids, where=where, weights=weights, key=key,
      refs=refs.gather(x, labels, "batch", ids=ids, where=where),
    )  # fmt: skip

  value, gradient = jax.value_and_grad(loss)(encoder)
  return value, jax.lax.psum(gradient, "batch")


def single_device(name, mining_fn, encoder, images, labels, where, weights, key):
  def loss(encoder):
    return losses.LOSSES[name].fn(
      images @ encoder, labels, **LOSSES_OPTIONS[name], where=where, weights=weights,
      mining_fn=mining_fn, key=key,
    )  # fmt: skip

  return jax.value_and_grad(loss)(encoder)


LOSSES_OPTIONS = {
  name: options | ({"beta": np.linspace(0.7, 1.3, 7)} if name == "margin" else {})
  for name, options in LOSSES.items()
}
AXES = (None, 0, 0, 0, 0, None)


def by_pmap(step):
  return jax.pmap(step, axis_name="batch", in_axes=AXES)


def by_vmap(step):
  return compiled(jax.vmap(step, axis_name="batch", in_axes=AXES))


def by_shard_map(step):
  mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("batch",))
  spec = PartitionSpec("batch")

  def device(encoder, images, labels, where, weights, key):
    inner = step(encoder, images[0], labels[0], where[0], weights[0], key)
    return jax.tree.map(lambda a: a[None], inner)

  return jax.jit(
    jax.shard_map(
      device, mesh=mesh, in_specs=(PartitionSpec(), spec, spec, spec, spec, PartitionSpec()),
      out_specs=spec, check_vma=False,
    )
  )  # fmt: skip


@functools.cache
def on_one_device(name, mining_fn):
  whole = [a.reshape(TOTAL, *a.shape[2:]) for a in (IMAGES, LABELS, WHERE, WEIGHTS)]
  one = compiled(functools.partial(single_device, name, mining_fn))
  return jax.device_get(one(ENCODER, *whole, KEY))


def check(name, mapped, mining_fn=mining.nearest_positive, **options):
  options = {"axis_name": "batch", "mining_fn": mining_fn} | options
  step = functools.partial(local_step, name, options)
  values, gradients = jax.device_get(mapped(step)(ENCODER, IMAGES, LABELS, WHERE, WEIGHTS, KEY))
  value, gradient = on_one_device(name, mining_fn)
  assert value > 0 and np.any(gradient)
  np.testing.assert_array_equal(values, values[0])  # the same bits on every device
  for device in range(DEVICES):
    np.testing.assert_allclose(values[device], value, rtol=3e-6)
    np.testing.assert_allclose(
      gradients[device], gradient, rtol=2e-5, atol=3e-6 * np.max(np.abs(gradient))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_pmap_equals_one_device(name):
  check(name, by_pmap)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_vmap_in_blocks_equals_one_device(name):
  check(name, by_vmap, block_size=2)


@pytest.mark.parametrize("name", ["margin", "npair", "lifted_structure"])
def test_shard_map_equals_one_device(name):
  check(name, by_shard_map, block_size=2)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("name", ["contrastive", "histogram"])
def test_a_reducer_bound_to_the_axis_says_as_much_as_axis_name(name, block_size):
  fn = functools.partial(reducers.create(reference.LOSSES[name][2]), axis_name="batch")
  check(name, by_vmap, axis_name=None, reduce_fn=fn, block_size=block_size)


@pytest.mark.parametrize("name", ["histogram", "lifted_structure"])
def test_statistics_are_those_of_all_devices(name):
  """The test above could not fail if they were local: here they are, and another loss it is."""
  device = functools.partial(local_step, name, {"reduce_fn": reducers.sum})
  values, _ = by_vmap(device)(ENCODER, IMAGES, LABELS, WHERE, WEIGHTS, KEY)
  device = functools.partial(local_step, name, {"reduce_fn": reducers.sum, "axis_name": "batch"})
  global_values, _ = by_vmap(device)(ENCODER, IMAGES, LABELS, WHERE, WEIGHTS, KEY)
  assert abs(np.sum(values) / global_values[0] - 1) > 1e-4


def test_random_mining_draws_the_same_on_any_number_of_devices():
  check("triplet", by_vmap, mining_fn=mining.create("random_positive+random_negative"))


@pytest.mark.parametrize("reduce", ["mean", "mean_elements", "mean_nonzero", "sum"])
def test_every_reducer_is_global(reduce):
  fn = reducers.create(reduce)
  x, y = jnp.asarray(IMAGES[..., :D]), jnp.asarray(LABELS)

  def device(x, y, where):
    ids = refs.gather_ids(EACH, "batch")
    return losses.contrastive_loss(
      x, y, ids=ids, where=where, refs=refs.gather(x, y, "batch", ids=ids, where=where),
      reduce_fn=fn, axis_name="batch",
    )  # fmt: skip

  values = compiled(jax.vmap(device, axis_name="batch"))(x, y, WHERE)
  expected = reference.loss(
    "contrastive", np.asarray(x, float).reshape(TOTAL, D), LABELS.ravel(), reduce=reduce,
    where=WHERE.ravel(),
  )  # fmt: skip
  np.testing.assert_allclose(values, np.full(DEVICES, expected), rtol=1e-5)


def test_gathered_ids_are_the_slots_of_the_global_batch():
  ids = jax.vmap(lambda x: refs.gather_ids(EACH, "batch"), axis_name="batch")(IMAGES)
  np.testing.assert_array_equal(ids.ravel(), np.arange(TOTAL))
  gathered = jax.vmap(lambda x, y: refs.gather(x, y, "batch"), axis_name="batch")(IMAGES, LABELS)
  for device in range(DEVICES):
    np.testing.assert_array_equal(gathered.embeddings[device], IMAGES.reshape(TOTAL, FEATURES))
    np.testing.assert_array_equal(gathered.labels[device], LABELS.ravel())
    np.testing.assert_array_equal(gathered.ids[device], np.arange(TOTAL))


def test_nan_on_one_device_is_nan_on_all():
  x = IMAGES[..., :D].copy()
  x[6, 2, 1] = np.nan

  def device(x, y):
    ids = refs.gather_ids(EACH, "batch")
    return losses.triplet_loss(
      x, y, ids=ids, refs=refs.gather(x, y, "batch", ids=ids), axis_name="batch"
    )

  for labels in (LABELS, np.arange(TOTAL).reshape(DEVICES, EACH)):
    assert np.all(np.isnan(compiled(jax.vmap(device, axis_name="batch"))(x, labels)))
