"""Margin loss against pytorch-metric-learning 2.9: theirs is made of triplets, ours of pairs."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning import losses as their_losses

from jaxdml import losses, mining
from jaxdml.types import Pairs
from tests.parity import helpers
from tests.parity.helpers import LAYOUTS, N, batch, batches, check


def every_triplet(pairs):
  """A row for each (anchor, positive, negative)."""
  m = pairs.distances.shape[1]
  valid = (pairs.positive[:, :, None] & pairs.negative[:, None, :])[..., None]
  one = jnp.eye(m, dtype=bool)
  rows = lambda mask: (valid & mask).reshape(-1, m)
  repeat = functools.partial(jnp.repeat, repeats=m * m, axis=0)
  return Pairs(
    repeat(pairs.distances),
    rows(one[None, :, None]),
    rows(one[None, None]),
    repeat(pairs.anchor),
  )


def hardest_triplets(x, y):
  """Their indices_tuple of every positive pair with the anchor's nearest negative."""
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  d = np.linalg.norm(unit[:, None] - unit[None], axis=2)
  same = y[:, None] == y[None]
  a, p = np.nonzero(same & ~np.eye(len(y), dtype=bool))
  n = np.argmin(np.where(same, np.inf, d), axis=1)[a]
  keep = ~same[a, n]
  return a[keep], p[keep], n[keep]


def both(loss, module, beta, x, y, indices=None):
  """Both losses' (value, gradients of x and of beta in one array)."""

  def make():
    made = module()
    made.beta.data = torch.tensor(beta)
    made_all.append(made)
    return made

  made_all = []
  value, gradient = helpers.theirs(make, x, y, indices)
  of_beta = made_all[0].beta.grad
  of_beta = np.zeros_like(beta) if of_beta is None else of_beta.numpy()
  ours, (x_gradient, beta_gradient) = loss(x, y, beta)
  join = lambda a, b: np.concatenate([np.ravel(a), np.ravel(b)])
  return (ours, join(x_gradient, beta_gradient)), (value, join(gradient, of_beta))


BETA = np.linspace(0.6, 1.3, N)
PER_CLASS = {"learn_beta": True, "num_classes": N}
TRIPLETS = tuple(layout for layout in LAYOUTS if layout != "one_class")


@pytest.mark.parametrize("nu", [0.0, 0.1])
def test_margin_with_one_triplet_a_pair(nu):
  mine = mining.chain(mining.expand_positives(), mining.hardest_negative)
  ours = helpers.Program(
    lambda x, y, beta: losses.margin_loss(x, y, margin=0.3, beta=beta, nu=nu, mining_fn=mine),
    argnums=(0, 2),
  )
  module = functools.partial(their_losses.MarginLoss, margin=0.3, nu=nu, **PER_CLASS)
  for layout, x, y in batches(TRIPLETS):
    indices = hardest_triplets(x, y)
    check(*both(ours, module, BETA, x, y, indices), helpers.tolerance(layout), layout=layout)


@pytest.mark.parametrize("nu", [0.0, 0.1])
def test_margin_counts_a_pair_once_for_each_of_its_triplets(nu):
  options = {"margin": 0.2, "nu": nu}
  ours = helpers.Program(
    lambda x, y, beta: losses.margin_loss(x, y, beta=beta, mining_fn=every_triplet, **options),
    argnums=(0, 2),
  )
  once = helpers.Program(
    lambda x, y, beta: losses.margin_loss(x, y, beta=beta, **options), argnums=(0, 2)
  )
  module = functools.partial(their_losses.MarginLoss, **options, **PER_CLASS)
  for layout, x, y in batches(TRIPLETS):
    actual, expected = both(ours, module, BETA, x, y)
    check(actual, expected, helpers.tolerance(layout), layout=layout)
    assert layout not in ("equal", "unequal") or abs(once(x, y, BETA)[0] - expected[0]) > 1e-3


def test_margin_without_a_negative():
  """Theirs has no triplets then and is 0; ours keeps the positive pairs."""
  ours = helpers.Program(lambda x, y: losses.margin_loss(x, y, margin=0.2, beta=0.9))
  pull = functools.partial(their_losses.ContrastiveLoss, pos_margin=0.9 - 0.2)
  for seed in range(2):
    x, y = batch("one_class", seed)
    assert helpers.theirs(functools.partial(their_losses.MarginLoss, beta=0.9), x, y)[0] == 0
    check(ours(x, y), helpers.theirs(pull, x, y), layout="equal")


def test_margin_adds_the_regulariser_of_one_boundary_as_it_is():
  """Ours, like theirs for a boundary a class, adds it per row over the active pairs."""
  nu, beta = 0.1, np.array([0.9])
  program = helpers.Program(
    lambda x, y, beta: losses.margin_loss(x, y, beta=beta[0], mining_fn=every_triplet),
    argnums=(0, 2),
  )
  with_beta = lambda x, y, beta: (lambda v, g: (v + nu * beta[0], (g[0], g[1] + nu)))(
    *program(x, y, beta)
  )
  module = functools.partial(their_losses.MarginLoss, nu=nu, learn_beta=True)
  for layout, x, y in batches(("equal", "unequal", "one_left_out")):
    check(*both(with_beta, module, beta, x, y), layout=layout)
