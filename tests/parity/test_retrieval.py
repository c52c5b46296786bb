"""Retrieval metrics against pytorch-metric-learning 2.9's AccuracyCalculator, with faiss."""

import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")
pytest.importorskip("faiss", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from jaxdml.evaluation import nearest_neighbours, retrieval_metrics

NAMES = {
  "precision_at_1": "precision@1",
  "r_precision": "r_precision",
  "mean_average_precision_at_r": "map@r",
  "mean_average_precision": "map",
  "mean_reciprocal_rank": "mrr",
}


def theirs(x, labels, gallery=None, gallery_labels=None, *, macro=False, knn_func=None):
  """Their metrics under our names; embeddings at unit norm, as they do not scale them."""
  unit = lambda v: None if v is None else torch.tensor(v / np.linalg.norm(v, axis=1)[:, None])
  tensor = lambda v: None if v is None else torch.tensor(v)
  calculator = AccuracyCalculator(
    include=tuple(NAMES), avg_of_avgs=macro, device=torch.device("cpu"), knn_func=knn_func
  )
  found = calculator.get_accuracy(unit(x), tensor(labels), unit(gallery), tensor(gallery_labels))
  return {ours: found[name] for name, ours in NAMES.items()}


def by_index(query, k, reference, ref_includes_query):
  """Neighbours with ties by index and the query itself dropped by its row, for their metrics."""
  gallery = None if ref_includes_query else reference.numpy()
  # They ask for all columns but one of a set with itself.
  found = nearest_neighbours(query.numpy(), k, gallery=gallery)
  return torch.tensor(found.similarities), torch.tensor(found.indices).long()


def data(kind, n=160, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 12, n)
  x = rng.normal(size=(n, 8)) + 2 * rng.normal(size=(12, 8))[labels]
  if kind == "singletons":
    labels = np.where(rng.random(n) < 0.4, 100 + np.arange(n), labels)
  elif kind == "duplicated":  # of one class and across classes
    x[n // 2 :] = x[: n // 2]
    labels[n // 2 :: 2] = labels[: n // 2 : 2]
  elif kind == "tied":
    x = np.eye(4)[rng.integers(0, 4, n)]  # similarities of 0 and 1 only
  return x.astype(np.float32), labels


@pytest.mark.parametrize("macro", [False, True])
@pytest.mark.parametrize("kind", ["random", "singletons", "duplicated"])
def test_equal_with_their_own_neighbours(kind, macro):
  x, labels = data(kind)
  ours = retrieval_metrics(x, labels, macro=macro)
  for name, value in theirs(x, labels, macro=macro).items():
    assert ours[f"macro/{name}" if macro else name] == pytest.approx(value, abs=1e-6), name
  assert (ours["num_without_match"] > 0) == (kind == "singletons")


@pytest.mark.parametrize("kind", ["random", "singletons", "duplicated", "tied"])
def test_equal_on_ties_where_both_rank_them_by_index(kind):
  x, labels = data(kind, seed=1)
  ours = retrieval_metrics(x, labels)
  for name, value in theirs(x, labels, knn_func=by_index).items():
    assert ours[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_equal_for_queries_against_a_gallery(kind):
  x, labels = data(kind, n=60)
  gallery, gallery_labels = data(kind, n=110, seed=2)
  labels[:5] = 50  # these have no match
  ours = retrieval_metrics(x, labels, gallery=gallery, gallery_labels=gallery_labels)
  found = theirs(x, labels, gallery, gallery_labels, knn_func=by_index)
  for name, value in found.items():
    assert ours[name] == pytest.approx(value, abs=1e-6), name


def test_the_query_is_dropped_by_identity_by_both():
  """Rows 0 to 2 are one point: rows 1 and 2 see row 0, of another class, first."""
  x = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
  labels = np.array([0, 1, 1, 2, 2])
  assert retrieval_metrics(x, labels)["precision@1"] == theirs(x, labels)["precision@1"] == 2 / 4
