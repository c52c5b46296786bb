"""Sources of data sets: images with labels, wherever they come from, in one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds

from jaxdml.errors import JaxdmlError

__all__ = ["Item", "PrepareError", "Source"]


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


class Source(Protocol):
  """Images with labels that `write` makes a data set of.

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
  version: str
  description: str
  homepage: str
  features: tfds.features.FeaturesDict
  supervised: str
  items: Sequence[Item]
  fingerprint: str

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order and unchanged."""
    ...
