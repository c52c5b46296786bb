"""Hyperparameters may be traced: their gradients are right, in blocks as well."""

import jax
import numpy as np
import pytest

from jaxdml import losses
from tests.losses.table import LOSSES, compiled

# Weights of the ranked list are constants, so its radius has no plain derivative; the histogram's
# only option is a number of bins.
LEARNABLE = {
  "angular": "alpha",
  "circle": "margin",
  "contrastive": "negative_margin",
  "fast_ap": "max_distance",
  "generalized_lifted_structure": "margin",
  "lifted_structure": "margin",
  "margin": "beta",
  "multi_similarity": "base",
  "nca": "temperature",
  "npair": "l2_reg",
  "ntxent": "temperature",
  "ranked_list": "balance",
  "signal_to_noise_contrastive": "negative_margin",
  "smooth_ap": "temperature",
  "soft_margin_triplet": "margin",
  "supcon": "temperature",
  "triplet": "margin",
  "tuplet_margin": "margin",
}


def test_every_loss_has_a_learnable_hyperparameter_but_the_histogram():
  assert sorted([*LEARNABLE, "histogram"]) == sorted(LOSSES)


@pytest.mark.parametrize(("name", "argument"), LEARNABLE.items())
def test_hyperparameters_are_learnable(name, argument):
  with jax.enable_x64(True):
    x, y = np.random.default_rng(1).normal(size=(8, 3)), np.arange(8) // 2
    of = lambda size: jax.value_and_grad(
      lambda v: losses.LOSSES[name].fn(x, y, block_size=size, **{argument: v})
    )
    loss, h = compiled(lambda v: (of(None)(v), of(3)(v))), 1e-6
    at = 3.1 if name == "fast_ap" else 0.8  # a distance that some of the pairs exceed
    (value, gradient), in_blocks = loss(at)
    assert value > 0 and gradient != 0
    numeric = (loss(at + h)[0][0] - loss(at - h)[0][0]) / (2 * h)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5)
    np.testing.assert_allclose(in_blocks, (value, gradient), rtol=1e-10)
