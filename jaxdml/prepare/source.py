"""Sources of data sets: images with labels, wherever they come from, in one form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from jaxdml.errors import JaxdmlError

__all__ = ["Item", "PrepareError", "Source", "column_features"]


class PrepareError(JaxdmlError, ValueError):
  """A data set cannot be prepared; the message says what is wrong and what to do."""


class Item(NamedTuple):
  """One image of a source.

  Attributes:
    split: "train", "test", "query", "gallery".
    path: relative path inside the archive or folder, unique; kept as the feature "path".
    values: every other feature except "image".
  """

  split: str
  path: str
  values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Source:
  """Images with labels that `writing.write` makes a data set of; each kind reads in its own way.

  Attributes:
    name: of the data set, "NAME" or "NAME/CONFIG".
    version: "1.0.0".
    description: what it is and what its splits are.
    homepage: where it comes from, or "".
    features: with "image" (tfds.features.Image) and "path" (tfds.features.Text).
    supervised: the default label column.
    items: in the order in which `read` yields them; splits may be interleaved.
    fingerprint: of annotations, member lists, sizes: what was written from another is not kept.
  """

  name: str
  version: str = "1.0.0"
  description: str
  homepage: str = ""
  features: tfds.features.FeaturesDict
  supervised: str = "label"
  items: Sequence[Item] = dataclasses.field(repr=False)
  fingerprint: str

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order and unchanged."""
    raise NotImplementedError


def column_features(columns: Mapping[str, Sequence[str] | int]) -> tfds.features.FeaturesDict:
  """Returns the features of a source.

  Args:
    columns: label column -> the names of its values, or how many there are.
  """
  kinds: dict[str, Any] = {"image": tfds.features.Image(), "path": tfds.features.Text()}
  for column, names in columns.items():
    kind = {"num_classes": names} if isinstance(names, int) else {"names": names}
    kinds[column] = tfds.features.ClassLabel(**kind)
  return tfds.features.FeaturesDict(kinds)
