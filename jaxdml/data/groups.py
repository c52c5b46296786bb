"""Coarser labels with a dial: the column "label//4" puts four classes of `label` in a group."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdml.data.datasets import Dataset


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
