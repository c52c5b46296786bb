"""Groups of classes as coarser labels: `data.label = "label//4"`."""

import numpy as np
import pytest

from jaxdml import data


def test_groups_of_classes_have_their_size_and_repeat(glyphs):
  train = glyphs["train"]
  grouped = data.with_groups(train, "label//4")
  group, fine = grouped.column("label//4"), grouped.column("label")
  np.testing.assert_array_equal(fine, train.column("label"))
  assert group.dtype == np.int32 and "label//4" not in train.labels
  members = [len(np.unique(fine[group == g])) for g in np.unique(group)]
  classes = len(train.classes("label"))
  assert sum(members) == classes  # each class is in one group alone
  assert sorted(members)[:-1] == [4] * (classes // 4 - 1) and max(members) == 4 + classes % 4
  again = data.with_groups(train, "label//4").column("label//4")
  np.testing.assert_array_equal(group, again)
  # Drawn, not taken in a row: neighbouring classes are seldom together.
  first = {c: group[fine == c][0] for c in train.classes("label")}
  in_a_row = np.diff(list(first.values())) == 0
  assert in_a_row.mean() < 0.5
  assert len(grouped.select([0, 1]).column("label//4")) == 2


def test_other_columns_change_nothing(glyphs):
  assert data.with_groups(glyphs["train"], "script") is glyphs["train"]
  grouped = data.with_groups(glyphs["train"], "label//2")
  assert data.with_groups(grouped, "label//2") is grouped


@pytest.mark.parametrize("label", ["label//0", "label//x", "label//", "parity//3", "label//2.5"])
def test_no_such_groups(digits, label):
  with pytest.raises(ValueError, match=r"label column '(label|parity)//.*': expected COLUMN//M"):
    data.with_groups(digits["train"], label)
  with pytest.raises(ValueError, match="no label column 'colour'"):
    data.with_groups(digits["train"], "colour//2")
