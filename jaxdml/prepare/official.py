"""Public data sets from their archives: comparing with the annotations, reading in order."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from jaxdml._text import few
from jaxdml.prepare.archives import Files, check_name
from jaxdml.prepare.official_files import IMAGES, Part
from jaxdml.prepare.source import Item, PrepareError


class Count(NamedTuple):
  """Images and classes of a split, by number."""

  images: int
  classes: int

  def __str__(self) -> str:
    return f"{self.images:,} images of {self.classes:,} classes"


class Row(NamedTuple):
  """One line of the annotations.

  Attributes:
    split: where it belongs.
    path: as the annotations have it; kept in the record.
    values: its labels.
    files: which of the parts it is in.
    member: its name there.
  """

  split: str
  path: str
  values: Mapping[str, Any]
  files: int
  member: str


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialSource:
  """A `source.Source` over some archives and folders."""

  name: str
  version: str
  description: str
  homepage: str
  features: tfds.features.FeaturesDict
  supervised: str
  items: Sequence[Item]
  fingerprint: str
  places: Sequence[tuple[Files, str]]

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order."""
    for _, group in itertools.groupby(self.places[start:], key=lambda place: id(place[0])):
      places = list(group)
      yield from places[0][0].read([member for _, member in places])


def assemble(
  *,
  name: str,
  version: str,
  description: str,
  homepage: str,
  features: tfds.features.FeaturesDict,
  supervised: str,
  rows: Sequence[Row],
  parts: Sequence[Part],
  expected: Mapping[str, Count],
  allow_partial: bool,
) -> OfficialSource:
  """Compares annotations, files and published counts, and returns the source if all agree.

  Args:
    name: of the data set, as the rest down to `supervised` in `source.Source`.
    version: of it.
    description: of it.
    homepage: of it.
    features: of it.
    supervised: the label column, which also defines the classes that are counted.
    rows: the annotations.
    parts: the files with the images.
    expected: split -> published counts.
    allow_partial: take what is there; the description says so.

  Raises:
    PrepareError: something is missing or too much; the message says what.
  """
  for row in rows:
    check_name(row.path, f"the annotations of {name}")
  there = [row for row in rows if row.member in parts[row.files].names]
  problems = [*_missing(rows, there, parts), *_counts(there, supervised, expected)]
  if problems:
    text = f"{name} is not whole:\n" + "\n".join(f"  {problem}" for problem in problems)
    if not allow_partial:
      raise PrepareError(
        f"{text}\nGet the official files again. To prepare what is there all the same, add "
        "--allow_partial: results on it do not compare with published ones"
      )
    if not there:
      raise PrepareError(f"{text}\nThere is nothing to prepare")
    print(f"{text}\nPreparing what is there (--allow_partial).", file=sys.stderr)
    description += "\nPARTIAL: results on it do not compare with published ones.\n" + "\n".join(
      problems
    )
  _note_extra(rows, parts)
  ordered = _in_reading_order(there, parts)
  items = [Item(row.split, row.path, row.values) for row in ordered]
  places = [(parts[row.files].files, parts[row.files].names[row.member]) for row in ordered]
  digest = hashlib.sha256(repr((version, description)).encode())
  for part in parts:
    digest.update(part.files.fingerprint.encode())
  for item in items:
    digest.update(repr((item.split, item.path, sorted(item.values.items()))).encode())
  return OfficialSource(
    name=name,
    version=version,
    description=description,
    homepage=homepage,
    features=features,
    supervised=supervised,
    items=items,
    fingerprint=digest.hexdigest(),
    places=places,
  )


def _missing(rows: Sequence[Row], there: Sequence[Row], parts: Sequence[Part]) -> list[str]:
  """Lists the images that the annotations name and the files do not hold."""
  if len(there) == len(rows):
    return []
  problems = []
  for number, part in enumerate(parts):
    of_part = [row for row in rows if row.files == number]
    gone = [row.member for row in of_part if row.member not in part.names]
    if gone:
      problem = (
        f"{len(gone):,} of the {len(of_part):,} images that the annotations name are missing in "
        f"{part.files.path}: {few(gone)}"
      )
      if len(gone) == len(of_part):
        held = few(part.files.members) or "no files"
        problem += f"; it holds {held}. Is it the archive of another data set?"
      problems.append(problem)
  return problems


def _counts(rows: Sequence[Row], label: str, expected: Mapping[str, Count]) -> list[str]:
  problems = []
  for split, count in expected.items():
    labels = [row.values[label] for row in rows if row.split == split]
    found = Count(len(labels), len(set(labels)))
    if found != count:
      problems.append(f"{split}: {count} expected, {found} found")
  return problems


def _note_extra(rows: Sequence[Row], parts: Sequence[Part]) -> None:
  named = {(row.files, row.member) for row in rows}
  for number, part in enumerate(parts):
    extra = [
      member
      for member in part.names
      if member.lower().endswith(IMAGES) and (number, member) not in named
    ]
    if extra:
      print(
        f"{part.files.path} holds {len(extra):,} images that the annotations do not name; they "
        f"are left out: {few(extra)}",
        file=sys.stderr,
      )


def _in_reading_order(rows: Sequence[Row], parts: Sequence[Part]) -> list[Row]:
  """Returns the rows part by part, a part in its archive's order or else in the annotations'."""
  places = [
    {member: place for place, member in enumerate(part.names)} if part.files.sequential else {}
    for part in parts
  ]
  return sorted(rows, key=lambda row: (row.files, places[row.files].get(row.member, 0)))
