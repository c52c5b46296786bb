"""References gathered from every device; losses on eight devices are in tests/losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, refs
from jaxdml.losses import reducers
from tests.losses import reference
from tests.losses.table import OPTIONS, compiled

DEVICES, EACH, FEATURES, D = 8, 3, 5, 4
TOTAL = DEVICES * EACH
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(DEVICES, EACH, FEATURES)).astype(np.float32)
LABELS = np.arange(TOTAL).reshape(DEVICES, EACH) % 7
# Devices with 3, 1 and 0 valid anchors: a mean of local means would be wrong.
WHERE = np.ones((DEVICES, EACH), bool)
WHERE[1, 1:] = WHERE[4] = False


@pytest.mark.parametrize("name", ["histogram", "lifted_structure"])
def test_statistics_are_those_of_all_devices(name):
  """The contract could not fail if they were local: here they are, and another loss it is."""

  def device(axis_name, x, labels, where):
    ids = refs.gather_ids(len(x), "batch")
    given = refs.gather(x, labels, "batch", ids=ids, where=where)
    return losses.LOSSES[name].fn(
      x, labels, refs=given, ids=ids, where=where, reduce_fn=reducers.sum, axis_name=axis_name,
      **OPTIONS[name],
    )  # fmt: skip

  def both(*data):
    each = [functools.partial(device, axis_name) for axis_name in (None, "batch")]
    return [jax.vmap(fn, axis_name="batch")(*data) for fn in each]

  local, everywhere = compiled(both)(IMAGES[..., :D], LABELS, WHERE)
  assert abs(np.sum(local) / everywhere[0] - 1) > 1e-4


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
