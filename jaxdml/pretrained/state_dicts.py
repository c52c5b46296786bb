"""State dicts that PyTorch saved, read without PyTorch and without calling anything in them.

A pickle is a program for a small stack machine, which may call any function by its name. Here
`pickletools.genops` takes such a program apart, running nothing, and `_build` carries out the few
instructions that a state dict is made of: they stack up numbers, texts, lists, tuples, dicts and
`Tensor`s. Names of functions and classes stay names, of which `_KNOWN` alone are taken.
"""

import contextlib
import dataclasses
import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxdml.models.base import State

MOST_UNPACKED = 100
"""Arrays may take so many times the size of their file: one value can be repeated in each place."""

_DTYPES = {
  "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
  "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8,
  "Bool": np.bool_,
}  # fmt: skip
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}
_REBUILD = "torch._utils._rebuild_"
_CALLS = (
  "collections.OrderedDict", "torch.Size", f"{_REBUILD}parameter", f"{_REBUILD}tensor",
  f"{_REBUILD}tensor_v2",
)  # fmt: skip
_KNOWN = {*_STORAGES, *_CALLS}

# The first numbers of a file of PyTorch 1.5 or older: a mark, and the version of the format.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


class NeedsCodeError(ValueError):
  """A pickle of more than a state dict: the name of what it would call, or nothing for others'."""


class TorchScriptError(ValueError):
  """A program instead of a state dict."""


@dataclasses.dataclass(frozen=True)
class Storage:
  """A row of `count` values of `dtype`, kept under `key`."""

  key: str
  dtype: np.dtype[Any]
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A storage's values from `offset` on, in `shape`, `strides` values apart."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def of(self, values: np.ndarray) -> np.ndarray:
    """Returns the array, a view of its storage's values; ValueError where they do not reach."""
    offset, shape, steps = self.offset, self.shape, self.strides
    if len(shape) != len(steps) or min((offset, *shape, *steps)) < 0:
      raise ValueError(f"a tensor of shape {shape[:9]} and strides {steps[:9]}")
    if 0 in shape:
      return np.zeros(shape, values.dtype)
    # PyTorch leaves any number as the stride of an axis of one.
    steps = tuple(0 if n == 1 else step for n, step in zip(shape, steps, strict=True))
    end = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if end >= len(values):
      raise ValueError(f"a tensor that ends at value {end:,} of {len(values):,}")
    size = values.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
      values[offset:], shape, [step * size for step in steps], writeable=False
    )


@dataclasses.dataclass(frozen=True)
class _Name:
  """A function or class that a pickle names; never looked up."""

  name: str


def read(path: Path, choose: Callable[[Any], Mapping[str, Tensor]]) -> State:
  """Returns the arrays of a file of `torch.save`, floats as float32, the others as they are.

  Args:
    path: of the file, as PyTorch writes it since 1.6 (a zip archive) or wrote it before.
    choose: gives the tensors that are wanted, by name, of the object in the file.

  Raises:
    NeedsCodeError: the object is more than dicts, lists, numbers, texts and tensors.
    TorchScriptError: it is a program.
    Exception: one of a dozen kinds where the file is damaged or another's; and those of `choose`.
  """
  with path.open("rb") as file:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    archived = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    opened = _opened_zip if archived else _opened_old
    with opened(file, size) as (content, values_of):
      tensors = choose(content)
      kept: dict[Storage, np.ndarray] = {}
      arrays, total = {}, 0
      for name, tensor in tensors.items():
        storage = tensor.storage
        total += math.prod(tensor.shape) * storage.dtype.itemsize
        if total > MOST_UNPACKED * size:
          raise ValueError(f"arrays of over {MOST_UNPACKED} times the file's size")
        if storage not in kept:
          kept[storage] = values_of(storage)
        array = tensor.of(kept[storage])
        if array.dtype.kind in "fV":  # V: bfloat16
          with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        arrays[name] = array
      return arrays


Values = Callable[[Storage], np.ndarray]


@contextlib.contextmanager
def _opened_zip(file: BinaryIO, size: int) -> Iterator[tuple[Any, Values]]:
  """The object in a zip archive: NAME/data.pkl, and each storage in NAME/data/KEY."""
  with zipfile.ZipFile(file) as archive:
    members = archive.infolist()
    root = members[0].filename.partition("/")[0]
    names = {member.filename for member in members}
    if f"{root}/constants.pkl" in names:
      raise TorchScriptError
    if (unpacked := sum(member.file_size for member in members)) > size:
      raise ValueError(f"members of {unpacked:,} bytes in a file of {size:,}")
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
      raise ValueError("of a big-endian machine")

    def values_of(storage: Storage) -> np.ndarray:
      content = archive.read(f"{root}/data/{storage.key}")
      return _values(content, storage)

    yield _build(io.BytesIO(archive.read(f"{root}/data.pkl")), {}), values_of


