"""Image files below a folder, by class folders or as a manifest lists them; copies among them."""

import collections
import functools
import hashlib
import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from jaxdml._files import sha256 as _whole
from jaxdml.data import picture_files
from jaxdml.data.picture_files import SPLITS, SUFFIXES, clean_name, is_picture
from jaxdml.prepare import manifest as manifests
from jaxdml.prepare.source import PrepareError, listed

_ALMOST_SPLITS = {"dev", "val", "valid", "validation"}
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
ACROSS = "Photos of which training and test have a copy each"  # begins a note, as reports look for
_TAIL = 4096  # Bytes at the end, which differ where pictures do: few files are read in full.


class ImageFolderError(PrepareError):
  """The folder of photos cannot be used as it is; the message names the file or folder."""


class NoFileError(ImageFolderError):
  """A path in the folder where there is no file, but a pipe or a link that leads nowhere."""


class Photo(NamedTuple):
  """One image file: its path below the folder, with "/"; column -> name of the class.

  `split` is None where the collection has none of its own; `changed` is a time in ns.
  """

  path: str
  labels: dict[str, str]
  split: str | None
  size: int
  changed: int


def unreadable(path: Path, error: OSError) -> ImageFolderError:
  """Returns the error for a file that was listed and cannot be read."""
  advice = "correct it, or take it out, and run again"
  return ImageFolderError(f"{path}: cannot be read ({error.strerror}); {advice}")


class Folder:
  """The folder that holds the photos; nothing outside it is ever read."""

  def __init__(self, root: str | os.PathLike[str]):
    self.path = Path(root).expanduser()
    if not self.path.is_dir():
      what = "is a file; extract archives first" if self.path.exists() else "does not exist"
      raise ImageFolderError(f"{self.path} {what}: a folder of photos is expected")
    self._real = os.path.realpath(self.path)
    self._real_parent = functools.cache(os.path.realpath)

  def _resolved(self, path: str) -> str:
    """Returns the path with the links of its folders resolved, each folder once."""
    parent, name = os.path.split(path)
    return os.path.join(self._real_parent(parent), name)

  def _relative(self, path: str) -> str:
    """Returns an absolute path as one below the folder: as it is written, else as it resolves."""
    # A normal form would change what ".." behind a link means.
    written = [] if ".." in path.split("/") else [os.path.normpath(path)]
    for candidate in (*written, self._resolved(path)):
      for root in (os.path.abspath(self.path), self._real):
        if os.path.commonpath([root, candidate]) == root:
          return os.path.relpath(candidate, root)
    rule = "give paths in it, relative to it or absolute"
    raise ImageFolderError(f"{path!r} is not in the folder {self.path}: {rule}")

  def locate(self, relative: str) -> tuple[str, os.stat_result]:
    """Returns the path of a file as the folder has it, and its status.

    ImageFolderError if there is no such file, or it is outside the folder.
    """
    if _DRIVE.match(relative):
      rule = f"give it relative to {self.path}, with '/'"
      raise ImageFolderError(f"{relative!r} is a path of Windows: {rule}")
    if relative.startswith("/"):
      relative = self._relative(relative)
    elif ".." in relative.split("/"):
      rule = f"paths are relative to {self.path}, without '..'"
      raise ImageFolderError(f"{relative!r} may leave the folder: {rule}")
    # The same name may be composed in the manifest and decomposed on the disk (from a Mac).
    for form in (relative, *(unicodedata.normalize(f, relative) for f in ("NFC", "NFD"))):
      found = posixpath.normpath(form)
      path = os.path.join(self.path, found)
      try:
        status = os.stat(path)
      except (FileNotFoundError, NotADirectoryError):
        continue
      except OSError as error:
        raise ImageFolderError(f"{relative[:200]!r} cannot be read: {error.strerror}") from error
      real = self._resolved(path)
      if os.path.islink(real):
        real = os.path.realpath(real)
      if os.path.commonpath([self._real, real]) != self._real:
        where = f"the folder {self.path}, to {real}"
        raise ImageFolderError(f"{relative!r} is a link that leaves {where}")
      if not stat.S_ISREG(status.st_mode):
        raise NoFileError(f"{relative!r} is not a file")
      return found, status
    hint = "; use '/' between folders" if "\\" in relative else ""
    raise NoFileError(f"{relative!r} does not exist in {self.path}{hint}")


