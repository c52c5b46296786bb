"""Degenerate batches: finite value and gradient for the whole table, exactly 0 of nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from tests.losses import table
from tests.losses.table import (
  CASES,
  CLASSES,
  DEGENERATE,
  GROUPS,
  KINDS,
  PARAMETRIC,
  TUPLE,
  D,
  N,
  batch,
  cells,
  compiled,
  program,
  run,
)

NOTHING = {"one_example", "all_masked", "same_image", "no_weight"}
# Of class vectors there is something to learn wherever an example counts.
NOTHING_OF_CLASSES = {"all_masked", "no_weight"}
# Negatives alone cost something in these.
PUSHES_WITHOUT_POSITIVE = {
  "contrastive", "margin", "multi_similarity", "ranked_list", "signal_to_noise_contrastive",
}  # fmt: skip
# Positives alone cost something in these: they are pulled, or (supcon) compete with each other.
PULLS_WITHOUT_NEGATIVE = PUSHES_WITHOUT_POSITIVE | {"supcon"}
# Precision is 1 by a division, so these are 0 up to rounding.
RANKS_WITHOUT_NEGATIVE = {"fast_ap", "smooth_ap"}


def is_nothing(loss, case):
  if loss in PARAMETRIC:
    return case in NOTHING_OF_CLASSES
  if case == "one_class":
    return loss not in PULLS_WITHOUT_NEGATIVE | RANKS_WITHOUT_NEGATIVE
  return case in NOTHING or (case == "all_distinct" and loss not in PUSHES_WITHOUT_POSITIVE)


def narrow(name, changes):
  """The batch in float32, for a loss with its own hyperparameters."""
  b = batch(seed=1, name=name) | changes
  b.pop("option", None)
  single = lambda a: np.float32(a) if np.asarray(a).dtype == np.float64 else a
  return {k: jax.tree.map(single, v) for k, v in b.items()}


def batches(name):
  if name in TUPLE:
    return DEGENERATE
  b = narrow(name, {})
  ((key, vectors),) = b["params"].items()
  own = vectors.reshape(CLASSES, -1, D)[b["y"], 0]
  alike = np.broadcast_to(
    vectors[:1, ..., :1, :] if vectors.ndim == 3 else vectors[:1], vectors.shape
  )
  more = {
    "on_the_vectors": {"x": own},
    "opposite": {"x": -own},
    "equal_vectors": {"params": {key: alike}},
    "zero_vectors": {"params": {key: np.zeros_like(vectors)}},
  }
  # Labels are classes here, of which there are few, and ids are nobody's.
  return {k: v for k, v in DEGENERATE.items() if k not in ("all_distinct", "same_image")} | more


@pytest.mark.slow
@pytest.mark.parametrize(
  ("loss", "group", "dtype"),
  [(*case, jnp.float32) for case in CASES]
  + [(name, table.group_of(name), jnp.bfloat16) for name in KINDS.values()],
)
def test_finite_and_zero_of_nothing(loss, group, dtype):
  f = program(loss, group, defaults=True)
  for name, changes in batches(loss).items():
    b = narrow(loss, changes)
    b |= {"x": np.asarray(b["x"], dtype)}
    results = run(f, group, b)
    for cell, (value, by_reducer, gradients) in zip(cells(group), results, strict=True):
      gradient = gradients["x"]
      assert value.dtype == np.float32 and gradient.dtype == dtype
      assert np.isfinite(value) and np.all(np.isfinite(gradient.astype(np.float32))), (name, cell)
      assert all(np.all(np.isfinite(v)) for v in by_reducer.values()), (name, cell)
      chex.assert_tree_all_finite(gradients.get("params", ()))
      if is_nothing(loss, name):
        assert not np.any(gradient), (name, cell)
        assert not np.any(by_reducer["none"]), (name, cell)
        if loss != "soft_triple":  # its centres draw together whatever the examples
          assert value == 0 and not any(np.any(v) for v in by_reducer.values()), (name, cell)
      elif name == "one_class" and loss in RANKS_WITHOUT_NEGATIVE:
        np.testing.assert_allclose(by_reducer["none"], np.zeros(N), atol=1e-5)
        np.testing.assert_allclose(gradient.astype(np.float32), np.zeros((N, D)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(PULLS_WITHOUT_NEGATIVE))
def test_one_kind_of_pair_alone_costs_something_where_it_should(loss):
  """So that the zeros above are those of the definitions, not of broken masks."""
  f = program(loss, "one_row", defaults=True)
  for name, costly in (
    ("one_class", PULLS_WITHOUT_NEGATIVE),
    ("all_distinct", PUSHES_WITHOUT_POSITIVE),
  ):
    results = run(f, "one_row", narrow(loss, DEGENERATE[name]))
    unmined = [r for cell, r in zip(cells("one_row"), results, strict=True) if cell.miner == "none"]
    if loss in costly:
      assert sum(bool(r.value > 1e-3 and np.any(r.gradient["x"])) for r in unmined) >= 4


@pytest.mark.parametrize("loss", TUPLE)
def test_batch_of_one(loss):
  x, y = jnp.ones((1, D)), jnp.zeros(1, int)
  miners = (None, GROUPS["more_rows"]["pairs_semihard"].fn, mining.create("hardest_negatives", k=2))
  of = lambda m: lambda x: losses.LOSSES[loss].fn(x, y, mining_fn=m)
  for value, gradient in compiled(lambda x: [jax.value_and_grad(of(m))(x) for m in miners])(x):
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("loss", PARAMETRIC)
def test_single_class(loss):
  """Nothing to tell apart; ProxyNCA, which compares with the others only, has no element."""
  x, y = jnp.ones((2, D)), jnp.zeros(2, int)
  of = lambda params, x: losses.LOSSES[loss].fn(x, y, params=params, **table.OPTIONS[loss])
  value, gradient = compiled(jax.value_and_grad(of, argnums=(0, 1)))(table.init(loss, classes=1), x)
  chex.assert_tree_all_finite((value, gradient))
  if loss not in ("proxy_anchor", "soft_triple"):
    assert value == 0


def test_duplicates_at_zero_distance_have_no_infinite_slope():
  """The square root is flat where images coincide, so the other pairs' gradients survive."""
  x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  y = jnp.array([0, 0, 1])
  gradient = compiled(jax.grad(lambda x: losses.contrastive_loss(x, y, negative_margin=2.0)))(x)
  assert np.all(np.isfinite(gradient)) and np.any(gradient)


@pytest.mark.parametrize("name", ["hyperbolic", "signal_to_noise", "normalized_signal_to_noise"])
def test_coincident_and_flat_examples_leave_the_others_their_gradients(name):
  """A duplicate beside its twin, and an example without signal, among ordinary ones."""
  x = jnp.array([[0.5, 1.0, 0.2], [0.5, 1.0, 0.2], [0.4, 0.4, 0.4], [0.9, -0.3, 0.1]])
  y, fn = jnp.array([0, 0, 1, 1]), distances.create(name)
  value = lambda x: losses.soft_margin_triplet_loss(x, y, distance_fn=fn)
  gradient = compiled(jax.grad(value))(x)
  assert np.all(np.isfinite(gradient)) and np.all(np.any(gradient[jnp.array([0, 1, 3])], axis=1))
