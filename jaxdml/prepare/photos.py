"""Finds image files below a folder: by class folders, or as a manifest lists them."""

from __future__ import annotations

import collections
import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdml._text import few
from jaxdml.data.picture_files import (
  SPLITS,
  SUFFIXES,
  clean_name,
  is_picture,
  level,
  walk,
)  # fmt: skip
from jaxdml.prepare import manifest as manifests
from jaxdml.prepare.source import PrepareError

_ALMOST_SPLITS = {"dev", "val", "valid", "validation"}
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class ImageFolderError(PrepareError):
  """The folder of photos cannot be used as it is; the message names the file or folder."""


class Photo(NamedTuple):
  """One image file.

  Attributes:
    path: below the folder, with "/" between its parts.
    labels: column -> name of the class.
    split: None where the collection has no splits of its own.
    size: in bytes.
    changed: when, in ns.
  """

  path: str
  labels: dict[str, str]
  split: str | None
  size: int
  changed: int


def unreadable(path: Path, error: OSError) -> ImageFolderError:
  """Returns the error for a file that was listed and cannot be read."""
  return ImageFolderError(
    f"{path}: cannot be read ({error.strerror}); correct it, or take it out, and run again"
  )


def listed(names: Sequence[str]) -> str:
  """Returns the first few names in quotes, for a message."""
  return few(list(map(repr, names)))


class Folder:
  """The folder that holds the photos; nothing outside it is ever read.

  Raises:
    ImageFolderError: it is no folder.
  """

  def __init__(self, root: str | os.PathLike[str]):
    self.path = Path(root).expanduser()
    if not self.path.is_dir():
      what = "is a file; extract archives first" if self.path.exists() else "does not exist"
      raise ImageFolderError(f"{self.path} {what}: a folder of photos is expected")
    self._real = os.path.realpath(self.path)
    self._real_parents: dict[str, str] = {}

  def _resolved(self, path: str) -> str:
    """Returns the path with the links of its folders resolved, each folder once."""
    parent, name = os.path.split(path)
    if parent not in self._real_parents:
      self._real_parents[parent] = os.path.realpath(parent)
    return os.path.join(self._real_parents[parent], name)

  def _inside(self, path: str) -> bool:
    real = self._resolved(path)
    if os.path.islink(real):
      real = os.path.realpath(real)
    return os.path.commonpath([self._real, real]) == self._real

  def _relative(self, path: str) -> str:
    """Returns an absolute path as one below the folder: as it is written, else as it resolves."""
    # A normal form would change what ".." behind a link means.
    written = [] if ".." in path.split("/") else [os.path.normpath(path)]
    for candidate in (*written, self._resolved(path)):
      for root in (os.path.abspath(self.path), self._real):
        if os.path.commonpath([root, candidate]) == root:
          return os.path.relpath(candidate, root)
    raise ImageFolderError(
      f"{path!r} is not in the folder {self.path}: give paths in it, relative to it or absolute"
    )

  def locate(self, relative: str) -> tuple[str, os.stat_result]:
    """Returns the path of a file as the folder has it, and its status.

    Args:
      relative: to the folder, or an absolute path that lies in it.

    Raises:
      ImageFolderError: there is no such file, or it is outside the folder.
    """
    if _DRIVE.match(relative):
      raise ImageFolderError(
        f"{relative!r} is a path of Windows: give it relative to {self.path}, with '/'"
      )
    if relative.startswith("/"):
      relative = self._relative(relative)
    elif ".." in relative.split("/"):
      raise ImageFolderError(
        f"{relative!r} may leave the folder: paths are relative to {self.path}, without '..'"
      )
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
      if not self._inside(path):
        raise ImageFolderError(
          f"{relative!r} is a link that leaves the folder {self.path}, to {os.path.realpath(path)}"
        )
      if not stat.S_ISREG(status.st_mode):
        raise ImageFolderError(f"{relative!r} is not a file")
      return found, status
    hint = "; use '/' between folders" if "\\" in relative else ""
    raise ImageFolderError(f"{relative!r} does not exist in {self.path}{hint}")


def from_folders(folder: Folder, notes: list[str]) -> list[Photo]:
  """Returns the photos in class folders, sorted by path; what was left out goes to `notes`.

  Raises:
    ImageFolderError: there are none, or a name cannot be used.
  """
  splits = _split_folders(folder)
  loose, other, empty, merged = [], collections.Counter(), [], {}
  photos = []
  if splits:
    loose += level(folder.path)[1]
  for split, parent in splits or [(None, "")]:
    classes, files = level(folder.path, parent)
    loose += files
    for class_folder in classes:
      name = clean_name(posixpath.basename(class_folder))
      problem = manifests.name_problem(name)
      if problem:
        raise ImageFolderError(
          f"{folder.path / class_folder}: the name of this class {problem}; rename the folder"
        )
      found = []
      for path in walk(folder.path, class_folder):
        if is_picture(path):
          found.append(path)
        else:
          other[posixpath.splitext(path)[1].lower() or "no suffix"] += 1
      for path in found:
        path, status = folder.locate(path)
        photos.append(Photo(path, {"label": name}, split, status.st_size, status.st_mtime_ns))
      if not found:
        empty.append(class_folder)
      merged.setdefault((split, name), []).append(class_folder)
  outside = [path for path in loose if is_picture(path)]
  if not photos:
    what = f"images that are in no class folder ({listed(outside)})" if outside else "no image"
    raise ImageFolderError(
      f"{folder.path} has {what}; expected are folders named by class with images in them "
      f"({', '.join(s[1:] for s in SUFFIXES)}), or a manifest"
    )
  if outside:
    notes.append(f"Images in no class folder, left out: {len(outside)} ({listed(outside)}).")
  if other:
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(other.items()))
    notes.append(f"Files that are not images by their name, left out: {other.total()} ({kinds}).")
  if empty:
    notes.append(f"Class folders without an image, left out: {len(empty)} ({listed(empty)}).")
  same = [path for folders in merged.values() if len(folders) > 1 for path in folders]
  if same:
    notes.append(f"Folders of the same name as another, joined: {len(same)} ({listed(same)}).")
  return sorted(photos)


def _split_folders(folder: Folder) -> list[tuple[str, str]]:
  """Returns (split, folder) where the folders directly in the root are splits, else nothing."""
  folders = level(folder.path)[0]
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
  folder: Folder, manifest: str | os.PathLike[str], notes: list[str]
) -> list[Photo]:
  """Returns the photos in the manifest's order; what was not used goes to `notes`.

  Raises:
    manifest.ManifestError: a line is wrong; the message names it.
  """
  rows, extra = manifests.read(manifest)
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
      problems.add(
        row.line,
        f"label {label!r} has the coarse label {coarse!r} here and {first!r} on line {line}; a "
        "label must belong to one coarse label",
      )
    if "fine" in labels:
      labels_of_fine[labels["fine"]].add(label)
    split = row.split.casefold() if row.split else None
    photos.append(Photo(path, labels, split, status.st_size, status.st_mtime_ns))
  problems.check()
  several = sorted(fine for fine, labels in labels_of_fine.items() if len(labels) > 1)
  if several:
    notes.append(
      "Fine labels under more than one label, each one class for an evaluation by 'fine': "
      f"{len(several)} ({listed(several)})."
    )
  return photos
