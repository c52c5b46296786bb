import gzip
import io
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from jaxdml.prepare import archives
from jaxdml.prepare.archives import Folder, Tar, Zip
from jaxdml.prepare.source import PrepareError
from tests.data.official import pack, unpack

FILES = {
  "car_ims/b.jpg": b"b" * 5000,
  "./car_ims/ä.jpg": b"a" * 70_000,
  "lists/names.txt": b"names",
}
NAMES = ["car_ims/b.jpg", "car_ims/ä.jpg", "lists/names.txt"]
JUNK = {"__MACOSX/car_ims/._b.jpg": b"x", "car_ims/._b.jpg": b"x", "car_ims/.DS_Store": b"x"}


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.tar", "a.zip", "folder"])
def test_all_kinds_give_the_same_files(tmp_path, name):
  if name == "folder":
    unpack(tmp_path / name, FILES | JUNK)
    files = Folder(tmp_path / name)
  else:
    pack(tmp_path / name, FILES | JUNK)
    kind = Zip if name == "a.zip" else Tar
    files = kind(tmp_path / name, **({} if kind is Zip else {"keep": ["names.txt"]}))
  assert set(files.members) == set(NAMES)
  assert files.members["car_ims/ä.jpg"] == 70_000
  chosen = ["car_ims/b.jpg", "lists/names.txt"]
  assert list(files.read(chosen)) == [b"b" * 5000, b"names"]
  assert list(files.read([])) == []
  if files.sequential:
    assert list(files.members) == NAMES
  else:
    assert list(files.read(chosen[::-1])) == [b"names", b"b" * 5000]
  assert files.text("lists/names.txt") == b"names"


@pytest.mark.parametrize("name", ["a.tgz", "a.zip", "folder"])
def test_the_fingerprint_follows_the_content(tmp_path, name):
  def fingerprint(content, sub):
    path = tmp_path / sub / name
    if name == "folder":
      unpack(path, content)
      return Folder(path).fingerprint
    pack(path, content)
    return (Zip if name == "a.zip" else Tar)(path).fingerprint

  first = fingerprint(FILES, "1")
  changed = fingerprint({**FILES, "car_ims/b.jpg": b"c" * 5000}, "2")
  assert changed != first
  assert fingerprint({**FILES, "car_ims/c.jpg": b""}, "3") not in (first, changed)
  if name != "folder":  # A copied folder has other times, which may mean other content.
    assert fingerprint(FILES, "4") == first


def tar_of(path, *members):
  with tarfile.open(path, "w:gz") as archive:
    for member in members:
      archive.addfile(member, io.BytesIO(b"x" * member.size))
  return path


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
  info = tarfile.TarInfo(name)
  info.type, info.size, info.linkname = kind, size, link
  return info


@pytest.mark.parametrize(
  "name", ["/etc/evil.jpg", "../evil.jpg", "a/../../evil.jpg", "C:\\evil.jpg"]
)
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_names_that_leave_the_folder_are_refused(tmp_path, monkeypatch, name, kind):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / f"cars.{kind}"
  if kind == "tgz":
    tar_of(path, member("car_ims/a.jpg", size=3), member(name, size=3))
  else:
    pack(path, {"car_ims/a.jpg": b"x", name: b"x"})
  with pytest.raises(PrepareError, match="leads out of its folder: it is refused") as error:
    (Tar if kind == "tgz" else Zip)(path)
  assert str(path) in str(error.value) and "evil.jpg" in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
  "kind, shown",
  [
    (tarfile.SYMTYPE, "a link"),
    (tarfile.LNKTYPE, "a link"),
    (tarfile.CHRTYPE, "a device"),
    (tarfile.FIFOTYPE, "a device or other special file"),
  ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, shown):
  path = tar_of(tmp_path / "cars.tgz", member("a.jpg", size=3), member("b.jpg", kind, link="a.jpg"))
  with pytest.raises(PrepareError, match=f"'b.jpg', {shown}"):
    Tar(path)


