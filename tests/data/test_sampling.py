import collections
import time

import numpy as np
import pytest

from jaxdml.data import sampling

# 12 classes of 1 to 12 images, their records mixed.
# Coarse groups of 4: classes 0-3, 4-7, 8-11; of the first, one class has a single image.
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(12) * 7, np.arange(1, 13)))
COARSE = LABELS // 28
CASES = [
  ("pk", 12, 3), ("pk", 8, 4), ("npair", 10, 2), ("triplet", 12, 2), ("uniform", 9, 2),
  ("hierarchical", 12, 2),
]  # fmt: skip


def _create(name, batch_size, images_per_class=2, seed=0, labels=LABELS, groups=2, **options):
  options = {"coarse": COARSE, "coarse_label": "kind", "coarse_per_batch": groups, **options}
  return sampling.create(name, labels, batch_size, images_per_class, seed, label="fine", **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pure_in_seed_and_step(case):
  first, second = _create(*case, seed=5), _create(*case, seed=5)
  backwards = [second(step) for step in reversed(range(20))][::-1]
  for step, batch in enumerate(backwards):
    np.testing.assert_array_equal(first(step), batch)
    assert batch.shape == (case[1],) and batch.dtype == np.int64
    assert batch.min() >= 0 and batch.max() < len(LABELS)
  assert len({b.tobytes() for b in backwards}) == 20
  assert not np.array_equal(_create(*case, seed=6)(0), first(0))


@pytest.mark.parametrize("name, batch_size, k", [("pk", 12, 3), ("pk", 8, 4), ("npair", 10, 2)])
def test_p_distinct_classes_k_each(name, batch_size, k):
  sampler = _create(name, batch_size, k)
  for step in range(50):
    batch = sampler(step)
    classes = LABELS[batch].reshape(-1, k)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0])) == batch_size // k
    for group in batch.reshape(-1, k):
      size = np.sum(LABELS[group[0]] == LABELS)
      counts = collections.Counter(group.tolist())
      # As even as possible: all different, or each floor or ceil of K / size times.
      assert len(counts) == min(k, size)
      assert set(counts.values()) <= {k // min(k, size), -(-k // min(k, size))}


def test_a_small_class_repeats_evenly():
  labels = np.array([0, 0, 0, 1, 1])
  batch = _create("pk", 16, 8, labels=labels)(0)
  counts = np.bincount(batch, minlength=5)
  assert sorted(counts[:3]) == [2, 3, 3] and counts[3:].tolist() == [4, 4]


def test_classes_and_images_are_drawn_uniformly():
  sampler = _create("pk", 8, 2)
  seen = np.concatenate([sampler(step) for step in range(4000)])
  classes = np.unique(LABELS[seen], return_counts=True)[1]
  assert len(classes) == 11
  assert classes / classes.sum() == pytest.approx(np.full(11, 1 / 11), abs=0.01)
  of_largest = np.unique(seen[LABELS[seen] == 77], return_counts=True)[1]
  assert of_largest / of_largest.sum() == pytest.approx(np.full(12, 1 / 12), abs=0.015)


def test_many_classes_use_rejection_and_stay_distinct():
  labels = np.repeat(np.arange(1000), 2)
  sampler = _create("pk", 64, 2, labels=labels)
  seen = collections.Counter()
  for step in range(300):
    classes = labels[sampler(step)[::2]]
    assert len(set(classes)) == 32
    seen.update(classes.tolist())
  assert len(seen) > 990 and max(seen.values()) < 30


def test_npair_layout_keeps_pairs_in_contiguous_shards():
  sampler = _create("npair", 8)
  assert sampler.group == 2
  batch = sampler(3)
  for shard in np.split(batch, 4):
    assert LABELS[shard[0]] == LABELS[shard[1]] and shard[0] != shard[1]


def test_triplets():
  sampler = _create("triplet", 12)
  assert sampler.group == 3
  anchors = collections.Counter()
  for step in range(300):
    batch = sampler(step)
    a, p, n = LABELS[batch].reshape(-1, 3).T
    assert (a == p).all() and (a != n).all()
    assert (batch[0::3] != batch[1::3]).all()
    assert len(set(a)) == 4
    anchors.update(a.tolist())
  assert len(anchors) == 11


def test_triplets_of_few_classes_repeat_anchors():
  labels = np.repeat([0, 1], 5)
  a, p, n = labels[_create("triplet", 30, labels=labels)(0)].reshape(-1, 3).T
  assert (a == p).all() and (a != n).all() and np.bincount(a).tolist() == [5, 5]


def test_uniform_draws_different_records():
  batch = _create("uniform", len(LABELS))(0)
  assert sorted(batch) == list(range(len(LABELS)))


@pytest.mark.parametrize("batch_size, k, groups", [(12, 2, 2), (9, 3, 1), (18, 2, 3), (4, 2, 1)])
def test_hierarchical_draws_groups_then_classes_within_them(batch_size, k, groups):
  sampler = _create("hierarchical", batch_size, k, groups=groups)
  assert sampler.group == 1
  assert sampler.left_out.startswith("1 of the 12 classes of") and ";" not in sampler.left_out
  seen = collections.Counter()
  for step in range(300):
    batch = sampler(step)
    drawn = COARSE[batch].reshape(groups, -1)
    assert (drawn == drawn[:, :1]).all() and len(set(drawn[:, 0])) == groups
    classes = LABELS[batch].reshape(-1, k)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0])) == batch_size // k
    for images in batch.reshape(-1, k):
      assert len(set(images)) == min(k, np.sum(LABELS[images[0]] == LABELS))
    seen.update(classes[:, 0].tolist())
  assert set(seen) == set(range(7, 84, 7))


