"""k-means against scikit-learn; NMI and F1 against scikit-learn and a double loop."""

import warnings

import numpy as np
import pytest
from sklearn import cluster, metrics

from jaxdml.evaluation import clustering_metrics, kmeans, nmi, pairwise_f1
from jaxdml.evaluation.clustering import _run


def blobs(n=400, k=12, d=5, spread=0.4, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, k, n)
  points = rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))
  return points.astype(np.float32), labels


def f1_reference(labels_true, labels_pred):
  both = classes = clusters = 0
  for i in range(len(labels_true)):
    for j in range(i):
      same_class = labels_true[i] == labels_true[j]
      same_cluster = labels_pred[i] == labels_pred[j]
      both += same_class and same_cluster
      classes += same_class
      clusters += same_cluster
  if not both:
    return 0.0
  precision, recall = both / clusters, both / classes
  return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("classes", [(1, 5), (5, 1), (3, 7), (40, 40), (4, 60)])
def test_nmi_and_f1_equal_their_references(classes):
  rng = np.random.default_rng(sum(classes))
  true, pred = (rng.integers(0, c, 60) * 3 - 7 for c in classes)
  with warnings.catch_warnings():
    # With nearly as many classes as points scikit-learn warns that it may not be a classification.
    warnings.simplefilter("ignore", UserWarning)
    expected = metrics.normalized_mutual_info_score(true, pred)
  assert nmi(true, pred) == pytest.approx(expected, abs=1e-9)
  assert pairwise_f1(true, pred) == pytest.approx(f1_reference(true, pred), abs=1e-12)


def test_nmi_and_f1_at_the_edges():
  letters = list("aabbcc")
  assert nmi(letters, [5, 5, 9, 9, 1, 1]) == pytest.approx(1)
  assert pairwise_f1(letters, [5, 5, 9, 9, 1, 1]) == 1
  assert nmi([0, 0], [1, 1]) == 1 and pairwise_f1([0, 0], [1, 1]) == 1
  assert nmi([0, 1], [1, 0]) == pytest.approx(1) and pairwise_f1([0, 1], [1, 0]) == 1
  assert pairwise_f1([0, 0, 1, 1], [0, 1, 0, 1]) == 0


@pytest.mark.parametrize("metric", [nmi, pairwise_f1])
def test_partitions_of_other_lengths_are_refused(metric):
  with pytest.raises(ValueError, match=r"labels_pred: expected .* 3, got 2"):
    metric([0, 1, 1], [0, 1])
  with pytest.raises(ValueError, match=r"labels_true: .* none"):
    metric([], [])


def test_kmeans_is_as_good_as_scikit_learn():
  points, _ = blobs()
  ours = kmeans(points, 12, restarts=5)
  theirs = cluster.KMeans(12, n_init=5, random_state=0).fit(points)
  assert ours.inertia <= 1.03 * theirs.inertia_
  distances = ((points[:, None] - ours.centers) ** 2).sum(-1)
  np.testing.assert_array_equal(ours.assignment, distances.argmin(1))
  assert ours.inertia == pytest.approx(distances.min(1).sum(), rel=1e-4)


def test_kmeans_ends_where_lloyd_stands_still():
  points, _ = blobs(n=200, k=6)
  result = kmeans(points, 6, max_iterations=200, tolerance=0.0)
  means = [points[result.assignment == c].mean(0) for c in range(6)]
  np.testing.assert_allclose(result.centers, means, atol=1e-4)


def test_kmeans_is_a_function_of_its_seed():
  points, _ = blobs()
  first, second, other = (kmeans(points, 12, seed=seed) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first.assignment, second.assignment)
  np.testing.assert_array_equal(first.centers, second.centers)
  assert not np.array_equal(first.centers, other.centers)


def test_kmeans_does_not_depend_on_block_size():
  points, _ = blobs(n=101)
  expected = kmeans(points, 12)
  for block_size in (7, 101, 5000):
    result = kmeans(points, 12, block_size=block_size)
    assert result.inertia == pytest.approx(expected.inertia, rel=1e-4)
    np.testing.assert_array_equal(result.assignment, expected.assignment)


