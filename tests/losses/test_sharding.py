"""One value and one gradient under every way of JAX to shard: eight devices are one.

A loss of each kind under the two ways that type what they shard; the whole contract, all losses by
four miners by six ways, in some minutes:

  python -m tests.losses.test_sharding
"""

import contextlib
import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from jaxdml import losses, mining, refs
from jaxdml.losses._engine import from_rows
from jaxdml.refs import memory
from jaxdml.types import Rows
from tests.losses import table
from tests.losses.names import PARAMETRIC, TUPLE
from tests.losses.table import OPTIONS
from tests.xla import cheap_flags

DEVICES, EACH, CLASSES, DIM = 8, 3, 5, 4
MINERS = {
  "all": None,
  "nearest_positive": mining.nearest_positive,
  "semihard": mining.chain(mining.nearest_positive, mining.semihard_negative),
  "random": mining.chain(mining.random_positive, mining.random_negative),
}
WAYS = ("pmap", "vmap", "shard_map", "unchecked", "auto", "explicit")
TYPED = ("shard_map", "explicit")  # which type how an array is sharded
AXIS = "devices"


def hyperparameters(name):
  return {k: jnp.float32(v) for k, v in OPTIONS.get(name, {}).items() if isinstance(v, float)}


def loss_of(name, mining_fn=None, block_size=None):
  """(learnt, data, axis_name) -> loss; all that learns is in `learnt`, unsharded."""
  options = dict(OPTIONS.get(name, {}))
  for key in hyperparameters(name):
    del options[key]  # learnt, like the network
  options |= {"mining_fn": mining_fn, "block_size": block_size}

  def of(learnt, data, axis_name=None):
    x = data["x"] @ learnt["w"]
    rest = options | learnt["hyperparameters"] | {"axis_name": axis_name, "where": data["where"]}
    if mining_fn is not None:
      rest["key"] = jax.random.key(3)
    if name in PARAMETRIC:
      rest["params"] = learnt["params"]
    elif axis_name is not None:
      ids = refs.gather_ids(len(x), axis_name)
      rest["refs"] = refs.gather(x, data["y"], axis_name, ids=ids, where=data["where"])
      rest["ids"] = ids
    return losses.LOSSES[name].fn(x, data["y"], **rest)

  return of


def make(name, seed=0):
  rng = np.random.default_rng(seed)
  n = DEVICES * EACH
  where = np.ones(n, bool)
  where[[4, 5, 13]] = False  # devices have unequal numbers of valid examples
  x = rng.normal(size=(n, 5)).astype(np.float32)
  data = {"x": x, "y": rng.permutation(n) % CLASSES, "where": where}
  learnt = {
    "w": rng.normal(size=(5, DIM)).astype(np.float32),
    "hyperparameters": hyperparameters(name),
  }
  if name in PARAMETRIC:
    learnt["params"] = jax.tree.map(np.float32, table.init(name, 0, CLASSES, DIM))
  return learnt, data


def under(way, fn, learnt, data):
  """(value, gradients to learnt and to data["x"]) of fn under one way to shard."""
  rest = {k: v for k, v in data.items() if k != "x"}
  both = lambda learnt, x, rest, axis=None: jax.value_and_grad(
    lambda learnt, x: fn(learnt, rest | {"x": x}, axis), argnums=(0, 1)
  )(learnt, x)
  mapped = functools.partial(both, axis=AXIS)

  def summed(learnt, x, rest):
    value, (of_learnt, of_x) = mapped(learnt, x, rest)
    return value, (jax.lax.psum(of_learnt, AXIS), of_x)

  if way in ("pmap", "vmap"):
    wrap = {"pmap": jax.pmap, "vmap": jax.vmap}[way]
    split = lambda tree: jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), tree)
    step = wrap(summed, axis_name=AXIS, in_axes=(None, 0, 0))
    value, (of_learnt, of_x) = step(learnt, split(data["x"]), split(rest))
    np.testing.assert_array_equal(value, value[0])
    first = jax.tree.map(lambda a: a[0], of_learnt)
    return value[0], (first, of_x.reshape(data["x"].shape))
  kind = AxisType.Explicit if way == "explicit" else AxisType.Auto
  mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(kind,))
  if way in ("shard_map", "unchecked"):
    # With the check, the gradient of what all devices share is summed already.
    step = jax.shard_map(
      mapped if way == "shard_map" else summed,
      mesh=mesh,
      in_specs=(P(), P(AXIS), P(AXIS)),
      out_specs=(P(), (P(), P(AXIS))),
      check_vma=way == "shard_map",
    )
    return jax.jit(step)(learnt, data["x"], rest)
  put = lambda tree, *spec: jax.device_put(tree, NamedSharding(mesh, P(*spec)))
  arguments = put(learnt), put(data["x"], AXIS), put(rest, AXIS)
  with jax.set_mesh(mesh) if way == "explicit" else contextlib.nullcontext():
    value, (of_learnt, of_x) = jax.jit(both)(*arguments)
  if way == "explicit":
    assert of_x.sharding.spec[0] == AXIS, of_x.sharding
  return value, (of_learnt, of_x)


