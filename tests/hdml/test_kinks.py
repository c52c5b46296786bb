"""Where HDML's formulas have no derivative: d- = d+, d- = 0, d+ = 0. The convention, tested.

A negative as near as the positive, or nearer, is not pulled: its copy is itself, in value and
gradient (the derivative from the side d- < d+). A distance of 0 has the derivative 0. So nothing is
divided by 0. The reference takes the same sides; embeddings are given, so that ties are exact.
"""

import jax
import numpy as np
import pytest

from tests.hdml import complex_step, reference, tiny
from tests.hdml.test_objective import OBJECTIVE


def batch(p0, p1, p2):
  """a0 p0 a1 p1 ...: the first anchor at the origin, whole numbers, so that ties are exact."""
  return np.array([[0, 0, 0], p0, [1, 2, 2], p1, [2, 4, 1], p2, [6, 8, 9], [7, 9, 8]], np.float64)


BATCHES = {
  "d- = d+": batch([3, 4, 0], [0, 5, 0], [3, 4, 0]),  # as far as the positive, and the positive
  "d- = 0": batch([3, 4, 0], [0, 0, 0], [0, 5, 0]),
  "d+ = 0": batch([0, 0, 0], [0, 5, 0], [3, 4, 1]),
  "d- = d+ = 0": batch([0, 0, 0], [0, 0, 0], [0, 0, 0]),
}
CASES = {
  "npair": tiny.of_variant("code", "npair", "npair"),
  "npair_eps": tiny.of_variant("paper", "npair", "all_pairs", tiny.EPS)._replace(labels=tiny.PAIRS),
  "triplet": tiny.of_variant("paper", "triplet", "npair"),
  "triplet_eps": tiny.of_variant("code", "triplet", "all_pairs", tiny.EPS)._replace(
    labels=tiny.PAIRS
  ),
}


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def seen(z, layout):
  """Which of the edges the first anchor meets."""
  d = [np.linalg.norm(row) for row in z]
  negatives = d[3::2] if layout == "npair" else d[2:]
  return (d[1] in negatives, 0.0 in negatives, d[1] == 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_gradient_at_the_kinks_is_the_reference(name):
  """J_avg where the pull is half way; only the synthetics count, then both losses."""
  case = CASES[name]._replace(decay=0.0)
  networks = {k: v for k, v in tiny.params().items() if k != "encoder"}
  y = np.random.default_rng(5).normal(size=(8, tiny.Y))

  def total(inputs, state):
    y, z = inputs["y"], inputs["z"]
    return tiny.of_embeddings(case, inputs, y, z, state)

  run = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=tiny.QUICK)
  edges = set()
  for kind, z in BATCHES.items():
    inputs = networks | {"y": y, "z": 0.25 * z}
    edges.add(seen(z, case.layout))
    for averages in ((1.3, 1e-4), (1.3, 0.8)):
      (_, (_, _, metrics)), gradients = run(inputs, tiny.state(*averages))
      p = complex_step.perturbed(inputs)
      options = case.reference() | tiny.DIALS
      del options["decay"]
      want, _ = reference.of_embeddings(p, p["y"], p["z"], case.labels, *averages, **options)
      for key, value in metrics.items():
        expected = complex_step.real(want[key])
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12, err_msg=f"{kind} {key}")
      for group in ("z", "embedding", "generator", "head"):
        slopes = complex_step.gradient(want[OBJECTIVE.get(group, "loss/metric")], inputs)[group]
        pairs = zip(complex_step.leaves(gradients[group]), complex_step.leaves(slopes), strict=True)
        scale = max(np.max(np.abs(slope)) for slope in complex_step.leaves(slopes))
        assert scale > 1e-3, f"{kind} {group} learns nothing"
        for got, slope in pairs:
          np.testing.assert_allclose(
            got, slope, rtol=0, atol=1e-10 * scale, err_msg=f"{kind} {group}"
          )
  assert len(edges) > 2, "the batches meet different edges"
