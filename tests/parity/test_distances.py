"""Distances against pytorch-metric-learning 2.9: every entry, and gradients of both inputs."""

import jax
import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning import distances as their_distances

from jaxdml import distances
from tests.parity import helpers
from tests.parity.helpers import D, N


def their(name, sign=1.0, offset=0.0, **options):
  """offset + sign * theirs: their similarities grow where our distances shrink."""
  module = getattr(their_distances, name)(**options)
  return lambda x, y: offset + sign * module(x, y)


RAW = {"normalize_embeddings": False}
CASES = {
  "euclidean": their("LpDistance", **RAW),
  "squared_euclidean": their("LpDistance", power=2, **RAW),
  "normalized_euclidean": their("LpDistance"),
  "normalized_squared_euclidean": their("LpDistance", power=2),
  "cosine": their("CosineSimilarity", -1.0, 1.0),
  "dot": their("DotProductSimilarity", -1.0, **RAW),
  "signal_to_noise": their("SNRDistance", **RAW),
  "normalized_signal_to_noise": their("SNRDistance"),
}


def data(seed, coincident):
  """x [16, 6], y [11, 6] and a cotangent; the first five of both coincide if asked for."""
  rng = np.random.default_rng(seed)
  x, y = 3.0 * rng.normal(size=(N, D)) + 1.0, rng.normal(size=(11, D)) - 0.5
  if coincident:
    y[:5] = x[:5]
  return x, y, rng.normal(size=(N, 11))


def relative(actual, expected):
  return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("name", CASES)
def test_distances(name):
  ours = distances.create(name)

  def distances_and_gradients(x, y, cotangent):
    d, pull = jax.vjp(ours, x, y)
    return d, *pull(cotangent)

  program = helpers.Compiled(distances_and_gradients)
  for seed in range(3):
    for coincident in (False, True):
      x, y, cotangent = data(seed, coincident)
      actual = program(x, y, cotangent)
      tx, ty = (torch.tensor(a, requires_grad=True) for a in (x, y))
      expected = CASES[name](tx, ty)
      expected.backward(torch.tensor(cotangent))
      rtol = 1e-7 if coincident else 1e-12
      for a, e in zip(actual, (expected.detach(), tx.grad, ty.grad), strict=True):
        assert relative(a, e.numpy()) <= rtol


def test_signal_is_the_variance_of_the_first_argument_in_both():
  x, y, _ = data(0, False)
  program = helpers.Compiled(distances.signal_to_noise)
  forward, backward = program(x, y), program(y, x).T
  theirs = their_distances.SNRDistance(normalize_embeddings=False)
  assert relative(forward, theirs(torch.tensor(x), torch.tensor(y)).numpy()) < 1e-12
  assert relative(backward, forward) > 0.1


def test_names_left_out_are_not_in_theirs():
  assert set(distances.NAMES) - set(CASES) == {"hyperbolic"}
