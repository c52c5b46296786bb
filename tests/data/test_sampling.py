import collections

import numpy as np
import pytest

from jaxdml.data import sampling

# 12 classes of 1 to 12 images, their records mixed.
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(12) * 7, np.arange(1, 13)))
CASES = [("pk", 12, 3), ("pk", 8, 4), ("npair", 10, 2), ("triplet", 12, 2), ("uniform", 9, 2)]


def _create(name, batch_size, images_per_class=2, seed=0, labels=LABELS):
  return sampling.create(name, labels, batch_size, images_per_class, seed, label="fine")


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


@pytest.mark.parametrize("name", ["pk", "npair", "triplet"])
def test_classes_of_one_image_are_dropped_and_counted(name):
  labels = np.array([0, 0, 1, 2, 2, 3])
  sampler = sampling.create(name, labels, {"triplet": 3}.get(name, 4))
  assert sampler.dropped_classes == 2
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
    (("kp", 4, 2), "unknown sampler 'kp'; valid names are npair, pk, triplet, uniform"),
  ],
)
def test_wrong_sizes(args, message):
  with pytest.raises(ValueError, match=message):
    _create(*args)


def test_wrong_labels_and_steps():
  with pytest.raises(ValueError, match=r"labels must be integers \[n\], got float64 \[3\]"):
    sampling.create("pk", np.zeros(3), 4, 2)
  with pytest.raises(ValueError, match="step must be at least 0, got -1"):
    _create("pk", 4, 2)(-1)
