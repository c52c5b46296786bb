"""HDML's objective equals the float64 reference, and each parameter learns from its own part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import hdml, mining
from tests.hdml import complex_step, reference, tiny

# What each group of parameters learns from (arXiv 1903.05503, sec. 3.4; the authors' release).
OBJECTIVE = {
  "encoder": "loss/metric",
  "embedding": "loss/metric",
  "generator": "loss/generator",
  "head": "loss/head",
}
# J_avg and J_gen: both losses count; only synthetics do; only real tuples do.
AVERAGES = ((1.3, 0.8), (0.4, 1e-4), (1.3, np.inf))


QUICK = ("paper_npair_eps", "code_npair", "code_triplet", "slots_eps")  # the others take as long


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def check(want, statistics, params, result):
  """Value, components, statistics and each group's gradient."""
  (total, (_, got_statistics, metrics)), gradients = result
  assert set(metrics) == set(want) - {"total"}
  for key, value in {**metrics, "total": total}.items():
    want_value = complex_step.real(want[key])
    np.testing.assert_allclose(value, want_value, rtol=1e-10, atol=1e-12, err_msg=key)
  for ours, theirs in (("embedding", "synthetic"), ("generator", "generator")):
    mean = np.real(statistics[theirs][0])[:, 0]
    np.testing.assert_allclose(got_statistics[ours], mean, rtol=1e-10, atol=1e-12)
  for group, got in gradients.items():
    slopes = complex_step.gradient(want[OBJECTIVE[group]], params)[group]
    scale = max(np.max(np.abs(s)) for s in slopes.values())
    for key, slope in slopes.items():
      error = np.max(np.abs(got[key] - slope))
      assert error <= 1e-10 * scale + 1e-13, f"{group} {key}: {got[key]} is not {slope}"


@pytest.mark.parametrize(
  "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in tiny.CASES]
)
def test_value_components_and_gradients_are_the_reference(name):
  """The gradient of the total is, for each group, that of its own objective, else constant."""
  case, params = tiny.CASES[name], tiny.params()
  x, learns = tiny.images(case), []
  for averages in AVERAGES:
    options = case.reference() | tiny.DIALS
    perturbed = complex_step.perturbed(params)
    want, statistics = reference.objective(perturbed, x, case.labels, *averages, **options)
    result = tiny.program(name)(params, x, tiny.state(*averages))
    check(want, statistics, params, result)
    learns.append({k: np.max(np.abs(g["w" if "w" in g else "w1"])) for k, g in result[1].items()})
  for group in OBJECTIVE:
    sizes = [of_state[group] for of_state in learns]
    # Without trust in real tuples a constant y~ leaves the encoder with nothing.
    nothing = group == "encoder" and case.choices.get("detach") == "generated"
    assert (sizes[1] == 0.0) == nothing, f"{group}: {sizes}"
    assert sizes[0] > 1e-3 and sizes[2] > 1e-3, f"{group} learns nothing: {sizes}"


def test_miner_that_makes_rows_is_refused():
  """HDML pulls one anchor's negatives once; a row for each positive has no place for its pull."""
  case = tiny.CASES["slots_eps"]
  arguments = tiny.bound(case) | {"mining_fn": mining.expand_positives()}
  run = lambda y, z: hdml.objective(
    tiny.networks(case, y), tiny.params(), y, z, jnp.array(case.labels), tiny.state(1, 1),
    **arguments,
  )  # fmt: skip
  with pytest.raises(ValueError, match="one row an anchor; got 81 rows of 9 anchors"):
    jax.eval_shape(run, np.zeros((9, tiny.Y)), np.zeros((9, tiny.Z)))


@pytest.mark.parametrize(
  ("field", "name"), [("detach", "detach"), ("synthetic_members", "members")]
)
def test_unknown_choice_is_refused(field, name):
  case = tiny.CASES["means"]._replace(choices={field: "some"})
  run = lambda y, z: tiny.of_embeddings(case, tiny.params(), y, z, tiny.state(1, 1))
  with pytest.raises(ValueError, match=f"{name}: expected one of .*; got 'some'"):
    jax.eval_shape(run, np.zeros((8, tiny.Y)), np.zeros((8, tiny.Z)))


@pytest.mark.parametrize(
  ("miners", "slots"),
  [(None, None), ("random_positive+random_negative", None), ("random_positive+random_negative", 2)],
)
def test_synthetic_tuples_are_the_real_ones_where_nothing_is_generated(miners, slots):
  """Identity networks and lambda = 1: J_syn is J_m, whatever a (random) miner draws."""
  case = tiny.CASES["slots_eps"]._replace(slots=slots)
  arguments = tiny.bound(case, alpha=0.0) | {
    "mining_fn": miners and mining.create(miners),
    "key": jax.random.key(7, impl="rbg"),
  }
  z = np.random.default_rng(0).normal(size=(8, 3))
  identity = lambda p, x: (x, None)
  networks = hdml.Networks(identity, identity, lambda p, y: y)
  labels = jnp.array([0, 1, 0, 1, 0, 1, 2, 2])
  params = dict.fromkeys(("embedding", "generator", "head"), ())
  run = lambda z: hdml.objective(networks, params, z, z, labels, tiny.state(1.0, 1.0), **arguments)
  _, (_, _, metrics) = jax.jit(run, compiler_options=tiny.QUICK)(z)
  np.testing.assert_allclose(metrics["loss/synthetic"], metrics["loss/real"], rtol=1e-12)
  assert metrics["loss/real"] > 1.0


def test_an_unknown_label_is_in_no_tuple_and_teaches_the_head_nothing():
  """-1 would read the last class otherwise."""
  case = tiny.CASES["slots_eps"]._replace(slots=None)
  arguments = tiny.bound(case, alpha=0.0) | {"mining_fn": None}
  z = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  identity = lambda p, x: (x, None)
  networks = hdml.Networks(identity, identity, lambda p, y: y)
  params = dict.fromkeys(("embedding", "generator", "head"), ())

  def metrics(z, labels):
    state, labels = tiny.state(1.0, 1.0), jnp.array(labels)
    run = lambda z: hdml.objective(networks, params, z, z, labels, state, **arguments)[1][2]
    return jax.jit(run, compiler_options=tiny.QUICK)(z)

  found, known = metrics(z, [0, 1, 0, 1, 0, 1, -1, -1]), metrics(z[:6], [0, 1, 0, 1, 0, 1])
  for name in ("loss/head", "loss/real"):
    np.testing.assert_allclose(found[name], known[name], rtol=1e-5, err_msg=name)
