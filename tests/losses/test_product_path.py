"""Distances that the engine takes apart (`prepare`, `combine`) equal themselves as functions."""

import jax
import numpy as np
import pytest

from jaxdml import distances, losses
from jaxdml.types import Refs
from tests.losses.table import DISTANCES, LOSSES, D, N, batch, compiled

M = 6
# One that reads norms too; one with statistics, one that asks for distances between references.
CASES = [(distance, "npair") for distance in DISTANCES]
CASES += [("hyperbolic", "lifted_structure"), ("signal_to_noise", "angular")]


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


def test_every_named_distance_is_taken_apart():
  for fn in (*DISTANCES.values(), distances.normalized(distances.hyperbolic())):
    assert hasattr(fn, "prepare") and hasattr(fn, "combine"), fn
  plain = distances.normalized(lambda x, y: -x @ y.T)
  assert not hasattr(plain, "prepare")


@pytest.mark.slow
@pytest.mark.parametrize(("distance", "loss"), CASES)
def test_equals_the_plain_function(distance, loss):
  """Value and gradients of anchors and references: whole, in blocks, shared and private."""
  rng, b = np.random.default_rng(8), batch(seed=8)
  shared = Refs(rng.normal(size=(M, D)), np.array([0, 1, 2, 3, 0, 1]), np.arange(M) != 2)
  private = Refs(rng.normal(size=(N, M, D)), *(np.stack([a] * N) for a in shared[1:3]))
  fn = DISTANCES[distance]

  def value_and_gradients(distance_fn, refs, block_size):
    def value(x, embeddings):
      given = refs if refs is None else refs._replace(embeddings=embeddings)
      return losses.LOSSES[loss].fn(
        x, b["y"], refs=given, distance_fn=distance_fn, block_size=block_size, **LOSSES[loss]
      )

    embeddings = np.zeros((M, D)) if refs is None else refs.embeddings
    return jax.value_and_grad(value, argnums=(0, 1))(b["x"], embeddings)

  def table():
    of = value_and_gradients
    return [
      (of(lambda x, y: fn(x, y), refs, N), [of(fn, refs, size) for size in (None, 4)])
      for refs in (None, shared, private)
    ]

  for plain, product in compiled(table)():
    assert plain[0] > 0 and np.any(plain[1][0])
    for way in product:
      jax.tree.map(close, way, plain)


def test_references_are_prepared_once_however_many_blocks():
  calls = []

  @distances.product_distance(lambda x: (calls.append(x.shape), (x, ()))[1])
  def counted(products, x_terms, y_terms):
    return -products

  b = batch()
  refs = Refs(np.ones((M, D)), np.arange(M))
  losses.margin_loss(b["x"], b["y"], refs=refs, distance_fn=counted, block_size=2)
  assert sorted(calls) == [(M, D), (N, D)]


@pytest.mark.slow
@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_is_float32_inside(distance):
  """bfloat16 embeddings in blocks: their float32 values' loss, gradients in their own dtype."""
  with jax.enable_x64(False):
    b, fn = batch(seed=2), DISTANCES[distance]
    half = jax.numpy.asarray(b["x"], jax.numpy.bfloat16)
    of = lambda size: jax.value_and_grad(
      lambda x: losses.soft_margin_triplet_loss(x, b["y"], distance_fn=fn, block_size=size)
    )
    (value, gradient), (wide, wide_gradient) = compiled(
      lambda x: (of(3)(x), of(None)(x.astype(jax.numpy.float32)))
    )(half)
    assert value.dtype == np.float32 and gradient.dtype == jax.numpy.bfloat16
    np.testing.assert_allclose(value, wide, rtol=1e-4)
    scale = np.max(np.abs(wide_gradient))
    np.testing.assert_allclose(gradient.astype(np.float32), wide_gradient, atol=0.02 * scale)
