"""Batch samplers: pure functions of (seed, step) that give the indices of the records of a batch.

Nothing is carried from step to step, so a run resumes anywhere from the step number alone, and
every host computes the same global batch. A step costs O(batch), whatever the size of the data.

A class of one image cannot give a positive pair, nor can a record of unknown label (-1 or None):
every sampler but "uniform" leaves them out and says so (`left_out`). A class with fewer than K
images repeats them evenly; losses know such repetitions by the record's index and make no pair.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from jaxdml._labels import UNKNOWN, as_given, numbered

NAMES = ("hierarchical", "npair", "pk", "triplet", "uniform")
"""The samplers that `create` knows."""

_STREAM = 0x5A3F1C  # Keeps the sampler's random numbers apart from those of the augmentation.


class Sampler(Protocol):
  """A function step -> record indices, as `create` returns it.

  Parts of a batch for hosts and devices must hold whole groups. `left_out` is a sentence on the
  classes and groups that it never draws, with their numbers; "" where it draws all.
  """

  batch_size: int  # records in a global batch
  num_records: int  # length of the labels it was made from
  group: int  # records that belong together: 2 for pairs, 3 for triplets
  left_out: str

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step's global batch, int64 [batch_size]."""
    ...


class _Drawn(Sampler):
  """A sampler that draws with the random numbers of the step, whatever was drawn before it."""

  group = 1
  left_out = ""

  def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
    self.batch_size, self.num_records, self._seed = batch_size, len(labels), seed

  def __call__(self, step: int) -> np.ndarray:
    return self._draw(_rng_at(self._seed, step))