def test_links_and_encryption_in_a_zip_are_refused(tmp_path):
  link = zipfile.ZipInfo("b.jpg")
  link.external_attr = (stat.S_IFLNK | 0o777) << 16
  with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
    archive.writestr(link, "/etc/passwd")
  with pytest.raises(PrepareError, match=r"'b\.jpg', a link"):
    Zip(tmp_path / "link.zip")
  pack(tmp_path / "secret.zip", {"b.jpg": b"x"})
  content = bytearray((tmp_path / "secret.zip").read_bytes())
  content[content.index(b"PK\1\2") + 8] |= 1
  (tmp_path / "secret.zip").write_bytes(content)
  with pytest.raises(PrepareError, match="is encrypted"):
    Zip(tmp_path / "secret.zip")


def test_duplicate_members_are_refused(tmp_path):
  path = tar_of(tmp_path / "a.tgz", member("x/a.jpg", size=3), member("./x/a.jpg", size=4))
  with pytest.raises(PrepareError, match=r"holds 'x/a\.jpg' twice"):
    Tar(path)
  with (
    pytest.warns(UserWarning, match="Duplicate name"),
    zipfile.ZipFile(tmp_path / "a.zip", "w") as archive,
  ):
    archive.writestr("a.jpg", b"1")
    archive.writestr("a.jpg", b"2")
  with pytest.raises(PrepareError, match=r"holds 'a\.jpg' twice"):
    Zip(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tgz", "folder"])
def test_a_larger_file_is_refused_unless_it_is_allowed(tmp_path, kind):
  path, opened = tmp_path / f"a.{kind}", {"zip": Zip, "tgz": Tar, "folder": Folder}[kind]
  (unpack if kind == "folder" else pack)(path, {"a.jpg": b"0" * 101})
  with pytest.raises(
    PrepareError, match=r"'a\.jpg' of 101 bytes: more than the 100 allowed.*max_f"
  ):
    opened(path, 100)
  assert list(opened(path, 101).read(["a.jpg"])) == [b"0" * 101]


def block(name, kind, size):
  """The block of a member, with nothing behind it."""
  info = tarfile.TarInfo(name)
  info.type, info.size = kind, size
  return info.tobuf(tarfile.GNU_FORMAT)


TERA = 2**40
SPARSE = tarfile.TarInfo("a.jpg")
SPARSE.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
SPARSE.size = 512


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (block("a.jpg", tarfile.REGTYPE, TERA), "of 1,099,511,627,776 bytes: more than the"),
    (block("a", tarfile.DIRTYPE, TERA), "of 1,099,511,627,776 bytes: more than the"),
    (block("a", b"Q", TERA), "of 1,099,511,627,776 bytes: more than the"),
    (block("a", tarfile.XHDTYPE, 3 * 2**30) + bytes(2**20), "a description of 3,221,225,472"),
    (block("a", tarfile.XGLTYPE, 3 * 2**30) + bytes(2**20), "a description of 3,221,225,472"),
    (block("a", tarfile.GNUTYPE_LONGNAME, 2**31) + bytes(2**20), "a description of 2,147"),
    (SPARSE.tobuf(tarfile.PAX_FORMAT) + b"9999999\n1\n".ljust(512, b"\0"), "damaged or truncated"),
    (SPARSE.tobuf(tarfile.PAX_FORMAT) + b"nine".ljust(512, b"\0"), "damaged or truncated"),
    (block("a", tarfile.REGTYPE, 0) + bytes(2**21), "'a rest behind its end' of"),
  ],
)
def test_what_an_archive_claims_is_checked_before_it_is_read(tmp_path, content, message):
  (tmp_path / "a.tgz").write_bytes(gzip.compress(content))
  with pytest.raises(PrepareError, match=message):
    Tar(tmp_path / "a.tgz", 2**20)