def test_hierarchical_leaves_out_groups_with_too_few_classes():
  sampler = _create("hierarchical", 16, 2, groups=2)
  # Four classes a group, and the first has three of two images.
  groups = "1 of the 3 groups of 'kind' have fewer than 4 classes of two images"
  assert sampler.left_out.endswith(f"; {groups}")
  assert {c for step in range(20) for c in COARSE[sampler(step)]} == {1, 2}


@pytest.mark.parametrize(
  "options, message",
  [
    (
      {"batch_size": 20, "groups": 2},
      r"coarse_label=kind has 0 groups with at least 5 classes of two images, its largest has 4, "
      r"and a batch needs data.coarse_per_batch=2 of them: lower data.batch_size",
    ),
    (
      {"batch_size": 12, "groups": 4},
      r"batch_size \(12\) must be a multiple of .* \(4\) times .*2",
    ),
    ({"batch_size": 12, "groups": 0}, r"data.coarse_per_batch \(0\)"),
    ({"batch_size": 12, "images_per_class": 1}, "images_per_class must be at least 2"),
    ({"batch_size": 12, "coarse": None}, "data.sampler=hierarchical needs data.coarse_label"),
    ({"batch_size": 12, "coarse": COARSE[:5]}, "coarse must have the 78 rows of labels, got 5"),
    (
      {"batch_size": 12, "coarse": np.arange(78)},
      r"each class must lie in one group, and class \d+ of 'fine' has images in \d+ and \d+",
    ),
  ],
  ids=str,
)
def test_impossible_hierarchies(options, message):
  with pytest.raises(ValueError, match=message):
    _create("hierarchical", **options)