def from_folders(folder: Folder, notes: list[str]) -> list[Photo]:
  """Returns the photos in class folders, sorted by path; what was left out goes to `notes`."""
  splits = _split_folders(folder)
  other, empty, gone, merged, photos = collections.Counter(), [], [], {}, []
  loose = picture_files.level(folder.path)[1] if splits else []
  for split, parent in splits or [(None, "")]:
    classes, files = picture_files.level(folder.path, parent)
    loose += files
    for class_folder in classes:
      name = clean_name(posixpath.basename(class_folder))
      if problem := manifests.name_problem(name):
        where = folder.path / class_folder
        raise ImageFolderError(f"{where}: the name of this class {problem}; rename the folder")
      before = len(photos)
      for path in picture_files.walk(folder.path, class_folder):
        if not is_picture(path):
          other[posixpath.splitext(path)[1].lower() or "no suffix"] += 1
          continue
        try:
          path, status = folder.locate(path)
        except NoFileError:
          gone.append(path)
          continue
        photos.append(Photo(path, {"label": name}, split, status.st_size, status.st_mtime_ns))
      if len(photos) == before:
        empty.append(class_folder)
      merged.setdefault((split, name), []).append(class_folder)
  outside = [path for path in loose if is_picture(path)]
  if not photos:
    what = f"images that are in no class folder ({listed(outside)})" if outside else "no image"
    raise ImageFolderError(
      f"{folder.path} has {what}; expected are folders named by class with images in them "
      f"({', '.join(s[1:] for s in SUFFIXES)}), or a manifest"
    )
  if other:
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(other.items()))
    notes.append(f"Files that are not images by their name, left out: {other.total()} ({kinds}).")
  same = [path for folders in merged.values() if len(folders) > 1 for path in folders]
  for what, paths in (
    ("Images in no class folder, left out", outside),
    ("Links that lead nowhere, and pipes, left out", gone),
    ("Class folders without an image, left out", empty),
    ("Folders of the same name as another, joined", same),
  ):
    if paths:
      notes.append(f"{what}: {len(paths)} ({listed(paths)}).")
  return sorted(photos)


def _split_folders(folder: Folder) -> list[tuple[str, str]]:
  """Returns (split, folder) where the folders directly in the root are splits, else nothing."""
  folders = picture_files.level(folder.path)[0]
  names = {name.casefold() for name in folders}
  if not names & set(SPLITS) or not names <= {*SPLITS, *_ALMOST_SPLITS}:
    return []
  for name in folders:
    if name.casefold() not in SPLITS:
      raise ImageFolderError(
        f"{folder.path / name}: unknown split; folders can be {', '.join(SPLITS)}. A "
        "validation part is cut out of the training classes later (eval.validation_fraction), so "
        "move this folder's classes to train or test"
      )
  return [(name.casefold(), name) for name in folders]


def from_manifest(
  folder: Folder, manifest: str | os.PathLike[str], notes: list[str], max_file_bytes: int
) -> list[Photo]:
  """Returns the photos in the manifest's order; what was not used goes to `notes`."""
  rows, extra = manifests.read(manifest, max_file_bytes)
  if extra:
    notes.append(f"Columns of the manifest that are not used: {listed(extra)}.")
  problems = manifests.Problems(manifest)
  photos, lines, coarse_of = [], {}, {}
  labels_of_fine = collections.defaultdict(set)
  for row in rows:
    try:
      path, status = folder.locate(row.path)
    except ImageFolderError as error:
      problems.add(row.line, str(error))
      continue
    if path in lines:
      problems.add(row.line, f"{path!r} is on line {lines[path]} already")
      continue
    lines[path] = row.line
    given = {"label": row.label, "coarse": row.coarse, "fine": row.fine}
    labels = {c: clean_name(name) for c, name in given.items() if name is not None}
    label, coarse = labels["label"], labels.get("coarse")
    first, line = coarse_of.setdefault(label, (coarse, row.line))
    if coarse != first:
      here = f"label {label!r} has the coarse label {coarse!r} here and {first!r} on line {line}"
      problems.add(row.line, f"{here}; a label must belong to one coarse label")
    if "fine" in labels:
      labels_of_fine[labels["fine"]].add(label)
    split = row.split.casefold() if row.split else None
    photos.append(Photo(path, labels, split, status.st_size, status.st_mtime_ns))
  problems.check()
  if several := sorted(fine for fine, labels in labels_of_fine.items() if len(labels) > 1):
    notes.append(
      "Fine labels under more than one label, each one class for an evaluation by 'fine': "
      f"{len(several)} ({listed(several)})."
    )
  return photos


