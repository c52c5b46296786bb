"""Each loss on two or three points, with the expected value spelled out as arithmetic."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from jaxdml.losses import reducers
from jaxdml.types import Refs
from tests.losses.table import compiled

# Three points on a line, so that distances are differences: 0 and 1 apart by 1, 0 and 2 by 3.
LINE = jnp.array([[0.0], [1.0], [3.0]])
Y = jnp.array([0, 0, 1])
log, exp = math.log, math.exp


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


def run(loss, x, labels=Y, **options):
  """Compiled: op by op, each operation would compile apart."""
  return compiled(functools.partial(loss, **options))(x, labels)


def on_the_line(loss, **options):
  return run(loss, LINE, distance_fn=distances.euclidean, **options)


def test_contrastive():
  # Positives 01, 10 at 1; negatives 02, 20 at 3 (inactive) and 12, 21 at 2.
  value = on_the_line(losses.contrastive_loss, positive_margin=0.25, negative_margin=2.5)
  close(value, ((1 - 0.25) ** 2 * 2) / 2 + ((2.5 - 2) ** 2 * 2) / 2)
  value = on_the_line(
    losses.contrastive_loss, positive_margin=0.25, negative_margin=2.5,
    reduce_fn=reducers.mean_elements,
  )  # fmt: skip
  close(value, (0.75**2 * 2) / 2 + (0.5**2 * 2) / 4)


def test_margin():
  # Per pair: positives [1 - beta + m]_+, negatives [beta - d + m]_+.
  value = on_the_line(losses.margin_loss, margin=0.5, beta=2.0)
  close(value, (0 + 0 + 2 * (2.0 - 2 + 0.5)) / 2)
  value = on_the_line(losses.margin_loss, margin=0.5, beta=1.2, nu=0.1)
  close(value, (2 * (1 - 1.2 + 0.5) + 3 * 0.1 * 1.2) / 2)


def test_margin_with_a_boundary_for_each_class():
  # Anchors 0 and 1 use beta_0 = 1, anchor 2 uses beta_1 = 2.5.
  beta = jnp.array([1.0, 2.5])
  loss = lambda beta: losses.margin_loss(
    LINE, Y, margin=0.2, beta=beta, nu=0.1, distance_fn=distances.euclidean
  )
  value, gradient = compiled(jax.value_and_grad(loss))(beta)
  active = 2 * (1 - 1 + 0.2) + (2.5 - 2 + 0.2)
  close(value, (active + 0.1 * (1 + 1 + 2.5)) / 3)
  # d/d beta_0: two active positives pull it up, nu twice; beta_1: one active negative, nu once.
  close(gradient, [(-2 + 2 * 0.1) / 3, (1 + 0.1) / 3])


def test_margin_boundary_missing_for_a_class_is_nan():
  for labels in (Y, Y - 1):  # too large, and negative
    value = run(
      losses.margin_loss, LINE, labels, beta=jnp.array([1.0]), distance_fn=distances.euclidean
    )
    assert np.isnan(value)


def test_triplet():
  # Triplets (0,1,2): 1 - 3, (1,0,2): 1 - 2.
  close(on_the_line(losses.triplet_loss, margin=1.5), 1 - 2 + 1.5)
  value = on_the_line(losses.triplet_loss, margin=1.5, reduce_fn=reducers.mean_elements)
  close(value, (0 + (1 - 2 + 1.5)) / 2)
  close(run(losses.triplet_loss, LINE, Y, distance_fn=distances.squared_euclidean, margin=4.0), 1.0)


def test_soft_margin_triplet():
  value = on_the_line(losses.soft_margin_triplet_loss, margin=0.5)
  close(value, (log(1 + exp(1 - 3 + 0.5)) + log(1 + exp(1 - 2 + 0.5))) / 2)


def test_npair():
  x = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
  # s_01 = 2, s_02 = 0, s_12 = 3; anchor 2 has no positive.
  terms = (log(1 + exp(0 - 2)), log(1 + exp(3 - 2)))
  close(run(losses.npair_loss, x, Y), sum(terms) / 2)
  # ||x_0||^2 = 1, ||x_1||^2 = 5: both pairs carry both norms.
  close(run(losses.npair_loss, x, Y, l2_reg=0.3), sum(terms) / 2 + 0.3 / 4 * (1 + 5))


def test_npair_with_one_positive_is_softmax_cross_entropy():
  x = jax.random.normal(jax.random.key(0), (6, 3))
  anchors, positives = x[0::2], x[1::2]
  labels = jnp.arange(3)
  value = run(losses.npair_loss, anchors, labels, refs=Refs(positives, labels))
  logits = anchors @ positives.T
  close(value, -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits))))


def test_multi_similarity():
  x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
  # Cosines: 01 0.6, 02 0, 12 0.8.
  pull = log(1 + exp(-2 * (0.6 - 0.5))) / 2
  push = lambda *s: log(1 + sum(exp(10 * (v - 0.5)) for v in s)) / 10
  value = run(losses.multi_similarity_loss, x, Y, alpha=2.0, beta=10.0, base=0.5)
  close(value, (pull + push(0.0) + pull + push(0.8) + push(0.0, 0.8)) / 3)


def test_small_losses_are_not_rounded_to_zero():
  x = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  value = losses.multi_similarity_loss(x, jnp.arange(2), beta=20.0, base=0.0)
  close(value, math.log1p(exp(-20.0)) / 20)


def test_easy_positive_sampling():
  # 0, 1 and 3 are one class: 0 keeps 1, 1 keeps 0, 3 keeps 1. Negatives all stay.
  x = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  y = jnp.array([0, 0, 0, 1])
  value = run(
    losses.triplet_loss, x, y, margin=0.0, distance_fn=distances.euclidean,
    mining_fn=mining.nearest_positive, reduce_fn=reducers.sum,
  )  # fmt: skip
  close(value, 0.0)
  value = run(losses.soft_margin_triplet_loss, x, y, mining_fn=mining.nearest_positive)
  close(value, (log(1 + exp(1 - 7)) + log(1 + exp(1 - 6)) + log(1 + exp(2 - 4))) / 3)


@pytest.mark.parametrize(
  ("reduce", "expected"),
  [
    ("none", [1 * 0.5, 2 * (0.5 + 0.5), 0.0]),
    ("sum", 1 * 0.5 + 2 * 1.0),
    ("mean", (1 * 0.5 / 2 + 2 * 1.0 / 2) / (1 + 2)),
    ("mean_elements", (0.5 + 2 * 1.0) / (2 + 2 * 2)),
    ("mean_nonzero", (0.5 + 2 * 1.0) / (1 + 2 * 2)),
  ],
)
def test_reducers_weigh_numerator_and_denominator(reduce, expected):
  # Positives at 1 cost 1 - 1 + 0.5; anchor 0's negative at 2 nothing, anchor 1's at 1 - 1 + 0.5.
  rows = run(
    losses.margin_loss, jnp.array([[0.0], [1.0], [2.0]]), margin=0.5, beta=1.0,
    weights=jnp.array([1.0, 2.0, 0.0]), distance_fn=distances.euclidean,
    reduce_fn=reducers.create(reduce),
  )  # fmt: skip
  close(rows, expected)


LEARNABLE = {
  "contrastive": "negative_margin",
  "margin": "beta",
  "multi_similarity": "base",
  "npair": "l2_reg",
  "soft_margin_triplet": "margin",
  "triplet": "margin",
}


@pytest.mark.parametrize(("name", "argument"), LEARNABLE.items())
def test_hyperparameters_are_learnable(name, argument):
  with jax.enable_x64(True):
    x, y = np.random.default_rng(1).normal(size=(8, 3)), np.arange(8) // 2
    loss = compiled(jax.value_and_grad(lambda v: losses.LOSSES[name](x, y, **{argument: v})))
    (value, gradient), h = loss(0.8), 1e-6
    assert value > 0 and gradient != 0
    numeric = (loss(0.8 + h)[0] - loss(0.8 - h)[0]) / (2 * h)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5)
