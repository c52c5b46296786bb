"""Miners against pytorch-metric-learning 2.9: the pairs kept, and losses behind easy positives.

Theirs name a side by its difficulty: a "hard" negative is the nearest. The farthest ("easy") and
semihard positives are not among our miners.
"""

import functools

import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning import losses as their_losses
from pytorch_metric_learning import miners as their_miners
from pytorch_metric_learning.distances import LpDistance

from jaxdml import distances, losses, mining
from jaxdml.losses import make_pairs
from jaxdml.types import Refs
from tests.parity import helpers
from tests.parity.helpers import LAYOUTS, N, batch, batches, check, tolerance

# Ties between duplicates may be broken either way; the losses below include them.
UNTIED = tuple(layout for layout in LAYOUTS if not layout.startswith("duplicated"))


def kept(mining_fn, distance_fn=distances.normalized_euclidean):
  """(x, y) -> (distances, positive, negative) [n, n] of the mined pairs."""

  def mine(x, y):
    ids = np.arange(N)
    pairs = make_pairs(x, y, Refs(x, y, ids=ids), distance_fn=distance_fn, ids=ids)
    mined = mining_fn(pairs)
    return mined.distances, mined.positive, mined.negative

  return helpers.Compiled(mine)


def masks(miner, x, y):
  """(positive, negative) [n, n] that their miner keeps."""
  indices = miner(torch.tensor(x), torch.tensor(y))
  a1, p, a2, n = indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])
  positive, negative = np.zeros((2, N, N), bool)
  positive[a1, p] = True
  negative[a2, n] = True
  return positive, negative


POSITIVES = {
  "easy": mining.nearest_positive,
  "hard": mining.hardest_positive,
  "all": mining.all_positives,
}
NEGATIVES = {"hard": mining.hardest_negative, "all": mining.all_negatives}


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("positive", POSITIVES)
def test_easy_and_hard(positive, negative):
  program = kept(mining.chain(POSITIVES[positive], NEGATIVES[negative]))
  miner = their_miners.BatchEasyHardMiner(pos_strategy=positive, neg_strategy=negative)
  found = 0
  for _, x, y in batches(UNTIED):
    _, ours_positive, ours_negative = program(x, y)
    if "all" not in (positive, negative):
      # Theirs drops anchors that lack a side; ours leaves that to the loss.
      whole = ours_positive.any(1, keepdims=True) & ours_negative.any(1, keepdims=True)
      ours_positive, ours_negative = ours_positive & whole, ours_negative & whole
    their_positive, their_negative = masks(miner, x, y)
    np.testing.assert_array_equal(ours_positive, their_positive)
    np.testing.assert_array_equal(ours_negative, their_negative)
    found += np.sum(their_positive) * np.sum(their_negative)
  assert found


def test_batch_hard():
  program = kept(mining.chain(mining.hardest_positive, mining.hardest_negative))
  for _, x, y in batches(("equal",)):
    for ours, theirs in zip(
      program(x, y)[1:], masks(their_miners.BatchHardMiner(), x, y), strict=True
    ):
      assert np.all(theirs.sum(1) == 1)
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("positive", ["easy", "hard"])
def test_semihard_falls_back_where_theirs_drops_the_anchor(positive):
  program = kept(mining.chain(POSITIVES[positive], mining.semihard_negative))
  miner = their_miners.BatchEasyHardMiner(pos_strategy=positive, neg_strategy="semihard")
  fell_back = semihard = 0
  for _, x, y in batches(UNTIED, seeds=4):
    d, ours_positive, ours_negative = program(x, y)
    their_positive, their_negative = masks(miner, x, y)
    rows = their_negative.any(axis=1)
    np.testing.assert_array_equal(ours_positive[rows], their_positive[rows])
    np.testing.assert_array_equal(ours_negative[rows], their_negative[rows])
    semihard += np.sum(rows)
    for i in np.flatnonzero(ours_negative.any(axis=1) & ~rows):
      others = y != y[i]
      (n,) = np.flatnonzero(ours_negative[i])
      assert d[i, n] == np.max(d[i, others]) <= d[i, ours_positive[i]]
      fell_back += 1
  assert fell_back and semihard


