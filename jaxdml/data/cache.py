"""Decoded pictures kept in files, so that what was decoded once is not decoded again.

A picture is named by what its file's bytes hash to, so the files serve every data set, split, run
and worker that meets the same bytes, and nothing in them can be out of date. Large ones are
mapped into memory: the operating system keeps those it has room for, once for all processes.
"""

import dataclasses
import hashlib
import math
import mmap
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from jaxdml import _files
from jaxdml.data import decode as decode_lib
from jaxdml.data.decode import Header, decode

_MAGIC = b"jaxdml2\n"  # Raised where the same file gives other pixels than before.
_HEAD = struct.Struct("<8sIII")  # magic, height, width, channels; then the pixels
_FREE = 0.05  # This share of the disk stays free.
# Smaller files are read: a process may have 65,530 maps, and keep as many small pictures.
_MAPPED = 2**16
# What decodes: another version may give other pixels.
_VERSIONS = f"opencv-{cv2.__version__}-pillow-{PIL.__version__}"

_told: set[str] = set()  # The directories that this process said cannot be written to.


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Decodes as `decode.decode` does, from files that it keeps if it is given a directory.

  The pixels are the same bit by bit, with a directory or without. Any number of processes may share
  one, made if need be. A disk full but for 5 % gets no more pictures, which is said once.
  """

  directory: str = ""

  def __call__(
    self,
    encoded: bytes,
    channels: int,
    *,
    min_size: tuple[float, float] | None = None,
    header: Header | None = None,
  ) -> np.ndarray:
    """Does what `decode.decode` does; the array cannot be written to if it comes from a file."""
    if not self.directory:
      return decode(encoded, channels, min_size=min_size, header=header)
    header = header or decode_lib.probe(encoded)
    path = self._path(encoded, channels, decode_lib.reduction_for(header, min_size))
    image = _read(path)
    if image is None:
      image = decode(encoded, channels, min_size=min_size, header=header)
      self._keep(path, image)
    return image

  def check(self) -> None:
    """Raises ValueError, which names the config key, unless the directory can be written to."""
    if not self.directory:
      return
    try:
      folder = Path(self.directory).expanduser()
      folder.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder):
        pass
    except OSError as error:
      wanted = "expected a directory that can be written to, or '' to keep nothing"
      got = f"{self.directory!r} ({error.strerror})"
      raise ValueError(f"data.cache: {wanted}; got {got}") from error

  def _path(self, encoded: bytes, channels: int, reduction: int) -> str:
    name = hashlib.sha256(encoded).hexdigest()
    versions = _VERSIONS
    if decode_lib.is_heif(encoded):
      versions += f"-heif-{decode_lib.heif_version()}"
    folder = os.path.join(os.path.expanduser(self.directory), versions, name[:2])
    return os.path.join(folder, f"{name[2:34]}-{channels}-{reduction}")

  def _keep(self, path: str, image: np.ndarray) -> None:
    """Writes a file, whole or not at all; a problem is said once and ends nothing."""
    if self.directory in _told:
      return
    folder = os.path.dirname(path)
    try:
      os.makedirs(folder, exist_ok=True)
      usage = shutil.disk_usage(folder)
      if usage.free - image.nbytes < _FREE * usage.total:
        raise OSError(f"its disk is full but for {_FREE:.0%}")
      # Nobody waits for the disk: what a power failure leaves of a file, `_read` refuses.
      with _files.replacing(path, sync=False) as temporary, temporary.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, *image.shape))
        file.write(np.ascontiguousarray(image))
    except OSError as error:
      _told.add(self.directory)
      tqdm.write(
        f"data.cache={self.directory}: no more pictures are kept ({error}); they are decoded anew",
        file=sys.stderr,
      )


def _read(path: str) -> np.ndarray | None:
  """The picture in a file, None if it cannot be read or is not whole."""
  try:
    with open(path, "rb", buffering=0) as file:
      large = os.fstat(file.fileno()).st_size >= _MAPPED
      held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if large else file.read()
  except OSError:  # Most often there is none yet; another user's may be unreadable, or the disk.
    return None
  if len(held) <= _HEAD.size:
    return None
  magic, *shape = _HEAD.unpack_from(held)
  if magic != _MAGIC or len(held) != _HEAD.size + math.prod(shape):
    return None
  return np.frombuffer(held, np.uint8, offset=_HEAD.size).reshape(shape)