def alone(fn, learnt, data):
  on_one = lambda learnt, x: fn(learnt, data | {"x": x})
  return jax.device_get(jax.jit(jax.value_and_grad(on_one, argnums=(0, 1)))(learnt, data["x"]))


def check(way, fn, learnt, data, expected=None):
  value, gradients = jax.device_get(under(way, fn, learnt, data))
  expected = alone(fn, learnt, data) if expected is None else expected
  assert expected[0] != 0 and np.any(expected[1][0]["w"])
  np.testing.assert_allclose(value, expected[0], rtol=2e-5)
  compare = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
  jax.tree.map(compare, gradients, expected[1])


@pytest.mark.parametrize("way", TYPED)
@pytest.mark.parametrize("name", [*table.TUPLE_KINDS, *table.PARAMETRIC_KINDS])
def test_a_kind_under_the_ways_that_type_what_they_shard(name, way):
  mine = None if name in PARAMETRIC else mining.nearest_positive
  check(way, loss_of(name, mine), *make(name))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_loss_is_traced_under_the_ways_that_type(name):
  """Types are checked while tracing: nothing is compiled, and no loss is forgotten."""
  (learnt, data), fn = make(name), loss_of(name)
  step = lambda axis: lambda learnt, data: jax.value_and_grad(fn)(learnt, data, axis)
  mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))
  specs = {"in_specs": (P(), P(AXIS)), "out_specs": (P(), P())}
  mapped = jax.shard_map(step(AXIS), mesh=mesh, **specs)
  assert jax.eval_shape(mapped, learnt, data)[0].shape == ()
  mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Explicit,))
  put = lambda tree, *spec: jax.device_put(tree, NamedSharding(mesh, P(*spec)))
  with jax.set_mesh(mesh):
    assert jax.eval_shape(step(None), put(learnt), put(data, AXIS))[0].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("way", TYPED)
@pytest.mark.parametrize("name", [*table.TUPLE_KINDS, *table.PARAMETRIC_KINDS])
def test_a_kind_in_blocks(name, way):
  check(way, loss_of(name, block_size=2), *make(name))


@pytest.mark.parametrize("way", TYPED)
def test_a_miner_may_read_the_step(way):
  def of(learnt, data, axis_name=None):
    index = jnp.int32(1) + learnt["step"].astype(jnp.int32)
    chosen = mining.switch(index, mining.hardest_negative, mining.semihard_negative)
    return loss_of("triplet", chosen)(learnt, data, axis_name)

  learnt, data = make("triplet")
  check(way, of, learnt | {"step": jnp.float32(0.0)}, data)


@pytest.mark.parametrize("way", TYPED)
def test_cross_batch_memory(way):
  def of(learnt, data, axis_name=None):
    x = data["x"] @ learnt["w"]
    old = memory.enqueue(memory.init(6, DIM), learnt["old"], jnp.arange(6) % CLASSES)
    layout = refs.create("all_pairs")
    anchors, labels, ids, given = layout(x, data["y"], axis_name)
    given = memory.extend(given, old)
    return losses.multi_similarity_loss(anchors, labels, refs=given, ids=ids, axis_name=axis_name)

  learnt, data = make("multi_similarity")
  old = np.random.default_rng(1).normal(size=(6, DIM)).astype(np.float32)
  check(way, of, learnt | {"old": old}, data)


