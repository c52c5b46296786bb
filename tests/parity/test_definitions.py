"""Where pytorch-metric-learning 2.9 defines a loss differently: equal with that accounted for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning import losses as their_losses
from pytorch_metric_learning import miners as their_miners

from jaxdml import distances, losses, mining
from jaxdml.losses import _numerics, reducers
from jaxdml.types import Refs
from tests.parity import helpers
from tests.parity.helpers import N, batch, batches, check, tolerance

# HistogramLoss indexes with a list; RankedListLoss warns of the paper's own temperature.
pytestmark = [
  pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
  pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high:UserWarning"),
]


def scaled(result, factor):
  return tuple(factor * part for part in result)


def differ(a, b):
  """There is something to account for, in the gradients at least."""
  return max(helpers.errors(a, b)) > 1e-3


class SquaredContrastive(their_losses.ContrastiveLoss):
  def get_per_pair_loss(self, pair_dists, pos_or_neg):
    return super().get_per_pair_loss(pair_dists, pos_or_neg) ** 2


def test_contrastive_squares_by_default():
  program = helpers.Program(losses.contrastive_loss)
  for layout, x, y in batches():
    check(program(x, y), helpers.theirs(SquaredContrastive, x, y), tolerance(layout), layout=layout)


# Which anchors are averaged over.


def test_generalized_lifted_structure_keeps_anchors_without_positives_or_negatives():
  """Theirs gives them an empty sum's 0 for the missing side, and divides by all anchors."""
  program = helpers.Program(
    lambda x, y, margin: losses.generalized_lifted_structure_loss(x, y, margin=margin)
  )

  def accounted(x, y, margin):
    d = distances.normalized_euclidean(x, x)
    positive = (y[:, None] == y[None]) & ~jnp.eye(N, dtype=bool)
    negative = y[:, None] != y[None]
    lacking = ~(jnp.any(positive, axis=1) & jnp.any(negative, axis=1))
    sums = _numerics.log_sum_exp(d, positive) + _numerics.log_sum_exp(margin - d, negative)
    both = losses.generalized_lifted_structure_loss(x, y, margin=margin, reduce_fn=reducers.sum)
    return (both + jnp.sum(jnp.where(lacking, jax.nn.relu(sums), 0.0))) / N

  accounted = helpers.Program(accounted)
  module = functools.partial(their_losses.GeneralizedLiftedStructureLoss, neg_margin=0.7)
  for layout, x, y in batches():
    expected = helpers.theirs(module, x, y)
    check(accounted(x, y, 0.7), expected, tolerance(layout), layout=layout)
    assert layout == "equal" or differ(program(x, y, 0.7), expected)


def test_multi_similarity_counts_anchors_that_its_miner_emptied():
  options = {"alpha": 2.0, "beta": 10.0, "base": 0.4}
  mine = mining.multi_similarity_filter(epsilon=-0.3)
  program = helpers.Program(
    lambda x, y: losses.multi_similarity_loss(x, y, mining_fn=mine, **options)
  )
  module = functools.partial(their_losses.MultiSimilarityLoss, **options)
  emptied = 0
  for layout, x, y in batches():
    indices = their_miners.MultiSimilarityMiner(epsilon=-0.3)(torch.tensor(x), torch.tensor(y))
    kept = len(np.union1d(indices[0], indices[2]))
    emptied += 0 < kept < N
    rich = layout if kept else None
    expected = helpers.theirs(module, x, y, indices)
    check(scaled(program(x, y), kept / N), expected, tolerance(layout), layout=rich)
  assert emptied


def test_supcon_without_a_negative():
  """Theirs is 0 then; ours still spreads its softmax evenly over the positives."""
  program = helpers.Program(lambda x, y: losses.supcon_loss(x, y, temperature=0.2))

  def formula(x, y, indices):
    del y, indices
    x = torch.nn.functional.normalize(x)
    logits = (x @ x.T / 0.2)[~torch.eye(N, dtype=torch.bool)].reshape(N, N - 1)
    return -torch.log_softmax(logits, dim=1).mean()

  for seed in range(2):
    x, y = batch("one_class", seed)
    assert helpers.theirs(lambda: their_losses.SupConLoss(temperature=0.2), x, y)[0] == 0
    check(program(x, y), helpers.theirs(lambda: formula, x, y), layout="equal")


# What is compared.


