"""Parts of a data set that share no class, for validation, and classes joined into groups."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdml.data.datasets import Dataset


def _part(dataset: Dataset, held_out: np.ndarray, name: str) -> tuple[Dataset, Dataset]:
  """Returns the rest, and the records that `held_out` marks, under a name of their own."""
  validation = dataclasses.replace(dataset.select(held_out), split=f"{dataset.split}:{name}")
  return dataset.select(~held_out), validation


def validation_split(
  dataset: Dataset, label: str, fraction: float, seed: int
) -> tuple[Dataset, Dataset]:
  """Sets aside some classes for validation: (train, validation), with no class in common.

  Args:
    dataset: training data.
    label: the column that defines the classes.
    fraction: share of the classes that validate, in (0, 1); at least two classes are on each side,
      for with one class every neighbour is right.
    seed: chooses the classes.

  Raises:
    ValueError: `fraction` is outside (0, 1), or there are fewer than four classes.
  """
  classes = dataset.classes(label)
  if not 0 < fraction < 1:
    raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
  if len(classes) < 4:
    raise ValueError(
      f"a validation part needs 2 classes of {label!r} and training 2 others, and data set "
      f"{dataset.name!r}, split {dataset.split!r}, has {len(classes)}: set "
      "eval.validation_fraction=0"
    )
  count = min(max(round(fraction * len(classes)), 2), len(classes) - 2)
  rng = np.random.Generator(np.random.PCG64(seed))
  held_out = np.isin(dataset.column(label), rng.permutation(classes)[:count])
  return _part(dataset, held_out, "validation")


def cross_validation(
  dataset: Dataset, label: str, folds: int, seed: int | None = None
) -> list[tuple[Dataset, Dataset]]:
  """Divides the classes into folds, each of which validates once: (train, validation) a fold.

  By default the folds are consecutive ranges of the classes in the order of their numbers: the
  first fold validates on the first 1/folds of them, as in Musgrave et al. 2020 (arXiv 2003.08505,
  4 folds). No class is on both sides; every class validates exactly once; the sizes of folds, in
  classes, differ by at most one.

  Args:
    dataset: training data.
    label: the column that defines the classes.
    folds: how many, from 2 to half the number of classes: with one class every neighbour is right.
    seed: if given, the classes are shuffled before they are divided; None keeps their order.

  Raises:
    ValueError: fewer than two folds, or fewer than two classes in each.
  """
  classes = dataset.classes(label)
  if folds < 2:
    raise ValueError(f"folds must be at least 2, got {folds}")
  if len(classes) < 2 * folds:
    raise ValueError(
      f"{folds} folds need at least {2 * folds} classes of {label!r}, and data set "
      f"{dataset.name!r}, split {dataset.split!r}, has {len(classes)}"
    )
  if seed is not None:
    classes = np.random.Generator(np.random.PCG64(seed)).permutation(classes)
  column = dataset.column(label)
  return [
    _part(dataset, np.isin(column, part), f"fold{number}")
    for number, part in enumerate(np.array_split(classes, folds))
  ]


def with_groups(dataset: Dataset, label: str) -> Dataset:
  """Adds the column `label` if it is "COLUMN//M": classes of COLUMN in groups of M, at random.

  Groups that mean nothing: what a coarse label does to a finer retrieval, at any coarseness. The
  same split gives the same groups; a last group of less than M classes joins the one before it.

  Args:
    dataset: one split; its groups are made of the classes that it has.
    label: the name of any column, which changes nothing, or of a new one.

  Raises:
    ValueError: no such column, or M is not a whole number from 1 to the number of classes.
  """
  column, slashes, size = label.partition("//")
  if not slashes or label in dataset.labels:
    return dataset
  classes = dataset.classes(column)
  if not size.isdecimal() or not 1 <= int(size) <= len(classes):
    raise ValueError(
      f"label column {label!r}: expected COLUMN//M with 1 <= M <= {len(classes)}, the classes of "
      f"{column!r} in data set {dataset.name!r}, split {dataset.split!r}"
    )
  groups = len(classes) // int(size)
  place = np.random.Generator(np.random.PCG64(0)).permutation(len(classes))
  group = np.minimum(place // int(size), groups - 1).astype(np.int32)
  return dataclasses.replace(
    dataset, labels={**dataset.labels, label: group[dataset.dense_labels(column)]}
  )
