"""Photos that are there more than once, byte by byte: what that means, and which ones to keep."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from jaxdml.prepare import photos
from jaxdml.prepare.photos import Photo

__all__ = ["find", "notes", "without"]

_TAIL = 4096  # Bytes at the end, which differ where pictures do: few files are read in full.


def find(root: Path, found: Sequence[Photo], name: str) -> list[list[Photo]]:
  """Returns the groups of two or more photos whose files are equal, in the order of `found`.

  Only files of one size are compared: by their ends, and where those are equal in full. Empty ones
  are no pictures, so no copies.

  Args:
    root: the folder that paths are relative to.
    found: the photos.
    name: of the data set, for the bar.

  Raises:
    ImageFolderError: a file cannot be read.
  """
  groups = _split([[photo for photo in found if photo.size]], lambda photo: photo.size)
  for what, digest in (("comparing sizes and ends", _tail), ("comparing files", _whole)):
    with tqdm(total=sum(map(len, groups)), desc=f"{name}: {what}", unit=" photos", delay=2) as bar:

      def key(photo: Photo, digest=digest, bar=bar) -> bytes:
        bar.update()
        try:
          return digest(root / photo.path)
        except OSError as error:
          raise photos.unreadable(root / photo.path, error) from error

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


def _whole(path: Path) -> bytes:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").digest()


def _contradict(group: Sequence[Photo]) -> bool:
  return any(photo.labels != group[0].labels for photo in group)


def without(found: Iterable[Photo], groups: Sequence[Sequence[Photo]]) -> list[Photo]:
  """Leaves out all but the first of equal photos, and all of them where their labels differ."""
  dropped = {p.path for group in groups for p in group[0 if _contradict(group) else 1 :]}
  return [photo for photo in found if photo.path not in dropped]


def notes(groups: Sequence[Sequence[Photo]], dropped: bool) -> Iterator[str]:
  """Yields what the user should know about groups of equal photos, splits given."""
  wrong = [group for group in groups if _contradict(group)]
  agreeing = [group for group in groups if not _contradict(group)]
  more = sum(len(group) - 1 for group in agreeing)
  if dropped:
    if groups:
      count = more + sum(map(len, wrong))
      yield (
        f"Copies, byte by byte, left out: {count}; of each the first is kept, and none of the "
        f"{sum(map(len, wrong))} whose labels differ ({_pairs(groups)})."
      )
    return
  hint = "--drop_copies leaves them out"
  if more:
    yield (
      f"Copies of another photo of their class, byte by byte: {more} ({_pairs(agreeing)}). They "
      f"teach nothing and are found too easily; {hint}."
    )
  if wrong:
    yield (
      f"Photos that are there under several labels, byte by byte: {len(wrong)} "
      f"({_pairs(wrong)}). At most one of the labels is right; {hint}."
    )
  test = [g for g in groups if len({photo.split == "train" for photo in g}) > 1]
  if test:
    yield f"Photos of which training and test have a copy each: {len(test)} ({_pairs(test)})."


def _pairs(groups: Sequence[Sequence[Photo]]) -> str:
  return photos.listed([f"{group[0].path} = {group[1].path}" for group in groups])
