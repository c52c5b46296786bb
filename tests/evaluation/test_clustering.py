"""NMI and AMI against scikit-learn, F1 against a double loop."""

import sys

import numpy as np
import pytest
from sklearn import metrics

from jaxdml.evaluation import KMeans, ami, clustering_metrics, kmeans, nmi, pairwise_f1
from tests.evaluation.helpers import blobs


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


def partitions():
  """Pairs of partitions: random, tied, duplicated, of singletons, nested, one class, unequal."""
  rng = np.random.default_rng(0)
  for classes in [(1, 5), (5, 1), (3, 7), (40, 40), (4, 60)]:
    true, pred = (rng.integers(0, c, 60) * 3 - 8 for c in classes)  # never -1
    yield f"random {classes}", true, pred
    yield f"duplicated {classes}", np.tile(true, 3), np.tile(pred, 3)
    yield f"half right {classes}", true, np.where(rng.random(60) < 0.5, true, pred)
  n = np.arange(60)
  yield "balanced, independent", n % 6, n // 6
  yield "singletons against pairs", n, n // 2
  yield "one pair, else singletons", np.maximum(n, 1), np.minimum(n, 58)
  yield "singletons and one large class", np.where(n < 40, 40, n), np.where(n < 30, 0, n // 3)
  yield "nested", n // 3, n // 12
  yield "large classes", rng.integers(0, 2, 5000), rng.geometric(0.3, 5000)


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize(("true", "pred"), [pytest.param(*p[1:], id=p[0]) for p in partitions()])
def test_metrics_equal_their_references(true, pred):
  assert nmi(true, pred) == pytest.approx(
    metrics.normalized_mutual_info_score(true, pred), abs=1e-9
  )
  assert ami(true, pred) == pytest.approx(metrics.adjusted_mutual_info_score(true, pred), abs=1e-9)
  if len(true) <= 200:
    assert pairwise_f1(true, pred) == pytest.approx(f1_reference(true, pred), abs=1e-12)


def test_metrics_at_the_edges():
  letters = list("aabbcc")
  assert ami(letters, [5, 5, 9, 9, 1, 1]) == 1  # identical, up to the names
  assert ami([0, 0], [1, 1]) == 1 and ami([0, 1], [1, 0]) == 1  # 0 / 0 but for that
  assert ami([0, 0, 1, 1], [3, 3, 3, 3]) == 0
  assert nmi(letters, [5, 5, 9, 9, 1, 1]) == pytest.approx(1)
  assert pairwise_f1(letters, [5, 5, 9, 9, 1, 1]) == 1
  assert nmi([0, 0], [1, 1]) == 1 and pairwise_f1([0, 0], [1, 1]) == 1
  assert nmi([0, 1], [1, 0]) == pytest.approx(1) and pairwise_f1([0, 1], [1, 0]) == 1
  assert pairwise_f1([0, 0, 1, 1], [0, 1, 0, 1]) == 0


@pytest.mark.parametrize("metric", [nmi, ami, pairwise_f1])
def test_partitions_of_other_lengths_are_refused(metric):
  with pytest.raises(ValueError, match=r"labels_pred: expected .* 3, got 2"):
    metric([0, 1, 1], [0, 1])
  with pytest.raises(ValueError, match=r"labels_true: .* none"):
    metric([], [])


def test_ami_corrects_for_chance_where_nmi_does_not():
  """At the number of Stanford Online Products' classes, with as few images each, in a moment."""
  rng = np.random.default_rng(0)
  true, pred = rng.integers(0, 11_316, (2, 60_502))
  assert nmi(true, pred) > 0.8
  assert ami(true, pred) == pytest.approx(0, abs=0.005)


@pytest.mark.usefixtures("one_device")
def test_clustering_metrics():
  points, labels = blobs(spread=0.02)
  assert clustering_metrics(points, labels) == pytest.approx({"nmi": 1, "ami": 1, "f1": 1})
  noisy, labels = blobs(spread=0.6)
  got = clustering_metrics(noisy, labels, seed=2)
  assert got == clustering_metrics(noisy, labels, seed=2)
  unit = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
  clusters = kmeans(unit, len(np.unique(labels)), seed=2, restarts=3).assignment
  expected = {f.__name__: f(labels, clusters) for f in (nmi, ami, pairwise_f1)}
  expected["f1"] = expected.pop("pairwise_f1")
  assert got == pytest.approx(expected, abs=0.02)
  random = clustering_metrics(noisy, np.random.default_rng(0).permutation(labels))
  assert random["nmi"] < 0.25 and abs(random["ami"]) < 0.1


@pytest.mark.parametrize(("classes", "expected"), [(1000, 3), (1001, 1)])
def test_many_clusters_are_not_restarted(monkeypatch, classes, expected):
  module, calls = sys.modules[clustering_metrics.__module__], []

  def counted(points, k, *, restarts, **kwargs):
    calls.append(restarts)
    return KMeans(np.arange(len(points)), points, 0.0, 0)

  monkeypatch.setattr(module, "kmeans", counted)
  points = np.random.default_rng(0).normal(size=(1001, 2))
  labels = np.minimum(np.arange(1001), classes - 1)
  clustering_metrics(points, labels)
  clustering_metrics(points, labels, restarts=2)
  assert calls == [expected, 2]


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: clustering_metrics([[0.0], [1.0]], [0]), "labels: expected .* 2, got 1"),
    (lambda: clustering_metrics([[np.nan]], [0]), "embeddings: .* NaN"),
  ],
)
def test_wrong_input_is_refused(call, match):
  with pytest.raises(ValueError, match=match):
    call()


@pytest.mark.parametrize("mark", [-1, None, np.nan])
def test_rows_of_unknown_label_are_left_out(mark):
  true, pred = [0, 0, 1, 1, mark, mark], [0, 1, 1, 1, 0, 2]
  for metric in (nmi, ami, pairwise_f1):
    assert metric(true, pred) == metric(true[:4], pred[:4])
  x = np.random.default_rng(0).normal(size=(6, 3))
  known = clustering_metrics(x[:4], true[:4])
  assert clustering_metrics(x, true) == known
  assert all(np.isnan(list(clustering_metrics(x, [mark] * 6).values())))
  with pytest.raises(ValueError, match="at least one label that is known"):
    nmi([mark] * 6, pred)


def test_noise_of_a_clusterer_is_a_cluster():
  assert nmi([0, 0, 1, 1], [-1, -1, 0, 0]) == pytest.approx(1.0)
