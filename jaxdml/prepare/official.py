"""Public data sets from their archives: found, compared with what was published, read in order."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdml._text import few
from jaxdml.prepare.archives import Files, Folder, Tar, Zip, check_name
from jaxdml.prepare.source import Item, PrepareError, Source, column_features

__all__ = [
  "Annotations", "Card", "Count", "Part", "Row", "find", "find_part", "load_mat", "missing_files",
  "open_part",
]  # fmt: skip

_IMAGES = (".jpg", ".jpeg", ".png")
_TAR_ENDINGS = (".tgz", ".tar.gz", ".tar")


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


@dataclasses.dataclass(frozen=True)
class Part:
  """Files with the images of a data set, by their names inside `folder`.

  Attributes:
    files: the archive or folder.
    names: name inside the data set's folder -> member of `files`, in the order of the archive.
  """

  files: Files
  names: Mapping[str, str]

  def text(self, name: str) -> str:
    """Returns a text file of the part.

    Raises:
      PrepareError: it is not there, or no UTF-8.
    """
    if name not in self.names:
      raise PrepareError(
        f"{self.files.path} holds no {name}; it holds {few(self.files.members) or 'no files'}. "
        "Is it the archive of this data set?"
      )
    try:
      return self.files.text(self.names[name]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
      raise PrepareError(f"{name} in {self.files.path} is no UTF-8 text: {error}") from error


class Annotations(NamedTuple):
  """Contents of a data set's files.

  Attributes:
    labels: column -> the names of its values, or how many there are.
    rows: a line for each image.
    parts: the archives and folders with the images.
  """

  labels: Mapping[str, Sequence[str] | int]
  rows: Sequence[Row]
  parts: Sequence[Part]


@dataclasses.dataclass(frozen=True)
class Card:
  """A public data set: what people should know of it, and how its files are read.

  Attributes:
    name: of the data set, as `data.load` takes it.
    version: higher than that of TFDS's own, where there is one.
    help: a line that says what it is; then what to put into --source, and where people have it
      from.
    homepage: of the data set.
    description: what it is and how it is divided.
    expected: split -> published counts.
    read: directory -> its annotations; raises PrepareError where files are missing or damaged.
    label: the default label column, whose classes are counted.
  """

  name: str
  version: str
  help: str
  homepage: str
  description: str
  expected: Mapping[str, Count]
  read: Callable[[Path], Annotations]
  label: str = "label"

  def source(self, root: Path, *, allow_partial: bool = False) -> ArchiveSource:
    """Reads the annotations, and compares them with the files and the published counts.

    Args:
      root: directory with the archives or what was extracted from them.
      allow_partial: take what is there; the description says so.

    Raises:
      PrepareError: something is missing, damaged or too much; the message says what.
    """
    labels, rows, parts = self.read(root)
    for row in rows:
      check_name(row.path, f"the annotations of {self.name}")
    there = [row for row in rows if row.member in parts[row.files].names]
    problems = [*_missing(rows, there, parts), *_counts(there, self.label, self.expected)]
    description = self.description
    if problems:
      text = f"{self.name} is not whole:\n" + "\n".join(f"  {problem}" for problem in problems)
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
    digest = hashlib.sha256(repr((self.version, description)).encode())
    for part in parts:
      digest.update(part.files.fingerprint.encode())
    for item in items:
      digest.update(repr((item.split, item.path, sorted(item.values.items()))).encode())
    return ArchiveSource(
      name=self.name,
      version=self.version,
      description=description,
      homepage=self.homepage,
      features=column_features(labels),
      supervised=self.label,
      items=items,
      fingerprint=digest.hexdigest(),
      places=[(parts[r.files].files, parts[r.files].names[r.member]) for r in ordered],
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ArchiveSource(Source):
  """A source over some archives and folders.

  Attributes:
    places: of each item, the archive or folder and its name there.
  """

  places: Sequence[tuple[Files, str]]

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order."""
    for _, group in itertools.groupby(self.places[start:], key=lambda place: id(place[0])):
      places = list(group)
      yield from places[0][0].read([member for _, member in places])


def find(source: Path, *names: str) -> Path | None:
  """Returns the first of `names` in `source` or in one of its folders, or None.

  Raises:
    PrepareError: `source` is no directory.
  """
  if not source.is_dir():
    raise PrepareError(f"--source {source} is no directory; give the one with the archives")
  folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
  for name in names:
    for folder in (source, *folders):
      if (folder / name).exists():
        return folder / name
  return None


def find_part(source: Path, stem: str) -> Path | None:
  """Returns the archive `stem`.tgz, .tar.gz, .tar or .zip, or else the folder `stem`, if there."""
  return find(source, *(stem + ending for ending in (*_TAR_ENDINGS, ".zip")), stem)


def open_part(path: Path, folder: str, keep: Collection[str] = ()) -> Part:
  """Opens an archive or an extracted folder.

  Args:
    path: the archive or folder.
    folder: names of the part are those below it: "car_ims" for "car_ims/000001.jpg".
    keep: small files that are read as text.
  """
  if path.is_dir():
    files: Files = Folder(path)
  elif path.name.endswith(_TAR_ENDINGS):
    files = Tar(path, keep=keep)
  else:
    files = Zip(path)
  top = [folder] if path.is_dir() and path.name == folder else []
  split = {member: [*top, *member.split("/")] for member in files.members}
  # Files beside the folder are none of the data set's, unless `path` is the folder renamed.
  within = {member: parts for member, parts in split.items() if folder in parts[:-1]}
  names: dict[str, str] = {}
  for member, parts in (within or split).items():
    last = len(parts) - parts[::-1].index(folder) if within else 0
    inside = "/".join(parts[last:])
    if inside in names and (parts[-1] in keep or inside.lower().endswith(_IMAGES)):
      raise PrepareError(
        f"{path} holds {folder}/{inside} more than once, as {names[inside]!r} and {member!r}: "
        "remove one of the folders"
      )
    names[inside] = member
  return Part(files, names)


def missing_files(name: str, source: Path, forms: Sequence[Mapping[str, bool]]) -> PrepareError:
  """Returns the error that says which files are needed and which of them are there.

  Args:
    name: of the data set.
    source: where they were sought.
    forms: for each form that the data set comes in, its files and whether they are there.
  """
  lines = [
    "  "
    + ("or " if number else "")
    + ", ".join(f"{file} ({'found' if there else 'MISSING'})" for file, there in form.items())
    for number, form in enumerate(forms)
  ]
  present = sorted(p.name for p in source.iterdir())
  return PrepareError(
    f"{name} needs these files in {source}, as archives or extracted:\n"
    + "\n".join(lines)
    + f"\nThere are: {few(present) or 'no files'}"
  )


def load_mat(path: Path, content: bytes, variable: str) -> Any:
  """Returns a variable of a MATLAB file.

  Raises:
    PrepareError: it is no MATLAB file or has no such variable.
  """
  from scipy.io import loadmat  # Here: only one data set needs SciPy's readers.
  from scipy.io.matlab import MatReadError

  try:
    return loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[variable])[variable]
  except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
    raise PrepareError(f"{path} is no MATLAB file that can be read: {error}") from error
  except KeyError:
    raise PrepareError(f"{path} has no variable {variable!r}: is it the right file?") from None


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
      if member.lower().endswith(_IMAGES) and (number, member) not in named
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
