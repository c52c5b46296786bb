"""Metrics of each class and confusions against loops, and against the means over classes."""

import collections

import numpy as np
import pytest

from jaxdml.evaluation import (
  Neighbours,
  class_metrics,
  classes,
  confusions,
  nearest_neighbours,
  retrieval_metrics,
)
from tests.evaluation.helpers import blobs

NAMES = np.array(
  ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "owl"]
)


def by_hand(found, labels, gallery_labels, alone):
  """Class -> (queries that have something to find, sum of rel(1), sum of AP at min(R, k))."""
  result = collections.defaultdict(lambda: [0, 0.0, 0.0])
  for query, items in enumerate(found.indices.tolist()):
    own = labels[query]
    relevant = sum(other == own for other in gallery_labels) - alone
    entry = result[own]
    if not relevant:
      continue
    most, right, total = min(relevant, len(items)), 0, 0.0
    for rank, item in enumerate(items[:most], 1):
      if item >= 0 and gallery_labels[item] == own:
        right += 1
        total += right / rank
    hit = items[0] >= 0 and gallery_labels[items[0]] == own
    result[own] = [entry[0] + 1, entry[1] + hit, entry[2] + total / most]
  return result


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(("k", "gallery"), [(3, False), (60, False), (5, True)])
def test_class_metrics_equal_a_loop(monkeypatch, k, gallery):
  monkeypatch.setattr(classes, "_PIECE", 7 * k)  # Several pieces, the last one not full.
  x, codes = blobs(n=150, spread=1.5)
  labels = NAMES[codes]
  labels[3] = "unicorn"  # nothing to find
  queries = np.arange(150) % 3 == 0
  if gallery:
    found = nearest_neighbours(x[queries], k, gallery=x[~queries])
    mine, theirs, given = labels[queries], labels[~queries], (labels[~queries],)
  else:
    found, mine, theirs, given = nearest_neighbours(x, k), labels, labels, ()
  scores = class_metrics(found, mine, *given)
  expected = by_hand(found, mine, theirs, not gallery)
  assert scores.labels.tolist() == sorted(set(mine))
  for row, name in enumerate(scores.labels):
    count, first, average = expected[name]
    assert scores.queries[row] == count
    hand = [first / count, average / count] if count else [np.nan, np.nan]
    np.testing.assert_allclose([scores.recall_at_1[row], scores.map_at_r[row]], hand, rtol=1e-12)
    assert scores.exact[row] == ((theirs == name).sum() - (not gallery) <= k)


@pytest.mark.usefixtures("one_device")
def test_the_mean_over_classes_is_that_of_retrieval_metrics():
  x, labels = blobs(n=200, spread=1.5)
  labels[:4] = [-1, 90, 91, -1]  # two unknown, two alone in their class
  scores = class_metrics(nearest_neighbours(x, 60), labels)
  assert scores.exact.all() and -1 not in scores.labels
  expected = retrieval_metrics(x, labels, macro=True)
  assert np.nanmean(scores.recall_at_1) == pytest.approx(expected["macro/recall@1"])
  assert np.nanmean(scores.map_at_r) == pytest.approx(expected["macro/map@r"])
  assert scores.queries.sum() == expected["num_queries"]


def test_confusions_equal_a_counter():
  rng = np.random.default_rng(0)
  labels = rng.choice(NAMES[:5], 80)
  theirs = rng.choice([*NAMES[:5], "owl"], 40).astype(object)
  theirs[7] = None
  indices = rng.integers(-1, 40, (80, 2))
  similarities = rng.random((80, 2))
  pairs = confusions(Neighbours(indices, similarities), labels, theirs)
  counts, asked, best = collections.Counter(), collections.Counter(), {}
  for query, own in enumerate(labels):
    other = theirs[indices[query, 0]] if indices[query, 0] >= 0 else None
    if other is None:
      continue
    asked[own] += 1
    if other != own:
      pair = own, other
      counts[pair] += 1
      if pair not in best or similarities[query, 0] > similarities[best[pair], 0]:
        best[pair] = query
  got = list(zip(pairs.labels, pairs.found, strict=True))
  assert dict(zip(got, pairs.queries, strict=True)) == counts
  assert pairs.example.tolist() == [best[pair] for pair in got]
  np.testing.assert_allclose(pairs.share, [counts[p] / asked[p[0]] for p in got])
  keys = list(zip(-pairs.queries, -pairs.share, strict=True))
  assert keys == sorted(keys)


def test_nothing_known_and_nothing_wrong_are_empty():
  found = Neighbours(np.array([[1], [0]]), np.ones((2, 1)))
  assert (
    len(class_metrics(found, [None, None]).labels) == len(confusions(found, [-1, -1]).found) == 0
  )
  assert len(confusions(found, [5, 5]).found) == 0
  assert class_metrics(found, [5, 5]).recall_at_1.tolist() == [1.0]


def test_labels_of_something_else_are_refused():
  found = Neighbours(np.array([[1], [2]]), np.ones((2, 1)))
  with pytest.raises(ValueError, match="labels: expected as many as found has rows, 2, got 3"):
    class_metrics(found, [1, 2, 3])
  with pytest.raises(ValueError, match=r"among 2 items.*items up to 2; give the gallery_labels"):
    confusions(found, [1, 2])
