"""One global batch on eight devices and on one: the same loss, components, state and gradients."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdml.training import parallel
from tests.hdml import modules, tiny

DEVICES = 8

BATCHES = 12  # enough for sums that round apart on some device to be seen


def global_labels(layout):
  """In all_pairs a class's examples lie on several devices, one class has one example."""
  r = np.random.default_rng(3)
  if layout == "npair":
    return np.repeat(r.integers(0, tiny.CLASSES, DEVICES), 2)
  labels = r.permutation(np.arange(2 * DEVICES) % (tiny.CLASSES - 1))
  labels[5] = tiny.CLASSES - 1
  return labels


def program(case, axis_name):
  def run(params, state, batch):
    total = lambda p: modules.objective(case, p, batch["x"], batch["y"], state, axis_name=axis_name)
    (value, aux), gradients = jax.value_and_grad(total, has_aux=True)(params)
    if axis_name is not None:
      gradients = jax.lax.psum(gradients, axis_name)
    return value, aux, gradients

  return run


def check_equal(eight, one):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-5, atol=2e-6)
  jax.tree.map(close, eight[:2], one[:2])
  for group, gradient in one[2].items():
    scale = max(np.max(np.abs(g)) for g in jax.tree.leaves(gradient))
    assert scale > 1e-3, f"{group} learns nothing"
    for a, b in zip(jax.tree.leaves(eight[2][group]), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5 * scale, err_msg=group)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper_npair", "slots_eps"])
def test_eight_devices_are_one(name):
  case = tiny.CASES[name]
  labels = global_labels(case.layout).astype(np.int32)
  params, state = modules.to_modules(tiny.params()), modules.state(1.3, 0.8)
  alone = jax.jit(program(case, None), compiler_options=tiny.QUICK)
  mapped = jax.pmap(program(case, parallel.AXIS), axis_name=parallel.AXIS)
  for seed in range(BATCHES):
    x = np.random.default_rng(seed).normal(size=(len(labels), tiny.X)).astype(np.float32)
    batch = {"x": x, "y": labels}
    stacked = mapped(parallel.replicate(params), parallel.replicate(state), parallel.split(batch))
    check_equal(parallel.unreplicate(stacked), jax.device_get(alone(params, state, batch)))
    # What the run goes on with is the same bits everywhere; the logged values may round apart.
    for tree in (stacked[1][:2], stacked[2]):
      for leaf in map(np.asarray, jax.tree.leaves(tree)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


@pytest.mark.parametrize("way", ["shard_map", "explicit"])
def test_ways_that_type_what_they_shard(way):
  """With the check of `jax.shard_map`, gradients of what all devices share are summed already."""
  case = tiny.CASES["slots_eps"]
  labels = global_labels(case.layout).astype(np.int32)
  params, state = modules.to_modules(tiny.params()), modules.state(1.3, 0.8)
  x = np.random.default_rng(0).normal(size=(len(labels), tiny.X)).astype(np.float32)
  arguments = (params, state, {"x": x, "y": labels})
  alone = jax.jit(program(case, None), compiler_options=tiny.QUICK)
  kind = {"shard_map": AxisType.Auto, "explicit": AxisType.Explicit}[way]
  mesh = jax.make_mesh((DEVICES,), (parallel.AXIS,), axis_types=(kind,))
  specs = (P(), P(), P(parallel.AXIS))
  if way == "explicit":
    step = program(case, None)
    put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    given = [put(tree, spec) for tree, spec in zip(arguments, specs, strict=True)]
  else:
    given = arguments

    def summed(params, state, batch):
      total = lambda p: modules.objective(
        case, p, batch["x"], batch["y"], state, axis_name=parallel.AXIS
      )
      (value, aux), gradients = jax.value_and_grad(total, has_aux=True)(params)
      return value, aux, gradients

    step = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=P())
  got = jax.jit(step, compiler_options=tiny.QUICK)(*given)
  check_equal(jax.device_get(got), jax.device_get(alone(*arguments)))
