"""Degenerate batches: finite value and gradient for the whole table, exactly 0 of nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining
from tests.losses.table import CASES, DISTANCES, GROUPS, LOSSES, D, N, batch, compiled, program

ONE_EXAMPLE = np.arange(N) == 3
TRIPLET_LIKE = ("npair", "soft_margin_triplet", "triplet")

BATCHES = {
  "one_class": {"y": np.zeros(N, int)},
  "all_distinct": {"y": np.arange(N)},
  "duplicates": {"x": np.repeat(batch(seed=2)["x"][:2], N // 2, axis=0)},
  "all_equal": {"x": np.full((N, D), 0.37)},
  "all_zero": {"x": np.zeros((N, D))},
  "tiny": {"x": 1e-30 * batch(seed=2)["x"]},
  "large": {"x": 1e2 * batch(seed=2)["x"]},
  "one_example": {"where": ONE_EXAMPLE},
  "all_masked": {"where": np.zeros(N, bool)},
  "same_image": {"ids": np.zeros(N, int)},
  "no_weight": {"weights": np.zeros(N)},
}
NOTHING = {"one_example", "all_masked", "same_image", "no_weight"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("loss", "group"), CASES)
def test_finite_and_zero_of_nothing(loss, group, dtype):
  f = program(loss, group, defaults=True)
  for name, changes in BATCHES.items():
    b = batch(seed=1) | changes
    b |= {"x": jnp.asarray(b["x"], dtype), "weights": np.float32(b["weights"])}
    empty = name in NOTHING or (loss in TRIPLET_LIKE and name in ("one_class", "all_distinct"))
    for i, miner in enumerate(GROUPS[group]):
      for j, distance in enumerate(DISTANCES):
        (value, by_reducer), gradient = jax.device_get(f(i, j, b))
        where = (name, miner, distance)
        assert value.dtype == np.float32 and gradient.dtype == dtype
        assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient)), where
        assert all(np.all(np.isfinite(v)) for v in by_reducer.values()), where
        if empty:
          assert value == 0 and not np.any(gradient), where
          assert not any(np.any(v) for v in by_reducer.values()), where


@pytest.mark.parametrize("loss", LOSSES)
def test_batch_of_one(loss):
  x, y = jnp.ones((1, D)), jnp.zeros(1, int)
  for mining_fn in (None, mining.chain(mining.expand_positives, mining.semihard_negative)):
    fn = lambda x, mining_fn=mining_fn: losses.LOSSES[loss](x, y, mining_fn=mining_fn)
    value, gradient = compiled(jax.value_and_grad(fn))(x)
    assert value == 0 and not np.any(gradient)


def test_duplicates_at_zero_distance_have_no_infinite_slope():
  """The square root is flat where images coincide, so the other pairs' gradients survive."""
  x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  y = jnp.array([0, 0, 1])
  gradient = compiled(jax.grad(lambda x: losses.contrastive_loss(x, y, negative_margin=2.0)))(x)
  assert np.all(np.isfinite(gradient)) and np.any(gradient)
