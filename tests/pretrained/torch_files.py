"""Files of `torch.save` made by hand: without PyTorch, and with what PyTorch would never write."""

import dataclasses
import io
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
  "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16",
  "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
  "bool": "Bool",
}  # fmt: skip
DTYPES = [*map(np.dtype, (s for s in STORAGES if s != "bfloat16")), np.dtype(ml_dtypes.bfloat16)]


@dataclasses.dataclass(frozen=True)
class Raw:
  """Instructions of a pickle, as they are."""

  code: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Strided:
  """A tensor of a storage [n], which others may share."""

  storage: np.ndarray
  offset: int
  shape: tuple
  strides: tuple
  claim: int | None = None  # number of values that the pickle says the storage has


def integer(n):
  if 0 <= n < 2**31:
    return b"J" + struct.pack("<i", n)
  content = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
  return b"\x8a" + bytes([len(content)]) + content


def text(s):
  return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def several(*items):
  return b"(" + b"".join(items) + b"t"


def named(module, name):
  return b"c" + f"{module}\n{name}\n".encode()


def call(module, name, *arguments):
  return named(module, name) + several(*arguments) + b"R"


class Pickler:
  """The instructions that make a tree of dicts, arrays, texts and numbers."""

  def __init__(self, old):
    self.old, self.storages = old, []

  def code(self, x):
    if isinstance(x, Raw):
      return x.code
    if isinstance(x, dict):
      items = b"".join(self.code(part) for pair in x.items() for part in pair)
      return call("collections", "OrderedDict") + b"(" + items + b"u"
    if isinstance(x, np.ndarray):
      steps = [step // x.itemsize for step in np.array(x, order="C").strides]
      x = Strided(x.reshape(-1), 0, x.shape, tuple(steps))
    if isinstance(x, Strided):
      numbers = (integer(x.offset), *(several(*map(integer, n)) for n in (x.shape, x.strides)))
      return call("torch._utils", "_rebuild_tensor_v2", self.storage(x), *numbers, b"\x89",
                  call("collections", "OrderedDict"))  # fmt: skip
    return text(x) if isinstance(x, str) else integer(x)

  def storage(self, x):
    found = [key for key, known in enumerate(self.storages) if known is x.storage]
    if not found:
      self.storages.append(x.storage)
    key = str(found[0] if found else len(self.storages) - 1)
    kind = named("torch", f"{STORAGES[x.storage.dtype.name]}Storage")
    count = len(x.storage) if x.claim is None else x.claim
    view = [b"N"] if self.old else []
    return several(text("storage"), kind, text(key), text("cpu"), integer(count), *view) + b"Q"


def content(tree, old=False, compression=zipfile.ZIP_STORED, **members):
  """The bytes of a file; `members` are more members of the archive."""
  pickler = Pickler(old)
  program = b"\x80\x02" + pickler.code(tree) + b"."
  file = io.BytesIO()
  if old:
    for value in (0x1950A86A20F9469CFC6C, 1001):
      file.write(b"\x80\x02" + integer(value) + b".")
    file.write(b"\x80\x02}" + text("little_endian") + b"\x88s.")
    keys = b"".join(text(str(key)) for key in range(len(pickler.storages)))
    file.write(program + b"\x80\x02](" + keys + b"e.")
    for storage in pickler.storages:
      file.write(struct.pack("<q", len(storage)) + storage.tobytes())
    return file.getvalue()
  with zipfile.ZipFile(file, "w", compression) as archive:
    archive.writestr("archive/data.pkl", program)
    for name, member in members.items():
      archive.writestr(f"archive/{name}", member)
    for key, storage in enumerate(pickler.storages):
      archive.writestr(f"archive/data/{key}", storage.tobytes())
    archive.writestr("archive/version", b"3\n")
  return file.getvalue()


def save(path, tree, old=False, **options):
  """Writes `content`; returns the path."""
  path.write_bytes(content(tree, old, **options))
  return path
