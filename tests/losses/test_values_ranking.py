"""Structured and ranking losses on two or three points, expected values spelled out."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses
from jaxdml.types import Refs
from tests.losses.table import compiled

# 0 and 1 are a pair, 3 is a negative: distances 1, 3 and 2.
LINE, Y = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
# One class at 0, 1 and 3, another at 7.
FOUR, Y4 = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([0, 0, 0, 1])
log, exp = math.log, math.exp


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


def run(loss, x=LINE, labels=Y, distance_fn=distances.euclidean, **options):
  """Compiled: op by op, each operation would compile apart."""
  return compiled(functools.partial(loss, distance_fn=distance_fn, **options))(x, labels)


def test_lifted_structure():
  # Both ends of the one pair see the negative: at 3 from 0, at 2 from 1.
  both = log(exp(4 - 3) + exp(4 - 2)) + 1
  close(run(losses.lifted_structure_loss, margin=4.0), both**2 / 2)
  # Far enough, the hinge is at rest.
  assert run(losses.lifted_structure_loss, margin=-1.0) == 0


def test_lifted_structure_counts_replicated_anchors():
  # Anchor 2 twice: it is no positive's anchor, but twice among the negatives of 0 and 1.
  value = run(losses.lifted_structure_loss, margin=4.0, weights=jnp.array([1.0, 1.0, 2.0]))
  # Of the pair 01: negatives of 0 once (its own row), of 1 twice (2's row, twice).
  first = log(exp(4 - 3) + 2 * exp(4 - 2)) + 1
  second = log(exp(4 - 2) + 2 * exp(4 - 3)) + 1
  close(value, (first**2 / 2 + second**2 / 2) / 2)


def test_lifted_structure_with_private_references_sees_one_end():
  x, y = jnp.array([[0.0]]), jnp.array([0])
  private = Refs(jnp.array([[[1.0], [3.0]]]), jnp.array([[0, 1]]))
  value = run(losses.lifted_structure_loss, x, y, refs=private, margin=4.0)
  close(value, ((4 - 3) + 1) ** 2 / 2)


def test_generalized_lifted_structure():
  # log(sum exp(d_ap)) + log(exp(m - d_an)).
  parts = [
    log(exp(1) + exp(3)) + 3.5 - 7,
    log(exp(1) + exp(2)) + 3.5 - 6,
    log(exp(3) + exp(2)) - 0.5,
  ]
  assert parts[0] < 0 and parts[1] < 0 < parts[2]
  close(run(losses.generalized_lifted_structure_loss, FOUR, Y4, margin=3.5), parts[2] / 3)
  more = [part + 1.5 for part in parts]
  assert min(more) > 0
  close(run(losses.generalized_lifted_structure_loss, FOUR, Y4, margin=5.0), sum(more) / 3)


def test_circle():
  x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # cosines: 01 0.6, 02 0, 12 0.8
  m, g = 0.25, 2.0
  pull = exp(-g * (1 + m - 0.6) * (0.6 - (1 - m)))
  push = lambda s: exp(g * (s + m) * (s - m))
  value = run(losses.circle_loss, x, distance_fn=distances.cosine, margin=m, gamma=g)
  close(value, (log(1 + push(0.0) * pull) + log(1 + push(0.8) * pull)) / 2)


def test_circle_leaves_what_is_beyond_its_optimum_alone():
  # s_an = -1 < -m: its weight is 0, so it counts as exp(0).
  x = jnp.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
  m, g = 0.25, 2.0
  pull = exp(-g * (1 + m - 0.6) * (0.6 - (1 - m)))
  value = run(losses.circle_loss, x, distance_fn=distances.cosine, margin=m, gamma=g)
  close(value, log(1 + 1.0 * pull))  # 12 is at -0.6: beyond as well


def test_ranked_list():
  # The ball's radius is 3.5 - 3: the positives, at 1, are 0.5 outside; negatives at 3 and 2 are
  # 0.5 and 1.5 inside 3.5; anchor 2 weighs them by exp(2 * violation).
  value = run(
    losses.ranked_list_loss, alpha=3.5, margin=3.0, negative_temperature=2.0, balance=0.25
  )
  of_two = (exp(2 * 0.5) * 0.5 + exp(2 * 1.5) * 1.5) / (exp(2 * 0.5) + exp(2 * 1.5))
  anchors = [0.75 * 0.5 + 0.25 * 0.5, 0.75 * 0.5 + 0.25 * 1.5, 0.25 * of_two]
  close(value, sum(anchors) / 3)


def test_ranked_list_weighs_positives_too():
  # Anchor 0's positives, at 1 and 3, are 0.5 and 2.5 outside the ball of radius 1.2 - 0.7.
  private = Refs(jnp.array([[[1.0], [3.0]]]), jnp.array([[0, 0]]))
  value = run(
    losses.ranked_list_loss, FOUR[:1], Y4[:1], refs=private, alpha=1.2, margin=0.7,
    positive_temperature=1.0, balance=0.4,
  )  # fmt: skip
  close(value, 0.6 * (exp(0.5) * 0.5 + exp(2.5) * 2.5) / (exp(0.5) + exp(2.5)))


def test_fast_ap():
  # Nodes at 0, 1, 2, 3, 4. The positive at 1.5 gives half to 1 and half to 2.
  x = jnp.array([[0.0], [1.5], [2.0]])
  # Anchor 0: negative at 2. Precision 0.5 / 0.5 up to node 1, 1 / 2 up to node 2.
  first = 1 - (0.5 * 0.5 / 0.5 + 0.5 * 1 / 2)
  # Anchor 1: negative at 0.5, half at 0, half at 1: 0.5 / 1.5, then 1 / 2.
  second = 1 - (0.5 * 0.5 / 1.5 + 0.5 * 1 / 2)
  close(run(losses.fast_ap_loss, x, bins=4, max_distance=4.0), (first + second) / 2)


def test_fast_ap_counts_the_far_as_far_as_it_goes():
  # At 9 as at 4: positive and negative share the last node.
  x = jnp.array([[0.0], [9.0], [-10.0]])
  value = run(losses.fast_ap_loss, x, bins=4, max_distance=4.0)
  close(value, (1 - 1 / 2 + 1 - 1 / 2) / 2)


def test_smooth_ap():
  step = lambda gap: 1 / (1 + exp(-gap))
  precision = lambda p, q, n: (1 + step(p - q)) / (1 + step(p - q) + step(p - n))
  average = lambda p, q, n: (precision(p, q, n) + precision(q, p, n)) / 2
  value = run(losses.smooth_ap_loss, FOUR, Y4, temperature=1.0)
  close(value, 1 - (average(1, 3, 7) + average(1, 2, 6) + average(3, 2, 4)) / 3)


def test_smooth_ap_is_average_precision_when_cold():
  # Anchor 0 meets positive, negative, positive: (1 / 1 + 2 / 3) / 2.
  private = Refs(jnp.array([[[1.0], [2.0], [4.0]]]), jnp.array([[0, 1, 0]]))
  value = run(losses.smooth_ap_loss, FOUR[:1], Y4[:1], refs=private, temperature=0.01)
  close(value, 1 - (1 / 1 + 2 / 3) / 2)


def test_histogram():
  x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # cosines: 01 0.6, 02 0, 12 0.8
  # Nodes at -1, -0.5, 0, 0.5, 1. The positive at 0.6: 0.8 to node 3, 0.2 to node 4. Half of the
  # negatives at 0, node 2; half at 0.8: 0.4 to node 3, 0.6 to node 4.
  beyond_three, beyond_four = 0.5 * (0.4 + 0.6), 0.5 * 0.6
  value = run(losses.histogram_loss, x, bins=4, distance_fn=distances.cosine)
  close(value, 0.8 * beyond_three + 0.2 * beyond_four)


def test_histogram_counts_replicated_anchors():
  # Anchor 0 three times: 3 negatives at 0 and 1 at 0.8 in rows 0 and 1, 1 each in row 2.
  x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
  at_node_three, at_node_four = 2 / 6 * 0.4, 2 / 6 * 0.6
  value = run(
    losses.histogram_loss, x, bins=4, distance_fn=distances.cosine,
    weights=jnp.array([3.0, 1.0, 1.0]),
  )  # fmt: skip
  close(value, 0.8 * (at_node_three + at_node_four) + 0.2 * at_node_four)