@pytest.mark.parametrize("way", ["auto", "explicit"])
@pytest.mark.parametrize("layout", ["npair", "triplet"])
def test_layouts_of_a_sharded_batch(layout, way):
  learnt, data = make("triplet")
  split = refs.create(layout)

  def of(learnt, data, axis_name=None):
    x = data["x"] @ learnt["w"]
    anchors, labels, ids, given = split(x, data["y"], axis_name)
    return losses.npair_loss(anchors, labels, refs=given, ids=ids, axis_name=axis_name)

  of_class = {"npair": np.arange(24) // 2 % CLASSES, "triplet": np.tile([0, 0, 1], 8)}
  check(way, of, learnt, data | {"y": of_class[layout]})


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", table.PARAMETRIC_KINDS)
def test_class_vectors_shared_out_over_devices(name, kind):
  """Each device holds its classes (arXiv 2203.15565 without its sampling): exact, and smaller."""
  classes, dim = 64 * DEVICES, 32
  rng = np.random.default_rng(0)
  params = jax.tree.map(np.float32, table.init(name, 0, classes, dim))
  x = rng.normal(size=(DEVICES, dim)).astype(np.float32)
  y = rng.integers(classes, size=DEVICES)
  fn = lambda params, x: losses.LOSSES[name].fn(x, y, params=params, **OPTIONS[name])
  step = jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))
  value, gradients = jax.device_get(step(params, x))
  mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType[kind],))
  shared = jax.device_put((params, x), NamedSharding(mesh, P(AXIS)))
  compiled = step.lower(*shared).compile()
  got, of_both = compiled(*shared)
  np.testing.assert_allclose(got, value, rtol=2e-5)
  compare = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
  jax.tree.map(compare, jax.device_get(of_both), gradients)
  whole = step.lower(params, x).compile().memory_analysis()
  memory = compiled.memory_analysis()
  assert memory.argument_size_in_bytes <= whole.argument_size_in_bytes / (DEVICES - 1)
  assert all(leaf.sharding.spec[0] == AXIS for leaf in jax.tree.leaves(of_both[0]))
  if all(vectors.ndim == 2 for vectors in params.values()):  # Several a class are brought together.
    assert memory.temp_size_in_bytes < whole.temp_size_in_bytes / 2


def test_a_closure_that_has_no_gradient_under_the_check_is_refused():
  """Its gradient would have to be summed inside a loop; other losses of one's own work."""
  learnt, data = make("triplet")

  def of(factor, learnt, data, axis_name=None):
    def row_fn(pairs, inputs):
      active = factor * jnp.where(pairs.negative, 1.0 / (1.0 + pairs.distances), 0.0)
      return Rows.of_anchors(jnp.sum(active, axis=1), jnp.any(pairs.negative, axis=1))

    x = data["x"] @ learnt["w"]
    ids = None if axis_name is None else refs.gather_ids(len(x), axis_name)
    given = None if axis_name is None else refs.gather(x, data["y"], axis_name, ids=ids)
    return from_rows(
      row_fn, x, data["y"], losses.LOSSES["triplet"].distance_fn, losses.reducers.mean,
      refs=given, ids=ids, axis_name=axis_name, block_size=2,
    )  # fmt: skip

  check("shard_map", functools.partial(of, 2.0), learnt, data)
  traced = lambda learnt, data, axis: of(learnt["factor"], learnt, data, axis)
  with pytest.raises(ValueError, match=r"closes over must vary over the axis.*pcast"):
    under("shard_map", traced, learnt | {"factor": jnp.float32(2.0)}, data)


def main():
  """Prints what fails of the whole contract."""
  failed = 0
  cases = [(name, miner) for name in TUPLE for miner in MINERS] + [(n, "all") for n in PARAMETRIC]
  for name, miner in tqdm(cases, unit="case"):
    fn, given = loss_of(name, MINERS[miner]), make(name)
    expected = alone(fn, *given)
    for way in WAYS:
      try:
        check(way, fn, *given, expected)
      except Exception as error:  # Each failure is one line of the report.
        failed += 1
        tqdm.write(f"{name}, {miner}, {way}: {type(error).__name__}: {str(error)[:300]}")
  total = len(cases) * len(WAYS)
  print(f"jax {jax.__version__}: {total - failed} of {total} as on one device")
  return int(failed > 0)


if __name__ == "__main__":
  os.environ["XLA_FLAGS"] = f"{cheap_flags()} --xla_force_host_platform_device_count={DEVICES}"
  sys.exit(main())
