"""Reads tar and zip archives and extracted folders in one way, and never writes what is in them.

Nothing is extracted: members are listed, checked, and their bytes handed on. An archive with a
member that would leave its folder, or that is a link or a device, is refused as a whole.
"""

import collections
import contextlib
import gzip
import hashlib
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from tqdm import tqdm

from jaxdml.prepare.source import MAX_FILE_BYTES, PrepareError

_BUFFER = 2**20
_MAX_HEADER = 2**20  # bytes of what a tar archive says of a member beside its first block
_DAMAGED = (
  *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, struct.error),
  *(ValueError, IndexError, OverflowError, MemoryError),  # of numbers that cannot be
)
_DESCRIBING = b"xgLKX"  # Types of blocks that say more of a member: pax headers, long names.
_WINDOWS = re.compile(r"[\\\0]|^[A-Za-z]:")
_ONLY = "only files and folders are read, so it is refused"
_JUNK = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}


class Files:
  """The regular files of an archive or folder."""

  path: Path  # the archive or folder itself, for messages
  members: Mapping[str, int]  # name, with "/", -> size in bytes
  sequential = False  # Read from the start on: `names` of `read` are in the order of `members`.
  fingerprint: str  # changes when the content does

  def text(self, name: str) -> bytes:
    """Returns a small file; of a sequential archive, one of those it was told to keep."""
    return next(self.read([name]))

  def read(self, names: Sequence[str]) -> Iterator[bytes]:
    """Yields the files `names`, in that order."""
    raise NotImplementedError


def check_name(name: str, where: str) -> str:
  """Returns a member's name without "./"; PrepareError if it leads out of its folder."""
  parts = _parts(name)
  if name[:1] == "/" or ".." in parts or _WINDOWS.search(name):
    what = f"{name!r}, which leads out of its folder: it is refused, and nothing of it was written"
    raise _refused(where, what)
  return "/".join(parts)


def _parts(name: str) -> list[str]:
  """Splits a name without its "." and empty parts; `pathlib` takes ten times as long."""
  return [part for part in name.split("/") if part not in ("", ".")]


def _check_size(where: Path, name: str, size: int, most: int) -> None:
  if size > most:
    rule = f"more than the {most:,} allowed; --max_file_bytes allows more"
    raise PrepareError(f"{where} holds {name!r} of {size:,} bytes: {rule}")


def _collect(where: Path, entries: Iterable[tuple[str, int]], most: int) -> dict[str, int]:
  """Checks (name, size) of regular files and returns them without what macOS and Windows add."""
  members: dict[str, int] = {}
  for raw, size in entries:
    name = check_name(raw, str(where))
    parts = name.split("/")
    if parts[-1].startswith("._") or not _JUNK.isdisjoint(parts):
      continue
    if name in members:
      raise PrepareError(f"{where} holds {name!r} twice, so which one counts is not known")
    _check_size(where, name, size, most)
    members[name] = size
  return members


def _refused(where: Path | str, what: str) -> PrepareError:
  return PrepareError(f"{where} holds {what}. It is not the official file; get it again")


def _digest(*parts: str | Mapping[str, int]) -> str:
  digest = hashlib.sha256()
  for part in parts:
    text = part if isinstance(part, str) else "\n".join(f"{n}\t{s}" for n, s in part.items())
    digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
  return digest.hexdigest()


@contextlib.contextmanager
def _explain(path: Path) -> Iterator[None]:
  """Turns what the archive modules raise about damaged files into one message."""
  try:
    yield
  except PrepareError:
    raise
  except _DAMAGED as error:
    what = f"{error or type(error).__name__}; {path.stat().st_size:,} bytes"
    raise PrepareError(f"{path} is damaged or truncated ({what}): get it again") from error
  except (NotImplementedError, RuntimeError) as error:  # zipfile: encryption, unknown methods.
    raise PrepareError(f"{path} cannot be read: {error}") from error


class Folder(Files):
  """An extracted folder."""

  def __init__(self, path: Path, most: int = MAX_FILE_BYTES):
    self.path = path
    found, state = [], []
    for directory, folders, files in os.walk(path):
      folders.sort()
      for file in (Path(directory, name) for name in sorted(files)):
        if file.is_file():  # No pipe, and no link that leads nowhere.
          info = file.stat()
          found.append((file.relative_to(path).as_posix(), info.st_size))
          state.append(str(info.st_mtime_ns))
    self.members = _collect(path, found, most)
    self.fingerprint = _digest(self.members, "\n".join(state))

  def read(self, names: Sequence[str]) -> Iterator[bytes]:
    """Yields the files `names`, in that order."""
    for name in names:
      yield (self.path / name).read_bytes()


