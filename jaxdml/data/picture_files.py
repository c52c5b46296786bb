"""Pictures outside data sets: the files below a folder, and the bytes of any one picture."""

import errno
import io
import os
import posixpath
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxdml.data.decode import MAX_BYTES, ImageDecodeError, orientation
from jaxdml.errors import JaxdmlError

SUFFIXES = (
  *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg"),
  *(".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Files whose names end so, in any case, count as pictures."""

SPLITS = ("train", "test", "query", "gallery")  # Such folders hold class folders, no pictures.
# What macOS, Windows and network disks add to people's folders.
_PASSED_OVER = {"$recycle.bin", "@eadir", "__macosx", "desktop.ini", "thumbs.db"}

# Kinds of file that hold an image of a mode as it is.
_KINDS = dict.fromkeys(("1", "I;16", "L", "LA", "P", "RGB", "RGBA"), "PNG") | {"CMYK": "TIFF"}
_WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
# By EXIF's numbers: mirrored, upside down, both, then the same with the sides exchanged.
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))


class FolderError(JaxdmlError, ValueError):
  """A folder of pictures that cannot be used as it is; the message names the file or folder."""


def is_picture(name: str) -> bool:
  """Tells whether a file counts as a picture by its name."""
  return name.lower().endswith(SUFFIXES)


def level(
  root: str | os.PathLike[str], below: str = "", *, links: bool = False
) -> tuple[list[str], list[str]]:
  """Returns the folders and the files directly in the folder `below` of `root`, each sorted.

  Their paths are below `root`, with "/". Hidden ones are passed over, and what macOS, Windows and
  network disks add. A link counts as what it leads to, and as a file if that is gone: whoever reads
  it will say so. Without `links` the folder may be no link: that may lead outside or in a circle.

  FolderError if it cannot be read or is a link, or a name in it is not UTF-8.
  """
  where = os.path.join(root, below) if below else os.fspath(root)
  if below and not links and os.path.islink(where):
    instead = "put the folder itself there, or list its images in a manifest"
    raise FolderError(f"{where} is a link to a folder; {instead}")
  passed = lambda name: name.startswith(".") or name.casefold() in _PASSED_OVER
  try:
    with os.scandir(where) as found:
      entries = sorted((e for e in found if not passed(e.name)), key=lambda e: e.name)
  except OSError as error:
    raise FolderError(f"{where} cannot be read: {error.strerror}") from error
  folders, files = [], []
  for entry in entries:
    try:
      entry.name.encode()
    except UnicodeEncodeError as error:
      what = f"the name {os.fsencode(entry.name)!r} in it is not UTF-8"
      raise FolderError(f"{where}: {what}: rename it, or if it is, set PYTHONUTF8=1") from error
    (folders if entry.is_dir() else files).append(posixpath.join(below, entry.name))
  return folders, files


def walk(root: str | os.PathLike[str], below: str = "", *, links: bool = False) -> Iterator[str]:
  """Yields the files below a folder, at any depth, folder by folder as `level` has them.

  With `links`, folders that are links are entered, and none twice; else such a link is an error.
  """
  waiting = [below]
  entered = {os.path.realpath(os.path.join(root, below))}
  while waiting:
    here = waiting.pop()
    folders, files = level(root, here, links=links)
    yield from files
    new = []
    for folder in folders:
      real = os.path.realpath(os.path.join(root, folder)) if links else folder
      if real not in entered:
        entered.add(real)
        new.append(folder)
    waiting += reversed(new)


def read(path: str | os.PathLike[str]) -> bytes:
  """Returns the bytes of a file, of one that is too large to be decoded only the first of them.

  OSError if it cannot be read, or is no regular file.
  """
  if not os.path.isfile(path) and os.path.exists(path):
    raise OSError(errno.EINVAL, "it is not a file", path)  # Reading a pipe would wait for ever.
  with open(path, "rb") as file:
    return file.read(MAX_BYTES + 1)


def encoded(picture: Any, name: str = "image") -> bytes:
  """Returns the bytes of an image file with this picture: so all take one way to the network.

  `picture` is a path; the bytes of a file; a PIL image, of which EXIF's orientation is minded; or
  uint8 [h, w] or [h, w, 1], grey, [h, w, 3], RGB, or [h, w, 4], RGB and alpha. `name` is the
  argument's, for messages.

  TypeError for none of these, ValueError for an array of another shape or without pixels,
  ImageDecodeError for a PIL image whose file is damaged, OSError for a path that cannot be read.

  >>> encoded(np.zeros((2, 3, 3), np.uint8))[:4]
  b'\\x89PNG'
  """
  if isinstance(picture, str | os.PathLike):
    return read(os.path.expanduser(picture))
  if isinstance(picture, bytes | bytearray | memoryview):
    return bytes(picture)
  if not isinstance(picture, Image.Image):
    picture = Image.fromarray(_pixels(picture, name))
  if picture.mode in ("F", "I"):
    what = f"a PIL image of mode {picture.mode}, 32-bit pixels, whose range nobody knows"
    raise ImageDecodeError(f"{name}: {what}; convert it to L, RGB or I;16")
  try:
    picture.load()
    turn = _TURNS.get(orientation(picture))
    upright = picture.copy() if turn is None else picture.transpose(turn)
    if upright.mode.startswith("I;16"):
      upright = Image.fromarray(np.asarray(upright).astype(np.uint16))
    elif upright.mode not in _KINDS:
      upright = upright.convert(_WITH_ALPHA.get(upright.mode, "RGB"))
    # Of the rest nothing changes the picture, and it may say again that it is to be turned.
    upright.info = {k: v for k, v in picture.info.items() if k == "transparency"}
    file = io.BytesIO()
    upright.save(file, _KINDS[upright.mode], compress_level=0)
  except (OSError, SyntaxError, ValueError) as error:  # What Pillow says of damaged files.
    raise ImageDecodeError(f"{name}: {error}") from error
  return file.getvalue()


def _pixels(picture: Any, name: str) -> np.ndarray:
  pixels = np.asarray(picture) if hasattr(picture, "__array__") else None
  if pixels is None or pixels.dtype != np.uint8:
    kind = type(picture).__name__ if pixels is None else f"an array of {pixels.dtype}"
    raise TypeError(
      f"{name}: expected a path, the bytes of an image file, a PIL image or an array of uint8, "
      f"0 to 255, [h, w, 3]; got {kind}"
    )
  if pixels.ndim == 3 and pixels.shape[2] == 1:
    pixels = pixels[:, :, 0]
  if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
    shapes = "[h, w], [h, w, 1], [h, w, 3] or [h, w, 4]"
    raise ValueError(f"{name}: expected one picture {shapes}; got shape {np.shape(picture)}")
  return np.ascontiguousarray(pixels)


def clean_name(name: str) -> str:
  r"""Returns a class name as it is stored: in Unicode's form NFC, without spaces around it.

  Names that look the same are so one class, whichever system wrote them.

  >>> clean_name(" e\u0301t\u00e9 ") == "\u00e9t\u00e9"
  True
  """
  return unicodedata.normalize("NFC", name).strip()
