import numpy as np
import pytest

from jaxdml import data


def _classes(parts):
  return [set(part.classes("label").tolist()) for part in parts]


def test_validation_split_is_class_disjoint_and_repeatable(glyphs):
  train, val = data.validation_split(glyphs["train"], "label", 0.2, seed=3)
  classes = _classes((train, val))
  assert not classes[0] & classes[1]
  assert len(train) + len(val) == len(glyphs["train"])
  assert len(classes[1]) == round(0.2 * len(glyphs["train"].classes("label")))
  again = data.validation_split(glyphs["train"], "label", 0.2, seed=3)[1]
  other = data.validation_split(glyphs["train"], "label", 0.2, seed=4)[1]
  np.testing.assert_array_equal(val.rows, again.rows)
  assert set(other.classes("label")) != classes[1]
  assert val.split == "train:validation"


def test_validation_split_keeps_two_classes_on_each_side(digits):
  for fraction, sizes in ((0.01, [8, 2]), (0.99, [2, 8])):
    parts = data.validation_split(digits["train"], "label", fraction, seed=0)
    assert [len(p.classes("label")) for p in parts] == sizes
  with pytest.raises(ValueError, match=r"fraction must be between 0 and 1, got 1\.0"):
    data.validation_split(digits["train"], "parity", 1.0, seed=0)
  with pytest.raises(ValueError, match=r"2 classes of 'parity' and training 2.* has 2: set eval"):
    data.validation_split(digits["train"], "parity", 0.5, seed=0)


def test_folds_are_consecutive_classes_and_each_validates_once(digits):
  train = digits["train"]
  folds = data.cross_validation(train, "label", 4)
  assert [sorted(c) for c in _classes(val for _, val in folds)] == [
    [0, 1, 2], [3, 4, 5], [6, 7], [8, 9],
  ]  # fmt: skip
  for number, (rest, val) in enumerate(folds):
    assert _classes([rest])[0] == set(range(10)) - _classes([val])[0]
    assert val.split == f"train:fold{number}"
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.rows, val.rows])), train.rows)
  # The labels of the images go with them.
  rest, val = folds[1]
  assert val.read([5]) == train.read(np.flatnonzero(np.isin(train.labels["label"], [3, 4, 5]))[[5]])


def test_folds_by_seed(glyphs):
  train = glyphs["train"]
  plain, one, again, other = (
    _classes(val for _, val in data.cross_validation(train, "label", 3, seed))
    for seed in (None, 1, 1, 2)
  )
  assert one == again and one != other and one != plain
  assert set.union(*one) == set(train.classes("label").tolist())
  assert sum(map(len, one)) == len(train.classes("label"))


def test_impossible_folds(digits):
  with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
    data.cross_validation(digits["train"], "label", 1)
  with pytest.raises(ValueError, match=r"6 folds need at least 12 classes of 'label'.*has 10"):
    data.cross_validation(digits["train"], "label", 6)


def test_a_class_of_one_image_never_validates(digits):
  """A validation part of those alone scores NaN, and nothing would ever be better."""
  train = digits["train"]
  labels = train.column("label")
  firsts = [
    np.flatnonzero(labels == c)[: 9 if c in (3, 6, 8) else 1] for c in train.classes("label")
  ]
  few = train.select(np.concatenate(firsts))
  for seed in range(8):
    kept, validation = data.validation_split(few, "label", 0.9, seed=seed)
    assert validation.classes("label").tolist() == [3, 6, 8] and len(kept) + 27 == len(few)
    two = data.validation_split(few, "label", 0.1, seed=seed)[1]
    assert len(two) == 18
  with pytest.raises(ValueError, match=r"2 classes of 'label' with more than one image, and .* 1:"):
    data.validation_split(train.select(np.concatenate([firsts[3], *firsts[:3]])), "label", 0.3, 0)


def _with_single(glyphs, count):
  """The training images of 12 classes, of the first `count` of them one image alone."""
  train = glyphs["train"]
  labels = train.column("label")
  rows = [np.flatnonzero(labels == c) for c in train.classes("label")[:12]]
  return train.select(np.concatenate([r[:1] if i < count else r for i, r in enumerate(rows)]))


def test_folds_without_two_images_of_one_class_are_refused(glyphs):
  assert len(data.cross_validation(_with_single(glyphs, 5), "label", 2)) == 2
  with pytest.raises(ValueError, match=r"fold 0 of .* has no two images of one class of 'label'"):
    data.cross_validation(_with_single(glyphs, 6), "label", 2)
