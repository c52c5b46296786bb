"""A label that is unknown, -1 or NaN, is in no pair: as if the example were masked."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses
from jaxdml._arguments import equal
from jaxdml.types import Refs

X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
Y = np.array([0, 0, 5, 1, 1, 5, 5])
UNKNOWN = Y == 5
MARKED = {
  "-1": jnp.asarray(np.where(UNKNOWN, -1, Y)),
  "int8": jnp.asarray(np.where(UNKNOWN, -1, Y), jnp.int8),
  "NaN": jnp.asarray(np.where(UNKNOWN, np.nan, Y), jnp.float32),
  "-1.0": jnp.asarray(np.where(UNKNOWN, -1, Y), jnp.float32),
}


@pytest.mark.parametrize("mark", MARKED)
@pytest.mark.parametrize("name", ["contrastive", "triplet", "supcon"])
def test_an_unknown_label_is_a_masked_example(name, mark):
  loss = jax.value_and_grad(losses.create(name))
  chex.assert_trees_all_close(
    loss(X, MARKED[mark]), loss(X, jnp.asarray(Y), where=jnp.asarray(~UNKNOWN)), rtol=1e-6
  )


@pytest.mark.parametrize("mark", MARKED)
def test_references_of_unknown_label_are_masked_ones(mark):
  labels = MARKED[mark]
  refs = Refs(X[1:], labels[1:])
  masked = Refs(X[1:], jnp.asarray(Y)[1:], jnp.asarray(~UNKNOWN)[1:])
  of = lambda refs, y: losses.margin_loss(X[:2], y, refs=refs)
  np.testing.assert_allclose(of(refs, labels[:2]), of(masked, jnp.asarray(Y)[:2]), rtol=1e-6)


@pytest.mark.parametrize("name", ["contrastive", "lifted_structure", "nca"])
def test_nothing_known_is_nothing(name):
  value, gradient = jax.value_and_grad(losses.create(name))(X, jnp.full(7, -1))
  assert float(value) == 0.0 and not np.any(gradient)


def test_class_losses_refuse_it():
  params = losses.init("proxy_nca", jax.random.key(0), 2, 3)
  assert np.isnan(losses.proxy_nca_loss(X, MARKED["-1"], params=params))


def test_lists_of_whole_numbers_and_fractions_are_labels_and_weights():
  weights, labels = [1, 0.5, 1, 1, 1, 1, 1], [0, 0, 1, 1, 2.5, 2.5, 3]
  found = jax.jit(lambda x: losses.triplet_loss(x, labels, weights=weights))(X)
  expected = losses.triplet_loss(X, jnp.array([0, 0, 1, 1, 2, 2, 3]), weights=jnp.array(weights))
  np.testing.assert_allclose(found, expected)


TYPES = (jnp.int8, jnp.int32, jnp.uint8, jnp.uint32, jnp.float16, jnp.float32, jnp.bool_)
VALUES = (0, 1, -1, 200, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1, 0.5)


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("y", TYPES)
def test_two_types_compare_exactly(x, y):
  def of(dtype):
    with np.errstate(all="ignore"):
      array = np.array(VALUES).astype(np.dtype(dtype))
    return array[np.isfinite(array.astype(np.float64))]

  a, b = of(x), of(y)
  found = equal(jnp.asarray(a)[:, None], jnp.asarray(b))
  expected = [[p == q for q in b.tolist()] for p in a.tolist()]  # Python compares exactly
  np.testing.assert_array_equal(found, expected)


def test_ids_of_two_types_are_the_same_example():
  ids = jnp.arange(7)
  loss = lambda ids, others: losses.triplet_loss(
    X, jnp.asarray(Y), ids=ids, refs=Refs(X, jnp.asarray(Y, jnp.float32), None, others)
  )
  expected = loss(ids, ids)
  np.testing.assert_allclose(loss(ids, ids.astype(jnp.uint32)), expected)
  assert float(loss(ids, ids + 9)) != float(expected)
