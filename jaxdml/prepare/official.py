"""Public data sets from their archives: found, compared with what was published, read in order."""

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
from jaxdml.prepare.source import MAX_FILE_BYTES, Item, PrepareError, Source, column_features, said

_IMAGES = (".jpg", ".jpeg", ".png")
_UNREADABLE = (ValueError, TypeError, NotImplementedError, OSError, OverflowError, MemoryError)
_TAR_ENDINGS = (".tgz", ".tar.gz", ".tar")


class Count(NamedTuple):
  """Images and classes of a split, by number."""

  images: int
  classes: int

  def __str__(self) -> str:
    return f"{self.images:,} images of {self.classes:,} classes"


class Row(NamedTuple):
  """One line of the annotations."""

  split: str
  path: str  # as the annotations have it; kept in the record
  values: Mapping[str, Any]  # its labels
  files: int  # which of the parts it is in
  member: str  # its name there


@dataclasses.dataclass(frozen=True)
class Part:
  """Files with the images of a data set."""

  files: Files
  names: Mapping[str, str]  # inside the data set's folder -> member of `files`, in its order

  def text(self, name: str) -> str:
    """Returns a text file of the part; PrepareError if it is not there, or no UTF-8."""
    if name not in self.names:
      held = f"{few(self.files.members) or 'no files'}. Is it the archive of this data set?"
      raise PrepareError(f"{self.files.path} holds no {name}; it holds {held}")
    try:
      return self.files.text(self.names[name]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
      raise PrepareError(f"{name} in {self.files.path} is no UTF-8 text: {error}") from error


class Annotations(NamedTuple):
  """Contents of a data set's files; `labels`: column -> names of its values, or their number."""

  labels: Mapping[str, Sequence[str] | int]
  rows: Sequence[Row]
  parts: Sequence[Part]


@dataclasses.dataclass(frozen=True)
class Card:
  """A public data set: what people should know of it, and how its files are read."""

  name: str  # as `data.load` takes it
  version: str  # higher than that of TFDS's own, where there is one
  help: str  # a line that says what it is; then what to put into --source, and where it comes from
  homepage: str
  description: str  # what it is and how it is divided
  expected: Mapping[str, Count]  # split -> published counts
  # The directory and the most bytes of a file; PrepareError where files are missing or damaged.
  read: Callable[[Path, int], Annotations]
  label: str = "label"  # the default column, whose classes are counted

  def source(
    self, root: Path, *, allow_partial: bool = False, max_file_bytes: int = MAX_FILE_BYTES
  ) -> "ArchiveSource":
    """Reads the annotations, and compares them with the files and the published counts.

    `root` has the archives or what was extracted from them. With `allow_partial` what is there is
    taken, and the description says so; else PrepareError says what is missing or too much. No file
    may have more than `max_file_bytes`.
    """
    labels, rows, parts = self.read(root, max_file_bytes)
    for row in rows:
      check_name(row.path, f"the annotations of {self.name}")
    there = [row for row in rows if row.member in parts[row.files].names]
    problems = list(_missing(rows, parts))
    for split, count in self.expected.items():
      labels_there = [row.values[self.label] for row in there if row.split == split]
      found = Count(len(labels_there), len(set(labels_there)))
      if found != count:
        problems.append(f"{split}: {count} expected, {found} found")
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
      print(said(f"{text}\nPreparing what is there (--allow_partial)."), file=sys.stderr)
      note = "PARTIAL: results on it do not compare with published ones."
      description = "\n".join([description, note, *problems])
    _note_extra(rows, parts)
    # Part by part, and a sequential one in its own order.
    places = {
      (number, member): place
      for number, part in enumerate(parts)
      if part.files.sequential
      for place, member in enumerate(part.names)
    }
    ordered = sorted(there, key=lambda row: (row.files, places.get((row.files, row.member), 0)))
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
  """A source over some archives and folders; `places` has each item's, and its name there."""

  places: Sequence[tuple[Files, str]]

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the encoded bytes of items[start:], in order."""
    for _, group in itertools.groupby(self.places[start:], key=lambda place: id(place[0])):
      places = list(group)
      yield from places[0][0].read([member for _, member in places])


def find(source: Path, *names: str) -> Path | None:
  """Returns the first of `names` in the directory `source` or in one of its folders, or None."""
  if not source.is_dir():
    raise PrepareError(f"--source {source} is no directory; give the one with the archives")
  folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
  places = (folder / name for name in names for folder in (source, *folders))
  return next((place for place in places if place.exists()), None)


def find_part(source: Path, stem: str) -> Path | None:
  """Returns the archive `stem`.tgz, .tar.gz, .tar or .zip, or else the folder `stem`, if there."""
  return find(source, *(stem + ending for ending in (*_TAR_ENDINGS, ".zip")), stem)


def open_part(path: Path, folder: str, most: int, keep: Collection[str] = ()) -> Part:
  """Opens an archive or an extracted folder; names of the part are those below `folder`.

  The small files `keep` are read as text. No file may have more than `most` bytes.
  """
  if path.name.endswith(_TAR_ENDINGS) and not path.is_dir():
    files: Files = Tar(path, most, keep=keep)
  else:
    files = Folder(path, most) if path.is_dir() else Zip(path, most)
  top = [folder] if path.is_dir() and path.name == folder else []
  split = {member: [*top, *member.split("/")] for member in files.members}
  # Files beside the folder are none of the data set's, unless `path` is the folder renamed.
  within = {member: parts for member, parts in split.items() if folder in parts[:-1]}
  names: dict[str, str] = {}
  for member, parts in (within or split).items():
    last = len(parts) - parts[::-1].index(folder) if within else 0
    inside = "/".join(parts[last:])
    if inside in names and (parts[-1] in keep or inside.lower().endswith(_IMAGES)):
      twice = f"{folder}/{inside} more than once, as {names[inside]!r} and {member!r}"
      raise PrepareError(f"{path} holds {twice}: remove one of the folders")
    names[inside] = member
  return Part(files, names)


def open_lists(root: Path, name: str, archive: str, lists: Sequence[str], most: int) -> Part:
  """Opens a data set's only archive or what was extracted from it; `lists` are read as text."""
  folder = archive.partition(".")[0]
  path = find_part(root, folder)
  if path is None and all((root / file).is_file() for file in lists):
    path = root
  if path is None:
    raise missing_files(name, root, [{archive: False}])
  return open_part(path, folder, most, keep=lists)


def missing_files(name: str, source: Path, forms: Sequence[Mapping[str, bool]]) -> PrepareError:
  """Returns the error that says which files are needed in `source` and which of them are there.

  `forms` has, for each form that the data set comes in, its files and whether they are there.
  """
  state = lambda form: ", ".join(f"{f} ({'found' if t else 'MISSING'})" for f, t in form.items())
  lines = [f"  {'or ' if number else ''}{state(form)}" for number, form in enumerate(forms)]
  present = few(sorted(p.name for p in source.iterdir())) or "no files"
  needs = f"{name} needs these files in {source}, as archives or extracted:"
  return PrepareError("\n".join([needs, *lines, f"There are: {present}"]))


def load_mat(path: Path, content: bytes, variable: str) -> Any:
  """Returns a variable of a MATLAB file; PrepareError if it is none or has none of this name."""
  from scipy.io import loadmat  # Here: only one data set needs SciPy's readers.
  from scipy.io.matlab import MatReadError

  try:
    return loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[variable])[variable]
  except (*_UNREADABLE, MatReadError) as error:
    raise PrepareError(f"{path} is no MATLAB file that can be read: {error}") from error
  except KeyError:
    raise PrepareError(f"{path} has no variable {variable!r}: is it the right file?") from None


def _missing(rows: Sequence[Row], parts: Sequence[Part]) -> Iterator[str]:
  """Yields how many images the annotations name and the files do not hold."""
  for number, part in enumerate(parts):
    of_part = [row for row in rows if row.files == number]
    if gone := [row.member for row in of_part if row.member not in part.names]:
      what = f"{len(gone):,} of the {len(of_part):,} images that the annotations name are missing"
      problem = f"{what} in {part.files.path}: {few(gone)}"
      if len(gone) == len(of_part):
        held = few(part.files.members) or "no files"
        problem += f"; it holds {held}. Is it the archive of another data set?"
      yield problem


def _note_extra(rows: Sequence[Row], parts: Sequence[Part]) -> None:
  named = {(row.files, row.member) for row in rows}
  for number, part in enumerate(parts):
    pictures = [member for member in part.names if member.lower().endswith(_IMAGES)]
    extra = [member for member in pictures if (number, member) not in named]
    if extra:
      what = f"{len(extra):,} images that the annotations do not name; they are left out"
      print(said(f"{part.files.path} holds {what}: {few(extra)}"), file=sys.stderr)
