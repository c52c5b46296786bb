"""Which records make up a batch: pure functions (seed, step) -> record indices.

Nothing is carried from step to step, so a run resumes anywhere from the step number alone, and
every host computes the same global batch. A step costs O(batch), whatever the size of the data.

A class of one image cannot give a positive pair: every sampler but "uniform" leaves it out and
counts it (`dropped_classes`). A class with fewer than K images repeats them as evenly as possible,
each floor or ceil of K / size times; losses know such repetitions by the record's index and never
pair an image with itself.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from jaxdml.data import draws


class Sampler(Protocol):
  """What `create` returns.

  Attributes:
    batch_size: records in a global batch.
    num_records: length of the labels it was made from.
    group: records that belong together (2 for pairs, 3 for triplets); parts of a batch for hosts
      and devices must hold whole groups.
    dropped_classes: classes of one image, which cannot give a positive pair and are left out as
      anchors.
  """

  batch_size: int
  num_records: int
  group: int
  dropped_classes: int

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step's global batch, int64 [batch_size]."""
    ...


class ClassBalanced:
  """P classes x K images: K consecutive records of each of P different classes.

  A class with fewer than K images repeats them as evenly as possible. With K = 2 this is the N-pair
  batch a0, p0, a1, p1, ..., whose contiguous parts of even length hold whole pairs.
  """

  def __init__(
    self, labels: np.ndarray, batch_size: int, images_per_class: int, seed: int, label: str
  ):
    if images_per_class < 2:
      raise ValueError(
        f"data.images_per_class must be at least 2, to have a positive pair, got {images_per_class}"
      )
    if batch_size % images_per_class:
      raise ValueError(
        f"data.batch_size ({batch_size}) must be a multiple of data.images_per_class "
        f"({images_per_class})"
      )
    self.batch_size = batch_size
    self.num_records = len(labels)
    self.group = 1
    self._per_class = images_per_class
    self._seed = seed
    self._classes = draws.Classes(labels, label, batch_size // images_per_class)
    self.dropped_classes = self._classes.dropped

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step, int64 [batch_size]."""
    rng = draws.rng_at(self._seed, step)
    chosen = draws.distinct(rng, len(self._classes), self.batch_size // self._per_class)
    return np.concatenate([self._classes.draw(rng, c, self._per_class) for c in chosen])


class Triplets:
  """HDML's scheme: a0, p0, n0, a1, p1, n1, ...; the negative is of another class than the anchor.

  Classes of anchors are drawn without replacement while there are enough of them, and the negative
  is an image of a class other than the anchor's, classes being equally likely.
  """

  def __init__(self, labels: np.ndarray, batch_size: int, seed: int, label: str):
    if batch_size % 3:
      raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of 3 for triplets")
    self.batch_size = batch_size
    self.num_records = len(labels)
    self.group = 3
    self._seed = seed
    self._classes = draws.Classes(labels, label, 2)
    self.dropped_classes = self._classes.dropped

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step, int64 [batch_size]."""
    rng = draws.rng_at(self._seed, step)
    triplets, total = self.batch_size // 3, len(self._classes)
    anchors = np.resize(draws.distinct(rng, total, min(triplets, total)), triplets)
    others = (anchors + rng.integers(1, total, size=triplets)) % total
    parts = []
    for anchor, other in zip(anchors, others, strict=True):
      parts += [self._classes.draw(rng, anchor, 2), self._classes.draw(rng, other, 1)]
    return np.concatenate(parts)


class Uniform:
  """Different records, each equally likely, whatever their class; positives are not guaranteed."""

  dropped_classes = 0

  def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
    if batch_size > len(labels):
      raise ValueError(
        f"data.batch_size ({batch_size}) is more than the {len(labels)} records of the data set"
      )
    self.batch_size = batch_size
    self.num_records = len(labels)
    self.group = 1
    self._seed = seed

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step, int64 [batch_size]."""
    return draws.distinct(draws.rng_at(self._seed, step), self.num_records, self.batch_size)


class Hierarchical:
  """N coarse groups, P/N classes in each, K images of each class: negatives that look alike.

  All classes of a group are neighbours in the batch, K consecutive records each. Groups are drawn
  without replacement, then classes within each group. A group with fewer than P/N classes of two
  images is left out (`dropped_groups`).
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
    if images_per_class < 2:
      raise ValueError(
        f"data.images_per_class must be at least 2, to have a positive pair, got {images_per_class}"
      )
    if groups < 1 or batch_size % (groups * images_per_class):
      raise ValueError(
        f"data.batch_size ({batch_size}) must be a multiple of data.coarse_per_batch ({groups}) "
        f"times data.images_per_class ({images_per_class})"
      )
    self.batch_size, self.num_records, self.group = batch_size, len(labels), 1
    self._seed, self._per_class, self._groups = seed, images_per_class, groups
    self._per_group = batch_size // (groups * images_per_class)
    self._classes = draws.Classes(labels, label, groups * self._per_group)
    self.dropped_classes = self._classes.dropped
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
    _, counts = np.unique(of_class, return_counts=True)
    kept = np.flatnonzero(counts >= self._per_group)
    self._starts, self._counts = (np.cumsum(counts) - counts)[kept], counts[kept]
    self.dropped_groups = len(counts) - len(kept)
    if len(kept) < groups:
      raise ValueError(
        f"data.coarse_label={coarse_label} has {len(kept)} groups with at least {self._per_group} "
        f"classes of two images, its largest has {counts.max()}, and a batch needs "
        f"data.coarse_per_batch={groups} of them: lower data.batch_size, raise "
        "data.images_per_class, or change data.coarse_per_batch"
      )

  def __call__(self, step: int) -> np.ndarray:
    """Returns the record indices of a step, int64 [batch_size]."""
    rng = draws.rng_at(self._seed, step)
    parts = []
    for group in draws.distinct(rng, len(self._counts), self._groups):
      places = draws.distinct(rng, int(self._counts[group]), self._per_group)
      chosen = self._order[self._starts[group] + places]
      parts += [self._classes.draw(rng, which, self._per_class) for which in chosen]
    return np.concatenate(parts)


NAMES = ("hierarchical", "npair", "pk", "triplet", "uniform")
"""The samplers that `create` knows."""


def _integers(name: str, values: np.ndarray) -> np.ndarray:
  values = np.asarray(values)
  if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f"{name} must be integers [n], got {values.dtype} {list(values.shape)}")
  return values


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
    images_per_class: K; used by "pk" and "hierarchical", must be 2 for "npair", ignored by the
      others.
    seed: the same seed and step give the same batch.
    label: name of the label column, for messages.
    coarse: the coarse group of each record, [n], for "hierarchical".
    coarse_label: name of that column, for messages.
    coarse_per_batch: how many groups a batch holds, for "hierarchical".

  Raises:
    ValueError: unknown name, sizes that do not divide, or too few classes with two images.
  """
  labels = _integers("labels", labels)
  if batch_size < 1:
    raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
  if name == "pk":
    return ClassBalanced(labels, batch_size, images_per_class, seed, label)
  if name == "npair":
    if images_per_class != 2:
      raise ValueError(
        f"data.images_per_class must be 2 for data.sampler=npair, got {images_per_class}; "
        "data.sampler=pk takes any"
      )
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
    coarse = _integers("coarse", coarse)
    if coarse.shape != labels.shape:
      raise ValueError(f"coarse must have the {len(labels)} rows of labels, got {len(coarse)}")
    return Hierarchical(
      labels, coarse, batch_size, images_per_class, coarse_per_batch, seed, label, coarse_label
    )
  raise ValueError(f"unknown sampler {name!r}; valid names are {', '.join(NAMES)}")