class ClassBalanced(_Drawn):
  """P classes x K images: K consecutive records each of P different classes.

  With K = 2 this is the N-pair batch a0, p0, a1, p1, ..., whose contiguous parts of even length
  hold whole pairs.
  """

  def __init__(
    self, labels: np.ndarray, batch_size: int, images_per_class: int, seed: int, label: str
  ):
    if batch_size % images_per_class:
      divisor = f"data.images_per_class ({images_per_class})"
      raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of {divisor}")
    super().__init__(labels, batch_size, seed)
    self._per_class = images_per_class
    self._classes = _Classes(labels, label, batch_size // images_per_class)
    self.left_out = self._classes.left_out

  def _chosen(self, rng: np.random.Generator) -> Iterable[int]:
    return _distinct(rng, len(self._classes), self.batch_size // self._per_class)

  def _draw(self, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([self._classes.draw(rng, c, self._per_class) for c in self._chosen(rng)])


class Triplets(_Drawn):
  """HDML's scheme: a0, p0, n0, a1, p1, n1, ...; the negative is of another class than the anchor.

  Classes of anchors are drawn without replacement while there are enough of them, and the negative
  is an image of a class other than the anchor's, classes being equally likely.
  """

  group = 3

  def __init__(self, labels: np.ndarray, batch_size: int, seed: int, label: str):
    if batch_size % 3:
      raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of 3 for triplets")
    super().__init__(labels, batch_size, seed)
    self._classes = _Classes(labels, label, 2)
    self.left_out = self._classes.left_out

  def _draw(self, rng: np.random.Generator) -> np.ndarray:
    triplets, total = self.batch_size // 3, len(self._classes)
    anchors = np.resize(_distinct(rng, total, min(triplets, total)), triplets)
    others = (anchors + rng.integers(1, total, size=triplets)) % total
    parts = []
    for anchor, other in zip(anchors, others, strict=True):
      parts += [self._classes.draw(rng, anchor, 2), self._classes.draw(rng, other, 1)]
    return np.concatenate(parts)


class Uniform(_Drawn):
  """Different records, each equally likely, whatever their class; positives are not guaranteed."""

  def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
    if batch_size > len(labels):
      most = f"the {len(labels)} records of the data set"
      raise ValueError(f"data.batch_size ({batch_size}) is more than {most}")
    super().__init__(labels, batch_size, seed)

  def _draw(self, rng: np.random.Generator) -> np.ndarray:
    return _distinct(rng, self.num_records, self.batch_size)


class Hierarchical(ClassBalanced):
  """N coarse groups, P/N classes in each, K images of each class: negatives that look alike.

  All classes of a group are neighbours in the batch, K consecutive records each. Groups are drawn
  without replacement, then classes within each group. A group with fewer than P/N classes of two
  images is left out.
  """

  def __init__(
    self,
    labels: np.ndarray,
    coarse: np.ndarray,
    batch_size: int,
    images_per_class: int,
    groups: int,
    seed: int,
    label: str,
    coarse_label: str,
  ):
    if groups < 1 or batch_size % (groups * images_per_class):
      divisor = f"data.coarse_per_batch ({groups}) times data.images_per_class ({images_per_class})"
      raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of {divisor}")
    super().__init__(labels, batch_size, images_per_class, seed, label)
    self._groups, self._per_group = groups, batch_size // (groups * images_per_class)
    # The group of a class is that of its first record; then no record may differ from its class.
    of_class = coarse[self._classes.order[self._classes.starts]]
    place = np.searchsorted(self._classes.values, labels).clip(max=len(of_class) - 1)
    wrong = np.flatnonzero((self._classes.values[place] == labels) & (of_class[place] != coarse))
    if wrong.size:
      first = wrong[0]
      raise ValueError(
        f"data.coarse_label={coarse_label}: each class must lie in one group, and class "
        f"{labels[first]} of {label!r} has images in {of_class[place[first]]} and {coarse[first]}"
      )
    self._order = np.argsort(of_class, kind="stable")
    groups_there, counts = np.unique(of_class, return_counts=True)
    kept = np.flatnonzero((counts >= self._per_group) & (groups_there != UNKNOWN))
    self._starts, self._counts = (np.cumsum(counts) - counts)[kept], counts[kept]
    if len(kept) < groups:
      raise ValueError(
        f"data.coarse_label={coarse_label} has {len(kept)} groups with at least {self._per_group} "
        f"classes of two images, its largest has {counts.max()}, and a batch needs "
        f"data.coarse_per_batch={groups} of them: lower data.batch_size, raise "
        "data.images_per_class, or change data.coarse_per_batch"
      )
    if len(kept) < len(counts):
      left = f"{len(counts) - len(kept)} of the {len(counts)} groups of {coarse_label!r} have"
      left += f" fewer than {self._per_group} classes of two images"
      self.left_out = f"{self.left_out}; {left}" if self.left_out else left

  def _chosen(self, rng: np.random.Generator) -> Iterable[int]:
    for group in _distinct(rng, len(self._counts), self._groups):
      places = _distinct(rng, int(self._counts[group]), self._per_group)
      yield from self._order[self._starts[group] + places]


def create(
  name: str,
  labels: np.ndarray,
  batch_size: int,
  images_per_class: int = 2,
  seed: int = 0,
  *,
  label: str = "label",
  coarse: np.ndarray | None = None,
  coarse_label: str = "",
  coarse_per_batch: int = 2,
) -> Sampler:
  """Makes the sampler `name`, a pure function step -> record indices.

  >>> sampler = create("pk", np.repeat(np.arange(10), 6), 6, 3, seed=1)
  >>> batch = sampler(0)
  >>> batch.shape, bool((batch == sampler(0)).all()), len(set((batch // 6).tolist()))
  ((6,), True, 2)

  Args:
    name: "pk" (P classes x K images), "npair" (pk with K = 2), "triplet" (HDML's), "uniform",
      "hierarchical" (P classes x K images out of a few coarse groups).
    labels: integer class of each record, [n].
    batch_size: records in the GLOBAL batch.
    images_per_class: K of "pk" and "hierarchical"; must be 2 for "npair".
    label: name of the label column, for messages.
    coarse: for "hierarchical", the coarse group of each record, [n], of the column `coarse_label`.
    coarse_per_batch: how many groups a batch holds, for "hierarchical".

  ValueError for an unknown name, sizes that do not divide, or too few classes with two images.
  """
  labels = _as_integers("labels", labels)
  if batch_size < 1:
    raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
  if name in ("pk", "hierarchical") and images_per_class < 2:
    least = "must be at least 2, to have a positive pair"
    raise ValueError(f"data.images_per_class {least}, got {images_per_class}")
  if name == "pk":
    return ClassBalanced(labels, batch_size, images_per_class, seed, label)
  if name == "npair":
    if images_per_class != 2:
      got = f"got {images_per_class}; data.sampler=pk takes any"
      raise ValueError(f"data.images_per_class must be 2 for data.sampler=npair, {got}")
    sampler = ClassBalanced(labels, batch_size, 2, seed, label)
    sampler.group = 2
    return sampler
  if name == "triplet":
    return Triplets(labels, batch_size, seed, label)
  if name == "uniform":
    return Uniform(labels, batch_size, seed)
  if name == "hierarchical":
    if coarse is None:
      raise ValueError("data.sampler=hierarchical needs data.coarse_label, the column of groups")
    coarse = _as_integers("coarse", coarse)
    if coarse.shape != labels.shape:
      raise ValueError(f"coarse must have the {len(labels)} rows of labels, got {len(coarse)}")
    return Hierarchical(
      labels, coarse, batch_size, images_per_class, coarse_per_batch, seed, label, coarse_label
    )
  raise ValueError(f"unknown sampler {name!r}; valid names are {', '.join(NAMES)}")


def _as_integers(name: str, values: np.ndarray) -> np.ndarray:
  """The labels as integers, -1 where unknown; text, booleans and None are numbered."""
  values = as_given(values)
  if values.ndim != 1 or values.dtype.kind not in "biuUSO":
    raise ValueError(f"{name} must be integers [n], got {values.dtype} {list(values.shape)}")
  return values if values.dtype.kind in "iu" else numbered(name, values)[0]


def _rng_at(seed: int, step: int) -> np.random.Generator:
  """Returns the random numbers of a step, whatever was drawn before it."""
  if step < 0:
    raise ValueError(f"step must be at least 0, got {step}")
  key = np.array([seed & (2**64 - 1), _STREAM], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, 0]))


def _distinct(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
  """Draws `count` different numbers below `total` in random order, in O(count) for small counts."""
  if total <= 4 * count:
    return rng.permutation(total)[:count]
  # Rejection: at most a quarter of the numbers is ever taken, so few draws are repeated.
  chosen: dict[int, None] = {}
  while len(chosen) < count:
    for value in rng.integers(total, size=count - len(chosen)).tolist():
      chosen.setdefault(value)
  return np.fromiter(chosen, np.int64, count)


class _Classes:
  """The records of each class that has at least two, in one array with offsets (CSR)."""

  def __init__(self, labels: np.ndarray, label: str, needed: int):
    known = np.flatnonzero(labels != UNKNOWN)
    values, dense = np.unique(labels[known], return_inverse=True)
    counts = np.bincount(dense, minlength=len(values))
    kept = np.flatnonzero(counts >= 2)
    self.order = known[np.argsort(dense, kind="stable")].astype(np.int64)
    starts = np.cumsum(counts) - counts
    self.values, self.starts, self.counts = values[kept], starts[kept], counts[kept]
    single = len(values) - len(kept)
    said, unknown = [], len(labels) - len(known)
    if unknown:
      said.append(f"{unknown} of the {len(labels)} records have no {label!r}")
    if single:
      of_all = f"{single} of the {len(values)} classes of {label!r} have"
      said.append(f"{of_all} one image, which cannot give a positive pair")
    self.left_out = "; ".join(said)
    if len(kept) < needed:
      raise ValueError(
        f"label column {label!r} has {len(kept)} classes with at least 2 images "
        f"({single} more have one image and cannot give a positive pair), and a batch needs "
        f"{needed} classes: lower data.batch_size, raise data.images_per_class, or train on a "
        "coarser label"
      )

  def __len__(self) -> int:
    return len(self.counts)

  def draw(self, rng: np.random.Generator, which: int, count: int) -> np.ndarray:
    """Draws `count` records of a class; all differ unless the class is smaller."""
    size = int(self.counts[which])
    # Else cyclically over one permutation: each image comes floor or ceil of count/size times.
    enough = size >= count
    places = _distinct(rng, size, count) if enough else np.resize(rng.permutation(size), count)
    return self.order[self.starts[which] + places]