@pytest.mark.parametrize("epsilon", [0.1, -0.2])
def test_multi_similarity_filter(epsilon):
  """Theirs looks at similarities: 1 minus our cosine distance."""
  mine = mining.multi_similarity_filter(epsilon=epsilon)
  program = kept(mine, distances.cosine)
  miner = their_miners.MultiSimilarityMiner(epsilon=epsilon)
  dropped = 0
  for layout, x, y in batches(UNTIED):
    _, *ours = program(x, y)
    theirs = masks(miner, x, y)
    for a, b in zip(ours, theirs, strict=True):
      np.testing.assert_array_equal(a, b)
    dropped += N * (N - 1) - np.sum(theirs)
    assert layout not in ("equal", "unequal") or np.any(theirs)
  assert dropped


def test_triplet_margin_miner_keeps_the_active_triplets():
  """So an average over active triplets is that without mining."""
  program = helpers.Program(losses.triplet_loss)
  module = functools.partial(their_triplet, 0.2)
  miner = their_miners.TripletMarginMiner(0.2, distance=LpDistance(power=2))
  for layout, x, y in batches():
    check(program(x, y), helpers.theirs(module, x, y, miner), tolerance(layout), layout=layout)


# Easy positive sampling: the nearest positive, with all negatives or one.

ONE_ROW_A_POSITIVE = mining.expand_positives(max_positives=1)


def their_triplet(margin=2.0):
  return their_losses.TripletMarginLoss(margin, distance=LpDistance(power=2))


TRIPLET = functools.partial(losses.triplet_loss, margin=2.0)
SOFT_MARGIN = functools.partial(
  losses.soft_margin_triplet_loss, distance_fn=distances.normalized_euclidean
)
CONTRASTIVE = functools.partial(losses.contrastive_loss, power=1)
their_soft_margin = functools.partial(their_losses.TripletMarginLoss, 0.0, smooth_loss=True)
# Ours, theirs, and which negatives.
EPS = {
  "triplet": (TRIPLET, their_triplet, "all"),
  "soft_margin_triplet": (SOFT_MARGIN, their_soft_margin, "all"),
  "contrastive": (CONTRASTIVE, their_losses.ContrastiveLoss, "all"),
  "ntxent": (losses.ntxent_loss, their_losses.NTXentLoss, "all"),
  "multi_similarity": (losses.multi_similarity_loss, their_losses.MultiSimilarityLoss, "all"),
  "supcon": (losses.supcon_loss, their_losses.SupConLoss, "all"),
  "triplet_hard": (TRIPLET, their_triplet, "hard"),
  "margin_hard": (losses.margin_loss, their_losses.MarginLoss, "hard"),
}
EPS_MINER = {
  "all": mining.nearest_positive,
  # An anchor without a positive keeps no negative then, which the margin loss would count.
  "hard": mining.chain(mining.nearest_positive, ONE_ROW_A_POSITIVE, mining.hardest_negative),
}


@pytest.mark.parametrize("name", EPS)
def test_easy_positives(name):
  loss, module, negative = EPS[name]
  program = helpers.Program(functools.partial(loss, mining_fn=EPS_MINER[negative]))
  plain = helpers.Program(loss)
  miner = their_miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy=negative)
  for layout, x, y in batches():
    if layout == "one_class" and name in ("supcon", "margin_hard"):
      continue  # 0 in theirs: see test_definitions and test_margin
    expected = helpers.theirs(module, x, y, miner)
    check(program(x, y), expected, tolerance(layout), layout=layout)
    assert layout != "equal" or abs(plain(x, y)[0] / expected[0] - 1) > 1e-3


def test_easy_positives_with_semihard_negatives():
  """The paper's pairing, on batches where no anchor needs the fallback."""
  eps = mining.chain(mining.nearest_positive, mining.semihard_negative)
  program = helpers.Program(functools.partial(losses.triplet_loss, margin=0.5, mining_fn=eps))
  module = functools.partial(their_triplet, 0.5)
  miner = their_miners.BatchEasyHardMiner()
  for seed in range(4):
    x, y = batch("equal", seed)
    assert np.all(masks(miner, x, y)[1].any(axis=1))
    check(program(x, y), helpers.theirs(module, x, y, miner), layout="equal")
