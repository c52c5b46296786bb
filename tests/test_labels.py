"""The door of labels and ids: exact for integers of any width, text, booleans; None is unknown."""

import numpy as np
import pytest

from jaxdml._labels import as_given, as_text, numbered

BIG = 2**60


@pytest.mark.parametrize(
  ("columns", "expected"),
  [
    (([3, 1, 3],), [[1, 0, 1]]),
    ((np.array([BIG, BIG + 1]), np.array([BIG + 1, 2**63], np.uint64)), [[0, 1], [1, 2]]),
    (([BIG, BIG + 1, None],), [[0, 1, -1]]),
    (([BIG + 1, float(BIG)],), [[0, 1]]),  # a float would make one of both
    (([2**70, 2**70 + 1],), [[0, 1]]),
    ((np.array([1.0, np.nan, 2.5]),), [[0, -1, 1]]),
    ((np.array([16777216.0, 16777217.0]), np.array([16777217])), [[0, 1], [1]]),
    (([True, False], [1, 0.0]), [[1, 0], [1, 0]]),
    ((["a", None, b"a"], np.array(["a"]), np.array(["b"], object)), [[0, -1, 0], [0], [1]]),
    ((["a\0", "a"],), [[0, 1]]),
    ((np.array([-1, 4]), np.array([4, 2**32 - 1], np.uint32)), [[-1, 0], [0, 1]]),
    (([], [5]), [[], [0]]),
    (([None, np.nan], [7]), [[-1, -1], [0]]),
  ],
)  # fmt: skip
def test_numbers(columns, expected):
  found = numbered("labels", *columns)
  assert all(a.dtype == np.int32 for a in found)
  renamed = lambda parts: [[None if x < 0 else x for x in part] for part in parts]
  table = {}
  for part, numbers in zip(renamed(expected), renamed([a.tolist() for a in found]), strict=True):
    assert len(part) == len(numbers)
    for x, y in zip(part, numbers, strict=True):
      assert table.setdefault(x, y) == y
  assert len(set(table.values())) == len(table)


def test_ids_have_no_mark():
  assert numbered("ids", [-1, 4], unknown=None)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    (([1, "a"],), "labels: expected one kind, got text beside numbers"),
    (([1], ["a"]), "labels: expected one kind on both sides, got int64 .* and <U1 for the gallery"),
    (([1j],), "labels: expected integers, text, booleans or None for unknown, .* got complex128"),
    ((np.array(["2020"], "M8[D]"),), "got datetime64"),
    (([[1]],), r"got int64 of shape \(1, 1\)"),
    (([None, (1, 2)],), "got tuple"),
  ],
)  # fmt: skip
def test_refused(columns, message):
  if columns == ([1], ["a"]):
    message = message.replace(" .* and", " for the queries and")
  columns = [np.array([None, (1, 2)], object) if "tuple" in message else c for c in columns]
  with pytest.raises(ValueError, match=message):
    numbered("labels", *columns)


@pytest.mark.parametrize(
  ("labels", "shown"),
  [
    (np.array([2**63, 5], np.uint64), ["9223372036854775808", "5"]),
    (["b", None, b"a"], ["b", None, "a"]),
    (np.array([1, -1]), ["1", None]),
    ([True, np.nan], ["True", None]),
    (np.array(["b", "a"]), ["b", "a"]),
  ],
)  # fmt: skip
def test_text_of_labels(labels, shown):
  found = as_text("labels", labels)
  assert found == shown and {type(x) for x in found} <= {str, type(None)}


def test_arrays_stay_as_they_are():
  array = np.array([1.5, 2.5], np.float32)
  assert as_given(array) is array
  assert as_given([1.5, 2.0]).dtype == np.float64 and as_given([1.5, 2]).dtype == object