@contextlib.contextmanager
def _opened_old(file: BinaryIO, size: int) -> Iterator[tuple[Any, Values]]:
  """The object in a file before PyTorch 1.6: five pickles, then storages in their order."""
  storages: dict[str, Storage] = {}
  try:
    written = _build(file, {}) == _MAGIC and _build(file, {}) == _VERSION
  except NeedsCodeError:
    written = False
  if not written:
    raise NeedsCodeError
  if _build(file, {}).get("little_endian") is not True:
    raise ValueError("of a big-endian machine")
  content, keys = _build(file, storages), _build(file, {})
  places, place = {}, file.tell()
  for key in keys:
    storage = storages[key]
    places[key] = place + 8
    place += 8 + storage.count * storage.dtype.itemsize
  if place > size:
    raise ValueError(f"expected {place:,} bytes, found {size:,}")

  def values_of(storage: Storage) -> np.ndarray:
    file.seek(places[storage.key] - 8)
    if int.from_bytes(file.read(8), "little") != storage.count:
      raise ValueError(f"storage {storage.key[:20]!r} of another size than said")
    return _values(file.read(storage.count * storage.dtype.itemsize), storage)

  yield content, values_of


def _values(content: bytes, storage: Storage) -> np.ndarray:
  if len(content) != storage.count * storage.dtype.itemsize:
    raise ValueError(f"expected {storage.count:,} values, found {len(content):,} bytes")
  return np.frombuffer(content, storage.dtype)


def _build(file: BinaryIO, storages: dict[str, Storage]) -> Any:
  """The object of the pickle that starts here; `storages` gets what it names, by key.

  The file is left after it. What an instruction finds on the stack is checked where it matters: a
  hostile program gets a wrong object or an exception, never a call.
  """
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}

  def since_mark() -> list[Any]:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, argument, _ in pickletools.genops(file):
    match opcode.name:
      case "PROTO" | "FRAME":
        pass
      case "STOP":
        return stack.pop()
      case "NONE":
        stack.append(None)
      case "NEWTRUE" | "NEWFALSE":
        stack.append(opcode.name == "NEWTRUE")
      case (
        "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE"
        | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES"
        | "SHORT_BINBYTES"
      ):  # fmt: skip
        stack.append(argument)
      case "MARK":
        marks.append(len(stack))
      case "EMPTY_LIST":
        stack.append([])
      case "EMPTY_DICT":
        stack.append({})
      case "EMPTY_TUPLE":
        stack.append(())
      case "TUPLE":
        stack.append(tuple(since_mark()))
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        count = int(opcode.name[-1])
        stack[-count:] = [tuple(stack[-count:])]
      case "APPEND" | "APPENDS":
        items = [stack.pop()] if opcode.name == "APPEND" else since_mark()
        _checked(stack[-1], list).extend(items)
      case "SETITEM" | "SETITEMS":
        items = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else since_mark()
        _set(_checked(stack[-1], dict), zip(items[::2], items[1::2], strict=True))
      case "BINPUT" | "LONG_BINPUT":
        memo[argument] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[argument])
      case "GLOBAL":
        stack.append(_named(str(argument).replace(" ", ".")))
      case "STACK_GLOBAL":
        name = _checked(stack.pop(), str)
        stack.append(_named(f"{_checked(stack.pop(), str)}.{name}"))
      case "BINPERSID":
        storage = _storage(stack.pop())
        if storages.setdefault(storage.key, storage) != storage:
          raise ValueError(f"two storages of one key, {storage.key[:20]!r}")
        stack.append(storage)
      case "REDUCE":
        arguments = _checked(stack.pop(), tuple)
        stack.append(_called(_checked(stack.pop(), _Name).name, arguments))
      case "BUILD":
        # The metadata that PyTorch hangs on a state dict; other objects have no state here.
        stack.pop()
        _checked(stack[-1], dict)
      case _:
        raise ValueError(f"instruction {opcode.name}, which no state dict needs")
  raise ValueError("a pickle without an end")


def _checked(value: Any, kind: type) -> Any:
  if type(value) is not kind:
    raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
  return value


def _set(target: dict[Any, Any], pairs: Any) -> None:
  for key, value in pairs:
    # A tuple's hash goes as deep as the tuple, and the interpreter's stack with it.
    if not isinstance(key, str | int | float | None):
      raise ValueError(f"a key of type {type(key).__name__}")
    target[key] = value


def _named(name: str) -> _Name:
  """The name, if it is one that a state dict needs."""
  if name not in _KNOWN:
    raise NeedsCodeError(re.sub(r"[^\w.]", "?", name)[:100])
  return _Name(name)


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
  """The result that a call in a pickle would have, of those functions that a state dict needs."""
  if name == "collections.OrderedDict":
    target: dict[Any, Any] = {}
    _set(target, arguments[0] if arguments else ())
    return target
  if name in ("torch.Size", f"{_REBUILD}parameter"):
    return arguments[0]
  if name not in (f"{_REBUILD}tensor", f"{_REBUILD}tensor_v2"):
    raise NeedsCodeError(name)
  storage, offset, shape, strides = arguments[:4]
  numbers = (offset, *_checked(shape, tuple), *_checked(strides, tuple))
  if any(type(number) is not int for number in numbers):
    raise ValueError("a tensor whose shape is no numbers")
  return Tensor(_checked(storage, Storage), offset, shape, strides)


def _storage(identity: Any) -> Storage:
  """A storage as pickles name it: ("storage", class, key, device, count, view or None)."""
  word, kind, key, _, count, *view = _checked(identity, tuple)
  dtype = _STORAGES.get(_checked(kind, _Name).name)
  if word != "storage" or dtype is None or type(count) is not int or count < 0:
    raise ValueError("a storage without class or size")
  if view and view[0] is not None:
    raise ValueError("a storage within another, as before PyTorch 0.4")
  return Storage(_checked(key, str), dtype, count)