@pytest.mark.parametrize("name", ["hierarchical", "npair", "pk", "triplet", "uniform"])
def test_a_million_images_start_at_once_and_a_step_draws_no_more_than_it_needs(name, monkeypatch):
  labels = np.random.default_rng(0).permutation(np.arange(1_000_000, dtype=np.int32) % 100_000)
  since = time.perf_counter()
  sampler = _create(name, 120, labels=labels, coarse=labels // 100)
  batch = sampler(0)
  assert time.perf_counter() - since < 5
  assert len(set(batch)) == 120
  drawn, rng = [], sampling._rng_at

  class Counting:
    """Notes how many numbers each call makes."""

    def __init__(self, *args):
      self._rng = rng(*args)

    def integers(self, *args, size):
      drawn.append(size)
      return self._rng.integers(*args, size=size)

    def permutation(self, total):
      drawn.append(total)
      return self._rng.permutation(total)

  monkeypatch.setattr(sampling, "_rng_at", Counting)
  np.testing.assert_array_equal(sampler(0), batch)
  assert sum(drawn) < 20 * len(batch)


@pytest.mark.parametrize("name", ["hierarchical", "pk", "npair", "triplet"])
def test_classes_of_one_image_are_left_out_and_counted(name):
  labels = np.array([0, 0, 1, 2, 2, 3])
  sampler = _create(name, {"triplet": 3}.get(name, 4), labels=labels, coarse=labels * 0, groups=1)
  assert sampler.left_out.startswith("2 of the 4 classes of 'fine' have one image, which cannot")
  assert _create("uniform", 4, labels=labels).left_out == ""
  assert all(set(labels[sampler(step)]) <= {0, 2} for step in range(20))


def test_too_few_classes():
  labels = np.array([0, 0, 1, 1, 2])
  with pytest.raises(ValueError, match=r"'fine' has 2 classes with at least 2 images \(1 more"):
    _create("pk", 6, 2, labels=labels)
  with pytest.raises(ValueError, match=r"label column 'fine' has 1 classes.*lower data.batch_size"):
    _create("triplet", 3, labels=np.zeros(5, np.int32))


@pytest.mark.parametrize(
  "args, message",
  [
    (("pk", 10, 4), r"data.batch_size \(10\) must be a multiple of data.images_per_class \(4\)"),
    (("pk", 4, 1), "data.images_per_class must be at least 2"),
    (("npair", 9, 2), "data.batch_size"),
    (("npair", 9, 3), "must be 2 for data.sampler=npair"),
    (("triplet", 10, 2), r"data.batch_size \(10\) must be a multiple of 3"),
    (("uniform", 1000, 2), r"data.batch_size \(1000\) is more than the 78 records"),
    (("pk", 0, 2), "data.batch_size must be at least 1"),
    (
      ("kp", 4, 2),
      "unknown sampler 'kp'; valid names are hierarchical, npair, pk, triplet, uniform",
    ),
  ],
)
def test_wrong_sizes(args, message):
  with pytest.raises(ValueError, match=message):
    _create(*args)


@pytest.mark.parametrize("name", ["pk", "triplet", "hierarchical"])
def test_records_of_unknown_label_are_left_out_and_counted(name):
  labels = np.repeat([-1, 3, 5, 7, -1], 4)
  sampler = sampling.create(
    name, labels, 6, 2 if name == "hierarchical" else 3, coarse=np.full(20, 1), coarse_label="c",
    coarse_per_batch=1,
  )  # fmt: skip
  assert "8 of the 20 records have no 'label'" in sampler.left_out
  drawn = np.concatenate([sampler(step) for step in range(50)])
  assert set(labels[drawn]) == {3, 5, 7}


def test_text_and_none_are_labels_too():
  of = lambda labels: sampling.create("pk", labels, 4, 2)
  named = of(["b", "b", None, "a", "a", None, None])
  numbered = of(np.array([1, 1, -1, 0, 0, -1, -1]))
  assert named.left_out == numbered.left_out != ""
  assert all((named(step) == numbered(step)).all() for step in range(5))


def test_groups_of_unknown_label_are_left_out():
  labels, coarse = np.repeat(np.arange(4), 2), np.array([-1, -1, 0, 0, 0, 0, -1, -1])
  sampler = sampling.create("hierarchical", labels, 4, 2, coarse=coarse, coarse_per_batch=1)
  drawn = np.concatenate([sampler(step) for step in range(20)])
  assert set(coarse[drawn]) == {0}


def test_wrong_labels_and_steps():
  with pytest.raises(ValueError, match=r"labels must be integers \[n\], got float64 \[3\]"):
    sampling.create("pk", np.zeros(3), 4, 2)
  with pytest.raises(ValueError, match="step must be at least 0, got -1"):
    _create("pk", 4, 2)(-1)
