"""Sources of data sets: images with labels, wherever they come from, in one form."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from jaxdml._text import few, printable
from jaxdml.errors import JaxdmlError

# No photo and no list of the data sets is as large; by default a file that says so is refused.
MAX_FILE_BYTES = 512 * 2**20
_MOST = 1000  # characters of a line of a message


def said(text: str) -> str:
  r"""Returns a message as a terminal may show it: names in it may hold anything, and be long.

  >>> said("a\x1b[31m\nb")
  'a[U+001B][31m\nb'
  """
  short = lambda x: x if len(x) <= _MOST else f"{x[: _MOST // 2]} ... {x[-_MOST // 2 :]}"
  return "\n".join(printable(short(line)) for line in text.split("\n"))


def listed(names: Sequence[str]) -> str:
  """Returns the first few names in quotes, for a message."""
  return few(list(map(repr, names)))


class PrepareError(JaxdmlError, ValueError):
  """A data set cannot be prepared; the message says what is wrong and what to do."""

  def __init__(self, message: str):
    super().__init__(said(message))


def small_file(path: Path, most: int) -> bytes:
  """Returns a file's bytes; PrepareError if they are more than `most`."""
  size, rule = path.stat().st_size, f"more than the {most:,} that --max_file_bytes allows"
  if size > most:
    raise PrepareError(f"{path} has {size:,} bytes: {rule}")
  return path.read_bytes()


class Item(NamedTuple):
  """One image of a source."""

  split: str  # "train", "test", "query" or "gallery"
  path: str  # relative, inside the archive or folder, unique; kept as the feature "path"
  values: Mapping[str, Any]  # every other feature except "image"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Source:
  """Images with labels that `writing.write` makes a data set of; each kind reads in its own way.

  `items` are in the order in which `read` yields them; splits may be interleaved. The fingerprint
  is of annotations, member lists, sizes: what was written from another is not kept.
  """

  name: str  # "NAME" or "NAME/CONFIG"
  version: str = "1.0.0"
  description: str  # what it is and what its splits are
  homepage: str = ""
  features: tfds.features.FeaturesDict  # "image" (Image), "path" (Text) and the label columns
  supervised: str = "label"  # the default label column
  items: Sequence[Item] = dataclasses.field(repr=False)
  fingerprint: str

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order and unchanged."""
    raise NotImplementedError


def summary(what: str, placed: Sequence[tuple[str, Any]]) -> str:
  """Returns how many there are of each split, from the split and class of each.

  >>> summary("photos", [("train", "ant"), ("train", "ant"), ("test", "bee")])
  '3 photos of 2 classes: train 2 of 1 classes, test 1 of 1 classes'
  """
  splits: dict[str, list[Any]] = {}
  for split, label in placed:
    splits.setdefault(split, []).append(label)
  parts = [f"{split} {len(own)} of {len(set(own))} classes" for split, own in splits.items()]
  classes = set().union(*splits.values())
  return f"{len(placed)} {what} of {len(classes)} classes: {', '.join(parts)}"


def column_features(columns: Mapping[str, Sequence[str] | int]) -> tfds.features.FeaturesDict:
  """Returns a source's features, from label column -> the names of its values, or their number."""
  kinds: dict[str, Any] = {"image": tfds.features.Image(), "path": tfds.features.Text()}
  for column, names in columns.items():
    kind = {"num_classes": names} if isinstance(names, int) else {"names": names}
    kinds[column] = tfds.features.ClassLabel(**kind)
  return tfds.features.FeaturesDict(kinds)
