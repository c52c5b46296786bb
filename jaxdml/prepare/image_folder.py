"""People's own photos as a data set: folders named by class, or a manifest with path and label."""

import collections
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxdml.data import picture_files
from jaxdml.prepare import photos
from jaxdml.prepare.photos import ImageFolderError, Photo
from jaxdml.prepare.source import (
  MAX_FILE_BYTES,
  Item,
  Source,
  column_features,
  listed,
  said,
  summary,
)

SEEN = "Test classes that are training classes too"  # begins a note, as reports look for
_VERSION = "1.0.0"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_COLUMNS = ("label", "coarse", "fine")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageFolder(Source):
  """A folder of photos, `root`, as a source; its description is what was found, a line each."""

  root: Path

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the bytes of the files `items[start:]`; at most one more than `decode.MAX_BYTES`."""
    for item in self.items[start:]:
      path = self.root / item.path
      try:
        encoded = picture_files.read(path)
      except OSError as error:
        raise photos.unreadable(path, error) from error
      yield encoded


def source(
  root: str | os.PathLike[str],
  name: str,
  *,
  manifest: str | os.PathLike[str] | None = None,
  test_share: float = 0.5,
  seed: int = 0,
  drop_copies: bool = False,
  max_file_bytes: int = MAX_FILE_BYTES,
) -> ImageFolder:
  """Finds the photos below a folder, with their classes and splits; docs/data.md has the layouts.

  Without splits of its own the collection is divided by class, see `divide`. What was found, and
  what the user should know about it, is printed on stderr.

  Args:
    name: letters, digits, "-" and "_"; the data set is then `image_folder/NAME`.
    manifest: as `manifest.read` takes it; None: folders are the classes.
    test_share: share of the classes that test, between 0 and 1, chosen by `seed`.
    drop_copies: leave out photos that are there already, byte by byte, and all copies of one that
      has several labels. They are counted and named in any case.
    max_file_bytes: the most that a manifest may have.
  """
  if not _NAME.fullmatch(name):
    rule = "must be letters, digits, '-' and '_', and start with a letter"
    raise ImageFolderError(f"name {rule}, got {name!r}")
  if not 0 < test_share < 1:
    raise ImageFolderError(
      f"test_share must be between 0 and 1 (both excluded), got {test_share}; to train on all "
      "classes, give every image the split 'train' and train with --config.eval.test=False"
    )
  folder = photos.Folder(root)
  notes: list[str] = []
  if manifest is None:
    try:
      found = photos.from_folders(folder, notes)
    except picture_files.FolderError as error:
      raise ImageFolderError(str(error)) from error
  else:
    found = photos.from_manifest(folder, manifest, notes, max_file_bytes)
  groups = photos.copies(folder.path, found, f"image_folder/{name}")
  if drop_copies:
    found = photos.without_copies(found, groups)
    if not found:
      why = "each has a copy with another label"
      raise ImageFolderError(f"drop_copies leaves no photo of {folder.path}: {why}")
  if found[0].split is None:
    test = divide({photo.labels["label"] for photo in found}, test_share, seed)
    side = lambda photo: "test" if photo.labels["label"] in test else "train"
    found = [photo._replace(split=side(photo)) for photo in found]
    how = f"by class: {test_share:g} of the classes test, chosen by the seed {seed}"
  else:
    how = "as the manifest has it" if manifest else "as the folders have it"
  notes += _split_notes(found)
  counts = collections.Counter(photo.labels["label"] for photo in found)
  if single := sorted(name for name, count in counts.items() if count == 1):
    notes.append(
      f"Classes with one image, which is kept but cannot give a positive pair: {len(single)} "
      f"({listed(single)})."
    )
  splits = {photo.path: photo.split for photo in found}
  placed = [[p._replace(split=splits.get(p.path)) for p in group] for group in groups]
  notes += photos.copy_notes(placed, drop_copies)
  columns = [column for column in _COLUMNS if column in found[0].labels]
  names = {column: sorted({photo.labels[column] for photo in found}) for column in columns}
  in_order = sorted(found, key=lambda photo: picture_files.SPLITS.index(photo.split))
  found_here = summary("photos", [(photo.split, photo.labels["label"]) for photo in in_order])
  notes.insert(0, f"{found_here}; divided {how}.")
  for note in notes:
    print(said(f"image_folder/{name}: {note}"), file=sys.stderr)
  number = {column: {name: i for i, name in enumerate(names[column])} for column in names}
  # It changes with the classes, the splits, and the name, size or time of change of any file.
  digest = hashlib.sha256(json.dumps([_VERSION, names]).encode())
  for photo in found:
    digest.update(json.dumps(photo, sort_keys=True).encode())
  return ImageFolder(
    root=folder.path,
    name=f"image_folder/{name}",
    version=_VERSION,
    description="\n".join(notes),
    features=column_features(names),
    items=[Item(p.split, p.path, {c: number[c][x] for c, x in p.labels.items()}) for p in found],
    fingerprint=digest.hexdigest(),
  )


def divide(classes: Iterable[str], test_share: float, seed: int) -> set[str]:
  """Chooses the classes that test: the `test_share` of them whose hash with the seed is smallest.

  So the choice depends on the names alone, and a class that comes or goes moves at most one or two
  others to the other side. There is at least one class on each side.

  >>> sorted(divide(["ant", "bee", "cat", "dog"], 0.5, seed=0))
  ['ant', 'dog']
  """
  place = lambda name: (hashlib.sha256(f"{seed} {name}".encode()).digest(), name)
  order = sorted(set(classes), key=place)
  if len(order) < 2:
    raise ImageFolderError(
      f"there is one class, {order}, and a division in training and test classes needs at least "
      "2; if its sub-folders are the classes, give that folder as the source"
    )
  return set(order[: min(max(round(test_share * len(order)), 1), len(order) - 1)])


def _split_notes(found: Iterable[Photo]) -> Iterator[str]:
  """Yields what makes the splits unusual; raises where they contradict each other."""
  classes: dict[str, set[str]] = collections.defaultdict(set)
  for photo in found:
    classes[photo.split].add(photo.labels["label"])
  if ("query" in classes) != ("gallery" in classes) or {"query", "test"} <= classes.keys():
    rule = "query and gallery come together, in place of test"
    raise ImageFolderError(f"the splits are {', '.join(sorted(classes))}; {rule}")
  test = set().union(*(classes[s] for s in ("test", "query", "gallery") if s in classes))
  train = classes.get("train", set())
  if not train:
    yield "There is no split 'train': nothing to train on."
  if not test:
    yield "There is no split 'test': nothing to evaluate on."
  if shared := train & test:
    yield (
      f"{SEEN}: {len(shared)} of {len(test)} "
      f"({listed(sorted(shared))}), so the test is NOT on unseen classes."
    )
  if lonely := classes.get("query", set()) - classes.get("gallery", set()):
    yield (
      f"Classes with query images and none in the gallery, for which nothing right can be found: "
      f"{len(lonely)} ({listed(sorted(lonely))})."
    )
