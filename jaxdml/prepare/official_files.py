"""Finds the files of the public data sets, as archives or extracted, and reads them by name."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdml._text import few
from jaxdml.prepare.archives import Files, Folder, Tar, Zip
from jaxdml.prepare.source import PrepareError

IMAGES = (".jpg", ".jpeg", ".png")
_TAR_ENDINGS = (".tgz", ".tar.gz", ".tar")


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
    if inside in names and (parts[-1] in keep or inside.lower().endswith(IMAGES)):
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
