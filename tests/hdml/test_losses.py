"""HDML around every tuple loss: main losses, layouts and EPS against the reference; all finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import hdml, losses, refs
from tests.hdml import complex_step, reference, tiny
from tests.losses.table import TUPLE_KINDS

AVERAGES = (1.3, 0.2)  # mostly synthetics


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


COMBINATIONS = [(layout, miners) for layout in refs.LAYOUTS for miners in ((), tiny.EPS)]


@pytest.mark.parametrize(
  ("layout", "miners"),
  [
    pytest.param(
      layout,
      miners,
      id=f"{layout}-{'eps' if miners else 'all_positives'}",
      marks=[] if (layout, miners) == ("all_pairs", tiny.EPS) else [pytest.mark.slow],
    )
    for layout, miners in COMBINATIONS
  ],
)
def test_main_losses_are_the_reference(layout, miners):
  """J_m, J_syn and the gradient in the embeddings of each loss, the others in one program."""
  cases = {name: tiny.Case(layout, name, tiny.LABELS[layout], miners) for name in tiny.LOSSES}
  cases["triplet"] = cases["triplet"]._replace(loss_options={"margin": 0.7})
  n = len(tiny.LABELS[layout])
  r = np.random.default_rng(3)
  networks = {k: v for k, v in tiny.params().items() if k != "encoder"}
  y, z = r.normal(size=(n, tiny.Y)), r.normal(size=(n, tiny.Z))

  def run(z):
    def of(case):
      total = lambda z: tiny.of_embeddings(case, networks, y, z, tiny.state(*AVERAGES))
      (_, (_, _, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(z)
      return metrics, gradient

    return {name: of(case) for name, case in cases.items()}

  got = jax.jit(run, compiler_options=tiny.QUICK)(z)
  for name, case in cases.items():
    options = case.reference() | tiny.DIALS
    del options["decay"]
    p = complex_step.perturbed({"z": z})
    fixed = jax.tree.map(lambda a: a[..., None], networks)
    want, _ = reference.of_embeddings(
      fixed, y[..., None], p["z"], case.labels, *AVERAGES, **options
    )
    metrics, gradient = got[name]
    for key in ("loss/real", "loss/synthetic", "loss/generator"):
      np.testing.assert_allclose(
        metrics[key], complex_step.real(want[key]), rtol=1e-10, err_msg=name
      )
    slope = complex_step.gradient(want["loss/metric"], {"z": z})["z"]
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-11, err_msg=name)
    assert metrics["loss/synthetic"] != metrics["loss/real"] and np.any(slope), name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TUPLE_KINDS) - set(tiny.LOSSES)))
def test_any_tuple_loss_takes_synthetic_tuples(name):
  """With EPS, nothing generated: unpulled, J_syn is J_m; pulled, its gradient is finite."""
  loss_fn = losses.create(name)
  arguments = tiny.bound(tiny.CASES["slots_eps"]._replace(slots=None)) | {
    "loss_fn": loss_fn,
    "distance_fn": losses.LOSSES[name].distance_fn,
    "reduce_fn": losses.LOSSES[name].reduce_fn,
    "additive": losses.LOSSES[name].additive,
  }
  labels, z = jnp.array(tiny.ALL), np.random.default_rng(0).normal(size=(9, tiny.Z))
  identity = lambda p, x: (x, None)
  networks = hdml.Networks(identity, identity, lambda p, y: y)
  params = dict.fromkeys(("embedding", "generator", "head"), ())

  def total(z, state):
    total, aux = hdml.objective(networks, params, z, z, labels, state, **arguments)
    return total, aux[2]

  run = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=tiny.QUICK)
  (_, unpulled), _ = run(z, tiny.state(np.inf, 1.0))
  (_, pulled), gradient = run(z, tiny.state(0.5, 1e-4))
  real = float(unpulled["loss/real"])
  assert real > 0.0 and pulled["hdml/lambda"] < 0.5
  if name != "lifted_structure":  # which compares a positive with the other anchors' references
    np.testing.assert_allclose(unpulled["loss/synthetic"], real, rtol=1e-9)
  assert abs(pulled["loss/synthetic"] - real) > 1e-3, "pulled negatives are harder"
  assert np.all(np.isfinite(gradient)) and np.any(gradient)
