"""Each loss on two or three points, with the expected value spelled out as arithmetic."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from jaxdml.losses import reducers
from jaxdml.types import Refs, Rows
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
  for labels in (Y, Y - 2):  # too large, and negative; -1 is unknown
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


# One class at 0, 1 and 3, another at 7: two positives and one negative for each of three anchors.
FOUR, Y4 = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([0, 0, 0, 1])


def on_four(loss, **options):
  return run(loss, FOUR, Y4, distance_fn=distances.euclidean, **options)


def test_ntxent():
  # Each positive against the negative alone, not the other positive; T = 2 halves the distances.
  away = [(1, 7), (3, 7), (1, 6), (2, 6), (3, 4), (2, 4)]
  close(
    on_four(losses.ntxent_loss, temperature=2.0),
    sum(log(1 + exp((p - n) / 2)) for p, n in away) / 6,
  )


def test_supcon():
  # Each positive against both positives and the negative.
  everything = lambda *d: log(sum(exp(-v / 2) for v in d))
  anchors = [
    everything(1, 3, 7) + (1 + 3) / 2 / 2,
    everything(1, 2, 6) + (1 + 2) / 2 / 2,
    everything(3, 2, 4) + (3 + 2) / 2 / 2,
  ]
  close(on_four(losses.supcon_loss, temperature=2.0), sum(anchors) / 3)


def test_nca():
  # The probability of either positive; distances are squared by default.
  miss = lambda p, q, n: -log((exp(-p) + exp(-q)) / (exp(-p) + exp(-q) + exp(-n)))
  close(on_four(losses.nca_loss), (miss(1, 3, 7) + miss(1, 2, 6) + miss(3, 2, 4)) / 3)
  value = run(losses.nca_loss, FOUR, Y4, temperature=10.0)
  close(value, (miss(0.1, 0.9, 4.9) + miss(0.1, 0.4, 3.6) + miss(0.9, 0.4, 1.6)) / 3)


# Three unit vectors at 0, 0.5 and 1.2 radians.
ANGLES = jnp.array([[math.cos(a), math.sin(a)] for a in (0.0, 0.5, 1.2)])


def test_tuplet_margin():
  # The positive's angle, 0.5, counts as 0.3.
  value = run(losses.tuplet_margin_loss, ANGLES, margin=0.2, scale=4.0)
  miss = lambda n: log(1 + exp(4 * (math.cos(n) - math.cos(0.5 - 0.2))))
  close(value, (miss(1.2) + miss(1.2 - 0.5)) / 2)


def test_tuplet_margin_of_a_pair_nearer_than_the_margin():
  """cos(0.5 - 0.9) falls again: what is nearer than the margin is no longer pulled."""
  value = run(losses.tuplet_margin_loss, ANGLES, margin=0.9, scale=4.0)
  miss = lambda n: log(1 + exp(4 * (math.cos(n) - math.cos(0.5 - 0.9))))
  close(value, (miss(1.2) + miss(1.2 - 0.5)) / 2)


def test_angular():
  # Both anchors see the negative from both ends: cos 1.2 and cos 0.7.
  t = math.tan(0.6) ** 2
  exponent = 4 * t * (math.cos(1.2) + math.cos(0.7)) - 2 * (1 + t) * math.cos(0.5)
  close(run(losses.angular_loss, ANGLES, alpha=0.6), log(1 + exp(exponent)))
  # A second negative at 2 radians: s_an + s_pn is a sum again.
  x = jnp.concatenate([ANGLES, jnp.array([[math.cos(2.0), math.sin(2.0)]])])
  other = 4 * t * (math.cos(2.0) + math.cos(1.5)) - 2 * (1 + t) * math.cos(0.5)
  value = run(losses.angular_loss, x, jnp.array([0, 0, 1, 2]), alpha=0.6)
  close(value, log(1 + exp(exponent) + exp(other)))


def test_signal_to_noise_contrastive():
  # Variances: 1, 4, 4. Of differences: 01 [-1, 1] 1, 02 [1, -5] 9, 12 [2, -6] 16.
  x = jnp.array([[1.0, -1.0], [2.0, -2.0], [0.0, 4.0]])
  value = run(
    losses.signal_to_noise_contrastive_loss, x, positive_margin=0.1, negative_margin=5.0,
    distance_fn=distances.signal_to_noise,
  )  # fmt: skip
  pulls = [1 / 1 - 0.1, 1 / 4 - 0.1]
  pushes = [5 - 16 / 4, 5 - 9 / 4, 5 - 16 / 4]  # 12, 20 and 21; 02 is at 9, beyond the margin
  close(value, sum(pulls) / 2 + sum(pushes) / 3)


def test_contrastive_with_a_linear_penalty():
  value = on_the_line(losses.contrastive_loss, positive_margin=0.25, negative_margin=2.5, power=1)
  close(value, 0.75 + 0.5)


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


@pytest.mark.parametrize(
  ("reduce", "expected"),
  [
    ("mean", [0.5 / 2 / 3, 1.0 / 2 / 3]),
    ("mean_elements", [0.5 / 6, 1.0 / 6]),
    ("mean_nonzero", [0.5 / 5, 1.0 / 5]),
  ],
)
def test_what_reducers_divide_by_carries_no_gradient(reduce, expected):
  """The rows of the test before, by the weights of their anchors."""
  rows = Rows(jnp.array([[0.5], [1.0]]), jnp.array([[2.0], [2.0]]), jnp.array([[1.0], [2.0]]))
  weights = jnp.array([1.0, 2.0])
  close(jax.grad(lambda w: reducers.create(reduce)(rows, w))(weights), expected)
