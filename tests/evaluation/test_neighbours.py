"""Nearest neighbours against a full sort: ties, duplicates, ids, tiles, devices, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances
from jaxdml.evaluation import nearest_neighbours, retrieval


def reference(queries, gallery, k, dropped, normalize=False):
  """Sorts every row of the whole matrix, stably; float64."""
  if normalize:
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
  similarity = queries @ gallery.T - (0 if normalize else 0.5 * (gallery**2).sum(1))
  similarity[dropped] = -np.inf
  order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
  values = np.take_along_axis(similarity, order, axis=1)
  return np.where(np.isneginf(values), -1, order), values


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("tile", [64, 16_384])
def test_equals_a_full_sort_with_ties_whatever_the_tile(monkeypatch, tile):
  """Few distinct whole numbers: most similarities are tied, and exact."""
  monkeypatch.setattr(retrieval, "_TILE", tile)
  rng = np.random.default_rng(0)
  queries = rng.integers(-2, 3, (30, 3)).astype(float)
  gallery = rng.integers(-2, 3, (500, 3)).astype(float)
  ids, gallery_ids = np.arange(30) % 7, np.arange(500) % 11
  for k in (1, 5, 70):
    found = nearest_neighbours(
      queries, k, gallery=gallery, ids=ids, gallery_ids=gallery_ids, normalize=False, block_size=8
    )
    indices, values = reference(queries, gallery, k, ids[:, None] == gallery_ids)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.similarities, values)
    assert found.indices.dtype == np.int32 and found.similarities.dtype == np.float32


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e3, 1e5])
def test_far_from_the_origin_the_nearest_are_the_nearest(offset):
  """Euclidean neighbours are those of the same float32 vectors in float64, ties included."""
  rng = np.random.default_rng(3)
  smooth = (rng.normal(size=(200, 64)) + offset).astype(np.float32)
  whole = rng.integers(-2, 3, (200, 3)) + offset
  for x, queries in ((smooth, None), (whole, None), (smooth, smooth[:50] + np.float32(0.25))):
    given = {} if queries is None else {"gallery": x}
    found = nearest_neighbours(x if queries is None else queries, 5, normalize=False, **given)
    exact = (np.asarray(x, np.float64) if queries is None else queries.astype(np.float64)) - x[0]
    dropped = np.eye(200, dtype=bool) if queries is None else np.zeros((50, 200), bool)
    order, _ = reference(exact, x.astype(np.float64) - x[0], 5, dropped)
    if offset < 1e5:
      np.testing.assert_array_equal(found.indices, order)
    else:  # the vectors themselves have one or two digits left, and many ties
      assert np.mean(found.indices[:, 0] == order[:, 0]) > 0.9


def test_cosine_similarity_of_a_set_with_itself():
  x = np.random.default_rng(1).normal(size=(100, 5))
  found = nearest_neighbours(x, 10)
  indices, values = reference(x, x, 10, np.eye(100, dtype=bool), normalize=True)
  np.testing.assert_array_equal(found.indices, indices)
  np.testing.assert_allclose(found.similarities, values, atol=1e-6)


def test_duplicates_stay_and_come_by_index():
  x = np.repeat(np.random.default_rng(2).normal(size=(9, 7)), 4, axis=0)
  found = nearest_neighbours(x, 3)
  for row, near in enumerate(found.indices):
    group = [i for i in range(row // 4 * 4, row // 4 * 4 + 4) if i != row]
    assert near.tolist() == group


def test_places_without_a_candidate_say_so():
  found = nearest_neighbours([[1.0, 0.0], [0.0, 1.0]], 3)
  assert found.indices.tolist() == [[1, -1], [0, -1]]
  assert np.isneginf(found.similarities[:, 1:]).all() and (found.similarities[:, 0] == 0).all()
  alike = nearest_neighbours(np.eye(3), 1, ids=["a", "a", "a"])
  assert (alike.indices == -1).all()


def test_no_more_places_than_there_are_items():
  """Nothing of the size of k is made."""
  found = nearest_neighbours(np.eye(3), 10**9, gallery=np.eye(3)[:2])
  assert found.indices.shape == found.similarities.shape == (3, 2)
  assert nearest_neighbours(np.eye(3), 2**70).indices.shape == (3, 3)


@pytest.mark.parametrize("k", [np.inf, np.nan, None, "many", [1, 2], 2.5, -(10**30)])
def test_what_is_no_number_of_neighbours(k):
  with pytest.raises(ValueError, match="k: expected a whole number of at least 1, got"):
    nearest_neighbours(np.eye(3), k)
  with pytest.raises(ValueError, match="ks: expected a whole number of at least 1, got"):
    retrieval.retrieval_metrics(np.eye(3), [0, 0, 1], ks=(1, k))


def test_an_unknown_id_is_nobody_s():
  found = nearest_neighbours(
    np.eye(2), 2, gallery=np.eye(2), ids=["a", None], gallery_ids=["a", None]
  )
  assert found.indices.tolist() == [[1, -1], [1, 0]]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ["hyperbolic", "signal_to_noise", "dot", "own"])
def test_any_distance_ranks(name, alone, monkeypatch):
  """As a loop over the distances themselves; one of one's own is a plain function."""
  monkeypatch.setattr(retrieval, "_TILE", 64)
  rng = np.random.default_rng(4)
  x, gallery = (rng.normal(size=(n, 4)).astype(np.float32) for n in (70, 150))
  own = lambda a, b: jnp.abs(a[:, None] - b).max(2)
  fn = own if name == "own" else distances.create(name)
  labels, gallery_labels = rng.integers(0, 5, 70), rng.integers(0, 5, 150)
  given = {} if alone else {"gallery": gallery}
  expected = np.array(fn(jnp.asarray(x), jnp.asarray(x if alone else gallery)))
  if alone:
    np.fill_diagonal(expected, np.inf)
  order = np.argsort(expected, axis=1, kind="stable")
  found = nearest_neighbours(x, 6, distance_fn=fn, **given)
  np.testing.assert_array_equal(found.indices, order[:, :6])
  nearest = np.take_along_axis(expected, order[:, :6], axis=1)
  np.testing.assert_allclose(found.similarities, -nearest, rtol=1e-5, atol=1e-5)
  more = {} if alone else {"gallery_labels": gallery_labels}
  metrics = retrieval.retrieval_metrics(x, labels, ks=(1, 5), distance_fn=fn, **given, **more)
  hits = (labels if alone else gallery_labels)[order] == labels[:, None]
  assert metrics["recall@1"] == pytest.approx(hits[:, 0].mean())
  assert metrics["recall@5"] == pytest.approx(hits[:, :5].any(1).mean())


def test_every_device_count_gives_the_same(monkeypatch):
  x = np.random.default_rng(3).normal(size=(100, 16)).astype(np.float32)
  eight = nearest_neighbours(x, 4, block_size=8)
  device = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: device)
  one = nearest_neighbours(x, 4, block_size=8)
  np.testing.assert_array_equal(eight.indices, one.indices)
  np.testing.assert_array_equal(eight.similarities, one.similarities)


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    ({"k": 0}, "k: .* at least 1, got 0"),
    ({"queries": [[np.nan]]}, "queries: expected finite"),
    ({"gallery": [[1.0, 2.0]]}, "gallery: expected embeddings of size 1"),
    ({"ids": [0, 1]}, "ids: expected .* 3, got 2"),
    ({"gallery_ids": [0]}, "pass gallery too"),
    ({"gallery": [[1.0]], "gallery_ids": [0]}, "both or neither"),
    ({"block_size": 0}, "block_size"),
  ],
)
def test_wrong_input_is_refused(arguments, match):
  arguments = {"queries": [[0.0], [1.0], [2.0]], "k": 1, **arguments}
  with pytest.raises(ValueError, match=match):
    nearest_neighbours(arguments.pop("queries"), arguments.pop("k"), **arguments)