def test_more_restarts_are_never_worse():
  points, _ = blobs(spread=0.2)
  one, many = (kmeans(points, 12, restarts=restarts).inertia for restarts in (1, 6))
  assert many <= one


def test_empty_clusters_are_filled():
  """Nine points in one place leave the other centers to the rest; none stays unused."""
  points = np.concatenate([np.zeros((9, 2)), np.arange(1.0, 7.0).repeat(2).reshape(6, 2)])
  result = kmeans(points, 7)
  assert len(np.unique(result.assignment)) == 7
  assert result.inertia == pytest.approx(0, abs=1e-9)


def test_an_empty_cluster_restarts_at_the_farthest_point(monkeypatch):
  """Seeded so badly that a center gets no point, Lloyd's algorithm still finds the optimum."""
  points = np.array([[0.0], [0.1], [10.0], [10.1], [50.0], [50.1]], np.float32)
  bad = np.array([[5.0], [1000.0], [2000.0]], np.float32)
  monkeypatch.setattr("jaxdml.evaluation.clustering._seed", lambda key, points, k: bad)
  _run.clear_cache()
  try:
    result = kmeans(points, 3)
  finally:
    _run.clear_cache()
  assert result.inertia == pytest.approx(3 * 2 * 0.05**2, rel=1e-2)
  assert len(np.unique(result.assignment)) == 3


def test_fewer_distinct_points_than_clusters():
  result = kmeans(np.array([[1.0, 2.0], [3.0, 4.0]]).repeat(5, axis=0), 4)
  assert result.inertia == pytest.approx(0, abs=1e-9)
  assert len(np.unique(result.assignment)) == 2
  assert kmeans(np.ones((5, 2)), 3).inertia == pytest.approx(0, abs=1e-9)


def test_as_many_clusters_as_points_and_one():
  points, _ = blobs(n=20)
  assert kmeans(points, 20).inertia == pytest.approx(0, abs=1e-4)
  assert kmeans(points, 1).inertia == pytest.approx(
    ((points - points.mean(0)) ** 2).sum(), rel=1e-4
  )


def test_far_from_the_origin():
  """||x||^2 - 2 x.c + ||c||^2 would cancel, were the mean not taken off first."""
  points = np.array([[0.0], [0.25], [3.0], [3.25]], np.float32) + 10_000
  assert kmeans(points, 2).inertia == pytest.approx(4 * 0.125**2, rel=1e-3)


def test_clustering_metrics():
  points, labels = blobs(spread=0.02)
  assert clustering_metrics(points, labels) == pytest.approx({"nmi": 1, "f1": 1})
  noisy, labels = blobs(spread=0.6)
  assert clustering_metrics(noisy, labels, seed=2) == clustering_metrics(noisy, labels, seed=2)
  unit = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
  predicted = kmeans(unit, len(np.unique(labels)), seed=2, restarts=3).assignment
  expected = {"nmi": nmi(labels, predicted), "f1": pairwise_f1(labels, predicted)}
  assert clustering_metrics(noisy, labels, seed=2) == pytest.approx(expected, abs=0.02)
  random = clustering_metrics(noisy, np.random.default_rng(0).permutation(labels))
  assert random["nmi"] < 0.25


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: kmeans([[0.0], [1.0]], 3), "k: expected at most the number of points, 2, got 3"),
    (lambda: kmeans([[0.0], [np.inf]], 1), "points: .* 1 of 2 rows"),
    (lambda: kmeans([[0.0]], 0), "k: .* at least 1"),
    (lambda: kmeans([[0.0]], 1, restarts=1.5), "restarts"),
    (lambda: clustering_metrics([[0.0], [1.0]], [0]), "labels: expected .* 2, got 1"),
    (lambda: clustering_metrics([[np.nan]], [0]), "embeddings: .* NaN"),
  ],
)
def test_wrong_input_is_refused(call, match):
  with pytest.raises(ValueError, match=match):
    call()
