"""Degenerate batches: finite value and gradient for the whole table, exactly 0 of nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from tests.losses.table import (
  CASES,
  DEGENERATE,
  GROUPS,
  LOSSES,
  D,
  N,
  batch,
  cells,
  compiled,
  program,
  run,
)

NOTHING = {"one_example", "all_masked", "same_image", "no_weight"}
# Negatives alone cost something in these.
PUSHES_WITHOUT_POSITIVE = {
  "contrastive", "margin", "multi_similarity", "ranked_list", "signal_to_noise_contrastive",
}  # fmt: skip
# Positives alone cost something in these: they are pulled, or (supcon) compete with each other.
PULLS_WITHOUT_NEGATIVE = PUSHES_WITHOUT_POSITIVE | {"supcon"}
# Precision is 1 by a division, so these are 0 up to rounding.
RANKS_WITHOUT_NEGATIVE = {"fast_ap", "smooth_ap"}


def is_nothing(loss, name):
  if name == "one_class":
    return loss not in PULLS_WITHOUT_NEGATIVE | RANKS_WITHOUT_NEGATIVE
  return name in NOTHING or (name == "all_distinct" and loss not in PUSHES_WITHOUT_POSITIVE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("loss", "group"), CASES)
def test_finite_and_zero_of_nothing(loss, group, dtype):
  f = program(loss, group, defaults=True)
  for name, changes in DEGENERATE.items():
    b = batch(seed=1) | changes
    b |= {"x": np.asarray(b["x"], dtype), "weights": np.float32(b["weights"])}
    results = run(f, group, b)
    for cell, (value, by_reducer, gradient) in zip(cells(group), results, strict=True):
      assert value.dtype == np.float32 and gradient.dtype == dtype
      assert np.isfinite(value) and np.all(np.isfinite(gradient.astype(np.float32))), (name, cell)
      assert all(np.all(np.isfinite(v)) for v in by_reducer.values()), (name, cell)
      if is_nothing(loss, name):
        assert value == 0 and not np.any(gradient), (name, cell)
        assert not any(np.any(v) for v in by_reducer.values()), (name, cell)
      elif name == "one_class" and loss in RANKS_WITHOUT_NEGATIVE:
        np.testing.assert_allclose(by_reducer["none"], np.zeros(N), atol=1e-5)
        np.testing.assert_allclose(gradient.astype(np.float32), np.zeros((N, D)), atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_kind_of_pair_alone_costs_something_where_it_should(loss):
  """So that the zeros above are those of the definitions, not of broken masks."""
  f = program(loss, "one_row", defaults=True)
  for name, costly in (
    ("one_class", PULLS_WITHOUT_NEGATIVE),
    ("all_distinct", PUSHES_WITHOUT_POSITIVE),
  ):
    b = batch(seed=1) | DEGENERATE[name]
    b |= {"x": np.float32(b["x"]), "weights": np.float32(b["weights"])}
    results = dict(zip(cells("one_row"), run(f, "one_row", b), strict=True))
    unmined = [r for cell, r in results.items() if cell.miner == "none"]
    if loss in costly:
      assert sum(bool(r.value > 1e-3 and np.any(r.gradient)) for r in unmined) >= 4


@pytest.mark.parametrize("loss", LOSSES)
def test_batch_of_one(loss):
  x, y = jnp.ones((1, D)), jnp.zeros(1, int)
  miners = (None, GROUPS["more_rows"]["pairs_semihard"].fn, mining.create("hardest_negatives", k=2))
  losses_of = [
    lambda x, m=m: jax.value_and_grad(lambda x: losses.LOSSES[loss].fn(x, y, mining_fn=m))(x)
    for m in miners
  ]
  for value, gradient in compiled(lambda x: [fn(x) for fn in losses_of])(x):
    assert value == 0 and not np.any(gradient)


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
