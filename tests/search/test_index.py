"""Exact equals a loop; the libraries' indexes find what is there, and say that they may miss."""

import sys

import numpy as np
import pytest

from jaxdml import distances, search
from jaxdml.evaluation import Neighbours

RNG = np.random.default_rng(0)
ITEMS = RNG.normal(size=(300, 8)).astype(np.float32)
QUERIES = (3 * RNG.normal(size=(5, 8))).astype(np.float32)


def loop(items, queries, k):
  found = []
  for q in queries.astype(float):
    cosines = [x @ q / np.sqrt((x @ x) * (q @ q)) for x in items.astype(float)]
    found.append(sorted(zip([-c for c in cosines], range(len(items)), strict=True))[:k])
  found = np.array(found)
  return found[..., 1].astype(int), -found[..., 0]


@pytest.mark.parametrize("backend", list(search.BACKENDS))
def test_finds_what_a_loop_finds(backend):
  index = search.Index(ITEMS, backend=backend)
  assert index.approximate == (backend != "exact") == index.description.startswith("approximate")
  found = index.search(QUERIES, 10)
  rows, cosines = loop(ITEMS, QUERIES, 10)
  np.testing.assert_array_equal(found.indices, rows)
  np.testing.assert_allclose(found.similarities, cosines, atol=1e-5)
  assert found.indices.dtype == np.int32 and found.similarities.dtype == np.float32
  one = index.search(QUERIES[:1], 3)
  np.testing.assert_array_equal(one.indices, rows[:1, :3])


@pytest.mark.parametrize("backend", list(search.BACKENDS))
def test_more_than_there_is_and_ties(backend):
  items = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]], np.float32)
  found = search.Index(items, backend=backend).search([[0.0, 0.5]], 5)
  assert found.indices.tolist() == [[1, 2, 0]]
  np.testing.assert_allclose(found.similarities[0], [1, 1, 0], atol=1e-6)
  assert search.Index(items, backend=backend).search([[0.0, 0.5]], 10**9).indices.shape == (1, 3)


def test_ranks_by_the_distance_of_a_model():
  fn = distances.hyperbolic(curvature=0.5)
  index = search.Index(ITEMS, distance_fn=fn)
  found, expected = index.search(QUERIES, 5), np.asarray(fn(QUERIES, ITEMS))
  np.testing.assert_array_equal(found.indices, np.argsort(expected, axis=1)[:, :5])
  assert (found.indices != search.Index(ITEMS).search(QUERIES, 5).indices).any()
  np.testing.assert_allclose(found.similarities, -np.sort(expected, axis=1)[:, :5], rtol=1e-5)
  with pytest.raises(search.SearchError, match="ranked by hyperbolic; take the backend exact"):
    search.Index(ITEMS, backend="faiss", distance_fn=fn)


def test_recall_counts_equally_near_items():
  exact = Neighbours(np.array([[0, 1], [2, -1]]), np.array([[0.9, 0.8], [0.5, -np.inf]]))
  found = Neighbours(np.array([[0, 3], [-1, -1]]), np.array([[0.9, 0.8], [-np.inf, -np.inf]]))
  assert search.recall(found, exact) == pytest.approx(2 / 3)
  assert search.recall(exact, exact) == 1.0


@pytest.mark.parametrize("backend", ["faiss", "usearch"])
def test_a_library_that_is_missing(backend, monkeypatch):
  monkeypatch.setitem(sys.modules, "faiss", None)
  monkeypatch.setitem(sys.modules, "usearch.index", None)
  with pytest.raises(search.SearchError, match=f"{backend}.* needs the package {backend}.*pip ins"):
    search.Index(ITEMS, backend=backend)


def test_wrong_arguments():
  with pytest.raises(ValueError, match="expected one of exact, faiss, usearch; got 'annoy'"):
    search.Index(ITEMS, backend="annoy")
  with pytest.raises(ValueError, match="embeddings: expected a non-empty array"):
    search.Index(np.zeros((0, 3)))
  with pytest.raises(ValueError, match="queries: expected 8 dimensions as the index has, got 3"):
    search.Index(ITEMS).search(np.ones((1, 3)), 2)
  with pytest.raises(ValueError, match="queries: expected finite"):
    search.Index(ITEMS).search(np.full((1, 8), np.nan), 2)
  with pytest.raises(ValueError, match="k: expected a whole number of at least 1"):
    search.Index(ITEMS).search(QUERIES, 0)