class Zip(Files):
  """A zip archive, read at random; the checksum of each member is checked as it is read."""

  def __init__(self, path: Path, most: int = MAX_FILE_BYTES):
    self.path = path
    _check_kind(path, "zip")
    with _explain(path):
      self._archive = zipfile.ZipFile(path)  # Stays open: listing 100,000 members takes a second.
    infos = [info for info in self._archive.infolist() if not info.is_dir()]
    for info in infos:
      mode = info.external_attr >> 16
      if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _refused(path, f"{info.filename!r}, a link or device: {_ONLY}")
      if info.flag_bits & 1:
        raise PrepareError(f"{path} is encrypted ({info.filename!r}): it is not the official file")
    self.members = _collect(path, ((i.orig_filename, i.file_size) for i in infos), most)
    self.fingerprint = _digest(self.members, "\n".join(str(info.CRC) for info in infos))
    self._infos = {"/".join(_parts(info.orig_filename)): info for info in infos}

  def read(self, names: Sequence[str]) -> Iterator[bytes]:
    """Yields the files `names`, in that order."""
    with _explain(self.path):
      for name in names:
        yield self._archive.read(self._infos[name])


class _Header(tarfile.TarInfo):
  """A block that describes a member, or holds more of its description, which is read in one go."""

  @classmethod
  def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
    """Reads a block; an error if too much is to follow."""
    header = super().frombuf(buf, encoding, errors)
    if header.type in _DESCRIBING and header.size > _MAX_HEADER:
      raise tarfile.ReadError(f"a description of {header.size:,} bytes")
    return header


class Tar(Files):
  """A tar archive, gzipped or not: one pass lists and checks it, each `read` is one pass more."""

  sequential = True

  def __init__(self, path: Path, most: int = MAX_FILE_BYTES, *, keep: Collection[str] = ()):
    """Lists the archive to its end, so that a truncated one is found before anything is written.

    `text` returns the small files whose names end with one of `keep`.
    """
    self.path, self._most = path, most
    self._gzipped = _check_kind(path, "tar") == "gzip"
    self._kept: dict[str, bytes] = {}
    found = []
    options = {"unit": "B", "unit_scale": True, "mininterval": 0.5}
    with (
      _explain(path),
      path.open("rb") as raw,
      tqdm(total=path.stat().st_size, desc=f"{path.name}: checking", **options) as bar,
    ):
      stream = self._unzip(raw)
      for member, file in self._walk(stream):
        found.append((member.name, member.size))
        if member.name.rpartition("/")[2] in keep:
          self._kept[check_name(member.name, str(path))] = file.read()
        bar.update(raw.tell() - bar.n)
      rest = 0
      while read := stream.read(_BUFFER):  # To the end: gzip's checksum is the last in the file.
        rest += len(read)
        _check_size(path, "a rest behind its end", rest, most)
      bar.update(raw.tell() - bar.n)
      size = raw.seek(0, os.SEEK_END)
      raw.seek(max(size - 8, 0))
      trailer = raw.read().hex()  # gzip's checksum and length of the whole content.
    self.members = _collect(path, found, most)
    self.fingerprint = _digest(self.members, trailer)

  def _unzip(self, raw: IO[bytes]) -> IO[bytes]:
    if not self._gzipped:
      return raw
    return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER)  # type: ignore[arg-type]

  def _walk(self, stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
      for member in archive:
        _check_size(self.path, member.name, member.size, self._most)  # Before it is passed over.
        if member.isreg():
          file = archive.extractfile(member)
          assert file is not None  # Regular files have one.
          yield member, file
        elif not member.isdir():
          kind = "link" if member.issym() or member.islnk() else "device or other special file"
          raise _refused(self.path, f"{member.name!r}, a {kind}: {_ONLY}")

  def text(self, name: str) -> bytes:
    """Returns one of the files that were kept."""
    return self._kept[name]

  def read(self, names: Sequence[str]) -> Iterator[bytes]:
    """Yields the files `names`, which must be in the order of the archive."""
    if not names:
      return
    wanted = collections.deque(names)
    with _explain(self.path), self.path.open("rb") as raw:
      for member, file in self._walk(self._unzip(raw)):
        if "/".join(_parts(member.name)) == wanted[0]:
          wanted.popleft()
          yield file.read()
          if not wanted:
            return
    raise PrepareError(f"{self.path} changed while it was read: {wanted[0]!r} is gone")


def _check_kind(path: Path, wanted: str) -> str:
  """Returns "zip", "tar" or "gzip", from the first bytes; PrepareError if its name says another."""
  with path.open("rb") as file:
    head = file.read(512)
  zipped = head[:4] in (b"PK\3\4", b"PK\5\6")
  kind = "zip" if zipped else "gzip" if head[:2] == b"\x1f\x8b" else "tar"
  if kind == "tar" and head[257:262] != b"ustar":
    shown = f"it begins with {head[:24]!r}" if head else "it is empty"
    raise PrepareError(f"{path} is no {wanted} archive ({shown}): get it again")
  if kind != wanted and (kind, wanted) != ("gzip", "tar"):
    raise PrepareError(f"{path} is a {kind} archive, not {wanted}: is it the right file?")
  return kind
