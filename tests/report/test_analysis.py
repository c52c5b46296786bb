"""What a report measures, against loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxdml.evaluation import _checks as checks
from jaxdml.report import _analysis


def test_hubs_equal_a_loop():
  rng = np.random.default_rng(0)
  indices = np.stack([rng.permutation(9)[:3] for _ in range(20)])
  indices[:15, 0] = 8
  indices[3, 2] = -1
  similarities = -np.sort(-rng.random((20, 3)), axis=1)
  hubs = _analysis.find_hubs(indices, similarities, 12, 4, 5)
  counts = [int((indices == item).sum()) for item in range(12)]
  assert hubs.rows[0] == 8 and hubs.occurrences.tolist() == sorted(counts, reverse=True)[:4]
  deviation = np.array(counts) - np.mean(counts)
  expected = np.mean(deviation**3) / np.mean(deviation**2) ** 1.5
  assert hubs.skewness == pytest.approx(expected)
  assert hubs.never == np.mean(np.array(counts) == 0)
  places = hubs.lists[0]
  assert len(places) == 5 and (indices[places] == 8).any(axis=1).all()
  near = similarities[places, (indices[places] == 8).argmax(axis=1)]
  assert (np.diff(near) <= 0).all()


def test_pair_similarities_equal_a_loop():
  rng = np.random.default_rng(1)
  labels = rng.integers(0, 5, 60)
  x = checks.normalized(rng.normal(size=(60, 4)) + 2 * np.eye(5, 4)[labels])
  found = _analysis.pair_similarities(x, labels)
  pairs = [(x[i] @ x[j], labels[i] == labels[j]) for i in range(60) for j in range(i)]
  similarity, same = map(np.array, zip(*pairs, strict=True))
  assert (found.positive_pairs, found.negative_pairs) == (same.sum(), (~same).sum())
  assert found.anchors == 60
  assert found.auc == pytest.approx(roc_auc_score(same, similarity), abs=2e-3)
  # The edges are multiples of 1/500, so that few pairs sit on one.
  for densities, mask in ((found.positive, same), (found.negative, ~same)):
    expected, _ = np.histogram(similarity[mask], found.edges, density=True)
    np.testing.assert_allclose(densities, expected, atol=0.02 * expected.max())
    assert densities.sum() * np.diff(found.edges)[0] == pytest.approx(1)
  assert 0 < found.overlap < 1 and len(found.positive) <= 80


def test_pair_similarities_sampled_are_near_the_exact_ones():
  rng = np.random.default_rng(2)
  labels = rng.integers(0, 4, 400)
  x = checks.normalized(rng.normal(size=(400, 6)) + np.eye(4, 6)[labels])
  exact, drawn = (_analysis.pair_similarities(x, labels, max_pairs=m) for m in (10**6, 40_000))
  assert drawn.anchors == 100
  assert drawn.positive_pairs + drawn.negative_pairs == 100 * 399
  assert drawn.auc == pytest.approx(exact.auc, abs=0.03)
  assert drawn.overlap == pytest.approx(exact.overlap, abs=0.06)


def test_pair_similarities_of_one_class_or_of_singletons():
  x = checks.normalized(np.eye(3))
  assert _analysis.pair_similarities(x, np.zeros(3)) is None
  assert _analysis.pair_similarities(x, np.arange(3)) is None
  # Collapsed: every pair is 1, and no pair is told from another.
  same = _analysis.pair_similarities(np.ones((4, 1)), np.array([0, 0, 1, 1]))
  assert (same.auc, same.overlap) == (0.5, 1.0)


def test_projection_keeps_clusters_apart_and_says_which_rows():
  rng = np.random.default_rng(3)
  labels = np.repeat([0, 1], 30)
  x = checks.normalized(rng.normal(size=(60, 5)) * 0.1 + np.eye(2, 5)[labels])
  found = _analysis.project(x, max_points=40, seed=1)
  assert len(np.unique(found.rows)) == 40
  for points in (found.pca, found.tsne):
    assert points.shape == (40, 2)
    of = labels[found.rows]
    centres = np.stack([points[of == c].mean(0) for c in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (nearest == of).all()
  again = _analysis.project(x, max_points=40, seed=1)
  np.testing.assert_array_equal(found.tsne, again.tsne)
  assert 0.5 < found.explained.sum() <= 1


@pytest.mark.parametrize("x", [np.ones((12, 3)), np.eye(3), np.ones((2, 1)), np.eye(9)[:, :1]])
def test_projection_of_odd_embeddings_is_finite(x):
  found = _analysis.project(x, max_points=100)
  assert np.isfinite(found.pca).all() and np.isfinite(found.explained).all()
  assert found.tsne is None or np.isfinite(found.tsne).all()
