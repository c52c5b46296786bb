"""One global batch on eight devices and on one: the same loss, components, state and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.training import parallel
from tests.hdml import modules, tiny

DEVICES = 8


def global_batch(layout):
  """Labels and images; in all_pairs a class's examples lie on several devices, one has one."""
  r = np.random.default_rng(3)
  if layout == "npair":
    labels = np.repeat(r.integers(0, tiny.CLASSES, DEVICES), 2)
  else:
    labels = r.permutation(np.arange(2 * DEVICES) % (tiny.CLASSES - 1))
    labels[5] = tiny.CLASSES - 1
  return labels.astype(np.int32), r.normal(size=(len(labels), tiny.X)).astype(np.float32)


@pytest.mark.parametrize("name", ["npair", "eps_triplet"])
def test_eight_devices_are_one(name):
  case = tiny.CASES[name]
  labels, x = global_batch(case.layout)
  params = modules.to_modules(tiny.params())
  state = modules.state(1.3, 0.8)

  def program(axis_name):
    def run(p, s, batch):
      def total(p):
        return modules.objective(case, p, batch["x"], batch["y"], s, axis_name=axis_name)

      (value, aux), gradients = jax.value_and_grad(total, has_aux=True)(p)
      if axis_name is not None:
        gradients = jax.lax.psum(gradients, axis_name)
      return value, aux, gradients

    return run

  batch = {"x": x, "y": labels}
  want = jax.jit(program(None), compiler_options=tiny.QUICK)(params, state, batch)
  mapped = jax.pmap(program(parallel.AXIS), axis_name=parallel.AXIS)
  stacked = mapped(parallel.replicate(params), parallel.replicate(state), parallel.split(batch))
  # What the run goes on with is the same bits everywhere; the logged values may round apart.
  for tree in (stacked[1][:2], stacked[2]):
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  got = parallel.unreplicate(stacked)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  for one, eight in zip(want[:2], got[:2], strict=True):
    jax.tree.map(close, eight, one)
  for group, gradient in want[2].items():
    scale = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient))
    assert scale > 1e-3, f"{group} learns nothing"
    for a, b in zip(jax.tree.leaves(got[2][group]), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * scale, err_msg=group)
