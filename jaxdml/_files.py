"""Files that appear whole or not at all, whatever ends the process; and JSON."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NAME = 50  # Characters of a file's name in that of its temporary one: names have 255 bytes.


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
  """Gives the path of a temporary file to write, which then takes the place of `path`.

  The temporary file lies beside `path` under a hidden name that ends in .tmp and that no other
  process, host or thread takes; folders are made. After an error it is removed. A process that is
  killed leaves it behind, and `path` as it was.

  `sync` waits until the content is on the disk, so that a power failure leaves the old file or the
  new one; without it a file may be there with nothing in it.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name[:_NAME]}.{secrets.token_hex(8)}.tmp")
  try:
    yield temporary
    if sync:
      flush(temporary)
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def flush(path: str | os.PathLike[str]) -> None:
  """Waits until a file or directory is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file, as UTF-8 with the line ends that `text` has, whole or not at all."""
  write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
  """Writes `dump_json(value)` and a line end, whole or not at all."""
  write_text(path, dump_json(value, indent=indent) + "\n")


def dump_json(value: Any, *, indent: int | None = None) -> str:
  """Returns a value of dicts, lists, text and numbers as JSON that every parser takes.

  What is NaN or infinite becomes null, for JSON knows neither. `indent` are spaces a level; None
  puts all on one line, without spaces.

  >>> dump_json({"a": [float("nan"), 1.5]})
  '{"a":[null,1.5]}'
  """
  separators = (",", ":") if indent is None else None
  return json.dumps(finite(value), indent=indent, separators=separators, allow_nan=False)


def finite(value: Any) -> Any:
  """Returns a JSON value with null in place of numbers that are NaN or infinite."""
  if isinstance(value, float):
    return value if value - value == 0 else None
  if isinstance(value, Mapping):
    return {str(key): finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  return value


def read_json(path: str | os.PathLike[str]) -> Any:
  """Returns what a JSON file holds, or None if there is none or it is damaged."""
  try:
    return json.loads(Path(path).read_text(encoding="utf-8"))
  except (FileNotFoundError, ValueError):
    return None


def sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a JSON object with its own digest as "seal", which `read_sealed` checks.

  >>> seal({"a": 1})["seal"][:8]
  'f9d86028'
  """
  return {**value, "seal": _seal(json.loads(dump_json(value)))}


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the object that was sealed in a JSON file, the seal left out.

  Raises:
    ValueError: it is not what was written, or is of a version that wrote no seals.
  """
  value = json.loads(Path(path).read_text(encoding="utf-8"))
  if not isinstance(value, dict) or "seal" not in value:
    raise ValueError("it has no seal: another version of jaxdml wrote it, or it was changed")
  if value.pop("seal") != _seal(value):
    raise ValueError("its content is not what was written")
  return value


def _seal(value: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
