"""Queries to look at: one a class, as many as there are, or the best and the worst."""

import numpy as np
import pytest

from jaxdml.drawing import queries


def test_draw_queries_takes_large_classes_once():
  labels = np.repeat([5, 6, 7], [4, 2, 4])
  chosen = queries.draw_queries(labels, 2, k=3, seed=1)
  assert sorted(labels[chosen]) == [5, 7]
  with pytest.raises(ValueError, match="queries: expected 1 to 2"):
    queries.draw_queries(labels, 3, k=3, seed=1)


# Sizes of the classes, what is given, and the (queries, k) that come of it.
SIZES = [
  ([9] * 20, {}, (8, 8)),
  ([12, 10, 9, 3], {}, (3, 8)),  # The walkthrough's: 8 queries of 4 classes were asked for.
  ([20, 5, 5, 5, 1], {}, (4, 4)),
  ([2, 1], {}, (1, 1)),
  ([12, 10, 9, 3], {"k": 2}, (4, 2)),
  ([12, 10, 9, 3], {"k": 11}, (1, 11)),
  ([12, 10, 9, 3], {"queries": 4}, (4, 2)),
  ([12, 10, 9, 3], {"queries": 2, "k": 9}, (2, 9)),
]


@pytest.mark.parametrize(("sizes", "given", "expected"), SIZES)
def test_what_is_not_given_is_what_there_is(sizes, given, expected):
  labels = np.repeat(np.arange(len(sizes)), sizes)
  assert queries.fit_queries(labels, **given) == expected
  chosen = queries.draw_queries(labels, *expected, seed=0)
  assert len(set(labels[chosen])) == expected[0]


@pytest.mark.parametrize(
  ("sizes", "given", "message"),
  [
    ([12, 10, 9, 3], {"k": 1000}, "k: expected 1 to 11, one less than the images of the largest"),
    ([12, 10, 9, 3], {"k": 0}, "k: expected a whole number of at least 1, got 0"),
    (
      [12, 3, 1],
      {"queries": 3},
      r"queries: expected 1 to 2, the classes with more than k=1 .*of 3",
    ),
    ([12, 3, 1], {"queries": 0}, "queries: expected 1 to 2"),
    ([12, 3, 1], {"queries": 2, "k": 5}, "queries: expected 1 to 1, .* k=5"),
    ([1, 1], {}, "no class has two images"),
  ],
)
def test_what_is_given_and_does_not_fit(sizes, given, message):
  with pytest.raises(ValueError, match=message):
    queries.fit_queries(np.repeat(np.arange(len(sizes)), sizes), **given)


def test_average_precision_by_hand():
  hits = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
  scores = queries.average_precision(hits, np.array([2, 5, 4, 9, 0]))
  np.testing.assert_allclose(scores, [1.0, (1 / 2) / 3, 0.0, 1.0, np.nan])


def test_queries_are_the_best_the_worst_and_never_without_a_match():
  labels = np.array([0, 0, 1, 1, 2, 2, 3])
  scores = np.array([1.0, 1.0, 1.0, 0.2, 0.0, 0.0, np.nan])
  similarities = np.array([[0.9], [0.5], [0.7], [0.6], [0.3], [0.8], [0.9]])
  hits = np.array([[1], [1], [1], [0], [0], [0], [0]], bool)
  chosen = queries.rank_queries(labels, scores, similarities, hits, 3, 0)
  # Row 1 is the least alike of class 0; then one of each other class; then what is left.
  assert chosen["best"].tolist() == [1, 2, 4] or chosen["best"].tolist() == [1, 2, 5]
  # 5 is surer of its mistake than 4; 3 is of another class; then 4. Perfect ones are none.
  assert chosen["worst"].tolist() == [5, 3, 4]
  many = queries.rank_queries(labels, scores, similarities, hits, 99, 0)
  assert sorted(many["random"].tolist()) == [0, 1, 2, 3, 4, 5]
  assert sorted(many["worst"].tolist()) == [3, 4, 5]