def copies(root: Path, found: Sequence[Photo], name: str) -> list[list[Photo]]:
  """Returns the groups of two or more photos whose files are equal, in the order of `found`.

  Only files of one size are compared: by their ends, and where those are equal in full. Empty ones
  are no pictures, so no copies. `name` is the data set's, for the bar.
  """
  groups = _split([[photo for photo in found if photo.size]], lambda photo: photo.size)
  for what, digest in (("comparing sizes and ends", _tail), ("comparing files", _whole)):
    with tqdm(total=sum(map(len, groups)), desc=f"{name}: {what}", unit=" photos", delay=2) as bar:

      def key(photo: Photo, digest=digest, bar=bar) -> bytes | str:
        bar.update()
        try:
          return digest(root / photo.path)
        except OSError as error:
          raise unreadable(root / photo.path, error) from error

      groups = _split(groups, key)
  return groups


def _split(groups: Iterable[Sequence[Photo]], key: Callable[[Photo], object]) -> list[list[Photo]]:
  """Divides each group by a key, and leaves out what is then alone."""
  parts = []
  for group in groups:
    by_key = collections.defaultdict(list)
    for photo in group:
      by_key[key(photo)].append(photo)
    parts += [part for part in by_key.values() if len(part) > 1]
  return parts


def _tail(path: Path) -> bytes:
  with path.open("rb") as file:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    return hashlib.sha256(file.read(_TAIL)).digest()


def _contradict(group: Sequence[Photo]) -> bool:
  return any(photo.labels != group[0].labels for photo in group)


def without_copies(found: Iterable[Photo], groups: Sequence[Sequence[Photo]]) -> list[Photo]:
  """Leaves out all but the first of equal photos, and all of them where their labels differ."""
  dropped = {p.path for group in groups for p in group[0 if _contradict(group) else 1 :]}
  return [photo for photo in found if photo.path not in dropped]


def copy_notes(groups: Sequence[Sequence[Photo]], dropped: bool) -> Iterator[str]:
  """Yields what the user should know about groups of equal photos, splits given."""
  pairs = lambda groups: listed([f"{group[0].path} = {group[1].path}" for group in groups])
  wrong = [group for group in groups if _contradict(group)]
  agreeing = [group for group in groups if not _contradict(group)]
  more, of_wrong = sum(len(group) - 1 for group in agreeing), sum(map(len, wrong))
  if dropped:
    if groups:
      yield (
        f"Copies, byte by byte, left out: {more + of_wrong}; of each the first is kept, and none "
        f"of the {of_wrong} whose labels differ ({pairs(groups)})."
      )
    return
  hint = "--drop_copies leaves them out"
  if more:
    yield (
      f"Copies of another photo of their class, byte by byte: {more} ({pairs(agreeing)}). They "
      f"teach nothing and are found too easily; {hint}."
    )
  if wrong:
    yield (
      f"Photos that are there under several labels, byte by byte: {len(wrong)} "
      f"({pairs(wrong)}). At most one of the labels is right; {hint}."
    )
  test = [g for g in groups if len({photo.split == "train" for photo in g}) > 1]
  if test:
    yield f"{ACROSS}: {len(test)} ({pairs(test)})."