def test_links_that_lead_nowhere_and_pipes_are_no_files(tmp_path):
  unpack(tmp_path, {"a.jpg": b"1"})
  (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
  os.mkfifo(tmp_path / "pipe.jpg")
  assert list(Folder(tmp_path).members) == ["a.jpg"]


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.95, 0.9999])
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_truncated_archives_are_found_before_anything_is_read(tmp_path, kind, share):
  path = tmp_path / f"a.{kind}"
  pack(path, {f"{i}.jpg": bytes([i]) * 3000 for i in range(20)})
  content = path.read_bytes()
  path.write_bytes(content[: max(int(share * len(content)), 4)])
  with pytest.raises(PrepareError, match=r"damaged or truncated.*get it again") as error:
    (Tar if kind == "tgz" else Zip)(path)
  assert str(path) in str(error.value)


def test_an_archive_is_checked_to_its_last_byte(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, "_BUFFER", 2**16)
  path = tmp_path / "a.tgz"
  # Header, file and end fill five buffers: what follows, gzip's checksum, is not read with them.
  pack(path, {"a.jpg": np.random.default_rng(0).bytes(5 * 2**16 - 512 - 1024)})
  Tar(path)
  content = path.read_bytes()
  for damaged in (content[:-4], content[:-8] + b"\0\0\0\0" + content[-4:]):
    path.write_bytes(damaged)
    with pytest.raises(PrepareError, match="damaged or truncated"):
      Tar(path)


def test_flipped_bits_are_found(tmp_path):
  for kind in ("tgz", "zip"):
    path = tmp_path / f"a.{kind}"
    pack(path, {"0.jpg": bytes(range(256)) * 20})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(PrepareError, match="damaged or truncated"):
      list((Tar if kind == "tgz" else Zip)(path).read(["0.jpg"]))


def test_other_kinds_of_files_are_named(tmp_path):
  pack(tmp_path / "really.zip", {"a": b"x"})
  (tmp_path / "a.tgz").write_bytes((tmp_path / "really.zip").read_bytes())
  with pytest.raises(PrepareError, match=r"a\.tgz is a zip archive, not tar: is it the right file"):
    Tar(tmp_path / "a.tgz")
  pack(tmp_path / "b.tgz", {"a": b"x"})
  (tmp_path / "b.zip").write_bytes((tmp_path / "b.tgz").read_bytes())
  with pytest.raises(PrepareError, match=r"b\.zip is a gzip archive, not zip"):
    Zip(tmp_path / "b.zip")
  (tmp_path / "c.tgz").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
  with pytest.raises(PrepareError, match=r"c\.tgz is no tar archive \(it begins with b'<!DOCTYPE"):
    Tar(tmp_path / "c.tgz")
  (tmp_path / "d.zip").write_bytes(b"")
  with pytest.raises(PrepareError, match=r"d\.zip is no zip archive \(it is empty\)"):
    Zip(tmp_path / "d.zip")


def test_names_that_are_no_utf8_do_not_disturb(tmp_path):
  with tarfile.open(tmp_path / "a.tgz", "w:gz", encoding="latin-1") as archive:
    for name in ("é.jpg", "a.jpg"):
      archive.addfile(member(name, size=1), io.BytesIO(b"x"))
  files = Tar(tmp_path / "a.tgz")
  assert len(files.members) == 2 and len(files.fingerprint) == 64
  assert list(files.read(list(files.members))) == [b"x", b"x"]


def test_an_archive_that_changes_while_it_is_read(tmp_path):
  pack(tmp_path / "a.tgz", {"a.jpg": b"1", "b.jpg": b"2"})
  files = Tar(tmp_path / "a.tgz")
  pack(tmp_path / "a.tgz", {"a.jpg": b"1"})
  with pytest.raises(PrepareError, match=r"changed while it was read: 'b\.jpg' is gone"):
    list(files.read(["a.jpg", "b.jpg"]))