def test_angular_leaves_negatives_unnormalised():
  """Ours says the same of references that hold normalised positives and raw negatives."""
  half_unit = lambda a, b: 1.0 - distances.matmul(distances.l2_normalize(a), b)
  column = jnp.arange(2 * N)
  split = lambda pairs: pairs._replace(
    positive=pairs.positive & (column < N), negative=pairs.negative & (column >= N)
  )

  def loss(x, y):
    ids = jnp.arange(N)
    both = Refs(
      jnp.concatenate([distances.l2_normalize(x), x]),
      jnp.concatenate([y, y]),
      ids=jnp.concatenate([ids, ids]),
    )
    return losses.angular_loss(x, y, refs=both, ids=ids, distance_fn=half_unit, mining_fn=split)

  program, plain = helpers.Program(loss), helpers.Program(losses.angular_loss)
  module = functools.partial(their_losses.AngularLoss, alpha=40)
  for layout, x, y in batches():
    expected = helpers.theirs(module, x, y)
    check(program(x, y), expected, tolerance(layout), layout=layout)
    rich = layout in helpers.RICH
    assert not rich or differ(plain(x, y), expected)


def ranked_list(x, y, *, t, balance, epsilon, constant_weights, coincident):
  """The loss at alpha 1.2, margin 0.4, with what the two libraries do differently as arguments.

  Args:
    x: [n, d].
    y: [n].
    t: temperatures of positives and negatives.
    balance: share of the negatives.
    epsilon: added to the sum of weights for each of the n references.
    constant_weights: no gradient flows through the weights.
    coincident: whether negatives at distance 0 count.
  """
  x = torch.nn.functional.normalize(x)
  d = torch.cdist(x, x)
  same, itself = y[:, None] == y[None], torch.eye(len(y), dtype=torch.bool)

  def term(hinge, mask, t):
    weight = torch.where(mask & (hinge > 0), torch.exp(t * hinge), 0.0)
    weight = weight.detach() if constant_weights else weight
    total = weight.sum(1) + epsilon * len(y)
    return (weight * hinge).sum(1) / torch.where(total > 0, total, 1.0)

  pull = term(d - 0.8, same & ~itself, t[0])
  push = term(1.2 - d, ~same & ((d > 0) | coincident), t[1])
  return ((1 - balance) * pull + balance * push).mean()


@pytest.mark.parametrize(("t", "balance"), [((0.0, 10.0), 0.5), ((2.0, 4.0), 0.3)])
def test_ranked_list_epsilon_and_weights(t, balance):
  formula = functools.partial(ranked_list, t=t, balance=balance)
  as_theirs = functools.partial(formula, epsilon=1e-5, constant_weights=False, coincident=False)
  as_ours = functools.partial(formula, epsilon=0.0, constant_weights=True, coincident=True)
  module = functools.partial(
    their_losses.RankedListLoss, margin=0.4, alpha=1.2, Tp=t[0], Tn=t[1], imbalance=balance
  )
  program = helpers.Program(
    lambda x, y: losses.ranked_list_loss(
      x, y, positive_temperature=t[0], negative_temperature=t[1], balance=balance
    )
  )
  wrap = lambda fn: lambda: lambda x, y, indices: fn(x, y)
  for layout, x, y in batches():
    expected = helpers.theirs(module, x, y)
    check(helpers.theirs(wrap(as_theirs), x, y), expected, layout=layout)
    actual = program(x, y)
    check(actual, helpers.theirs(wrap(as_ours), x, y), tolerance(layout), layout=layout)
    assert layout != "unequal" or differ(actual, expected)


def test_histogram_leaves_out_pairs_of_singletons():
  """Theirs has the pairs of triplets only, each once; ours every pair, from both its ends."""

  def in_triplets(pairs):
    has = jnp.any(pairs.positive, axis=1)
    return pairs._replace(negative=pairs.negative & (has[:, None] | has[None, :]))

  program = helpers.Program(lambda x, y: losses.histogram_loss(x, y, mining_fn=in_triplets))
  plain = helpers.Program(losses.histogram_loss)
  for layout, x, y in batches(("equal", "unequal", "one_left_out", "one_class", "distinct")):
    expected = helpers.theirs(their_losses.HistogramLoss, x, y)
    check(program(x, y), expected, layout=layout)
    assert (layout == "unequal") == differ(plain(x, y), expected)
