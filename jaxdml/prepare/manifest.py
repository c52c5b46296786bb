"""Reads a manifest: a CSV or JSONL file with the path and the label of every image.

Nothing is guessed: what cannot be read one way only is an error that names the file and the line.
"""

import collections
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxdml.data.picture_files import SPLITS, clean_name
from jaxdml.prepare.source import MAX_FILE_BYTES, PrepareError, listed, small_file

REQUIRED = ("path", "label")
OPTIONAL = ("coarse", "fine", "split")
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".tsv")
"""Ends of the name of a manifest: CSV with a header line, or one JSON object a line."""

_SHOWN = 5
_DELIMITERS = ",;\t"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class ManifestError(PrepareError):
  """The manifest cannot be used; the message names the file and the lines."""


class Row(NamedTuple):
  """One line: where it is, and its columns as text; None where the manifest has no such column."""

  line: int
  path: str
  label: str
  coarse: str | None = None
  fine: str | None = None
  split: str | None = None


class Problems:
  """Collects what is wrong with a manifest, so that one message tells the first few."""

  def __init__(self, manifest: str | os.PathLike[str]):
    self._manifest = os.fspath(manifest)
    self._found: list[tuple[int, str]] = []

  def add(self, line: int, problem: str) -> None:
    """Notes a problem of a line; lines count from 1."""
    self._found.append((line, problem))

  def check(self) -> None:
    """Raises ManifestError if there were any."""
    if not self._found:
      return
    shown = [f"line {line}: {problem}" for line, problem in sorted(self._found)[:_SHOWN]]
    if more := len(self._found) - len(shown):
      shown.append(f"and {more} more problems")
    separator = " " if len(shown) == 1 else "\n  "
    raise ManifestError(separator.join([f"manifest {self._manifest}:", *shown]))


def name_problem(name: str) -> str | None:
  """Returns what keeps a cleaned class name from being stored, or None."""
  if _UNPRINTABLE.search(name):
    return f"has a control character or half a surrogate pair: {name!r}"
  return None if name else "is empty"


def read(
  manifest: str | os.PathLike[str], max_file_bytes: int = MAX_FILE_BYTES
) -> tuple[list[Row], list[str]]:
  """Reads a manifest as docs/data.md has it; empty lines and a byte order mark are passed over.

  Returns its rows, in the file's order, and the names of the columns that have no meaning here;
  ManifestError names the line that is wrong.
  """
  path = Path(manifest)
  text = _text(path, max_file_bytes)
  problems = Problems(path)
  as_csv = path.suffix.lower() in (".csv", ".tsv")
  lines = list(_csv(path, text, problems) if as_csv else _jsonl(text, problems))
  problems.check()
  if not lines:
    raise ManifestError(f"manifest {path}: it lists no image; each line gives a path and a label")
  extra = sorted({key for _, values in lines for key in values} - {*REQUIRED, *OPTIONAL, ""})
  used = [c for c in OPTIONAL if any(values.get(c) for _, values in lines)]
  rows = []
  for line, values in lines:
    row = {column: values.get(column) or "" for column in (*REQUIRED, *used)}
    for column, value in row.items():
      if problem := _value_problem(column, value, len(lines)):
        problems.add(line, problem)
    rows.append(Row(line, **row))
  problems.check()
  return rows, extra


def _text(path: Path, most: int) -> str:
  if path.suffix.lower() not in SUFFIXES:
    ends = f"its name must end with one of {', '.join(SUFFIXES)}, which says how to read it"
    raise ManifestError(f"manifest {path}: {ends}")
  try:
    data = small_file(path, most)
  except OSError as error:
    raise ManifestError(f"manifest {path}: cannot be read: {error.strerror}") from error
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    found = " (it looks like UTF-16)" if data.startswith(_UTF16) else ""
    raise ManifestError(
      f"manifest {path}: line {line}: not UTF-8{found}, byte {data[error.start]:#04x}; save the "
      "file as UTF-8"
    ) from error


def _value_problem(column: str, value: str, count: int) -> str | None:
  """Returns what is wrong with a value that every line should have."""
  if not value:
    more = f", and other lines have one: give it on all {count} or on none"
    return f"the {column} is missing" + ("" if column in REQUIRED else more)
  if column == "path":
    wrong = "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
    return f"the path is no file name: {value!r}" if wrong else None
  if column == "split":
    unknown = f"unknown split {value!r}; it must be one of {', '.join(SPLITS)}"
    return None if value.casefold() in SPLITS else unknown
  problem = name_problem(clean_name(value))
  return f"the {column} {problem}" if problem else None


def _csv(path: Path, text: str, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields (line, column -> value)."""
  header = next((line for line in text.splitlines() if line.strip()), "")
  # The header's words are known, so what stands between them tells the delimiter.
  delimiter = max(_DELIMITERS, key=header.count)
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
  columns: list[str] | None = None
  line = 1
  try:
    for row in reader:
      cells = [cell.strip() for cell in row]
      if any(cells) and columns is None:
        columns = [cell.casefold() for cell in cells]
        _check_columns(path, line, columns)
      elif any(cells) and len(cells) != len(columns):
        wrong = f"{len(cells)} fields, and the header has {len(columns)}; a field that holds"
        problems.add(line, f"{wrong} {delimiter!r} must stand in double quotes")
      elif any(cells):
        yield line, dict(zip(columns, cells, strict=True))
      line = reader.line_num + 1
  except csv.Error as error:
    problems.add(line, f"not CSV: {error}; is a quote missing?")


def _twice(columns: list[str]) -> list[str]:
  return sorted(name for name, count in collections.Counter(columns).items() if count > 1)


def _check_columns(path: Path, line: int, columns: list[str]) -> None:
  header = f"manifest {path}: line {line}: the header names"
  if missing := " and ".join(column for column in REQUIRED if column not in columns):
    rule = f"the columns, and {missing} must be among them"
    raise ManifestError(f"{header} {rule}; got [{listed(columns)}]")
  if twice := _twice(list(filter(None, columns))):
    raise ManifestError(f"{header} [{listed(twice)}] more than once")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  names = [key.strip().casefold() for key, _ in pairs]
  if twice := _twice(names):
    raise ValueError(f"[{listed(twice)}] given more than once")
  return dict(zip(names, (value for _, value in pairs), strict=True))


def _jsonl(text: str, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields (line, column -> value)."""
  # Not splitlines: JSON allows characters inside its strings that it would split at.
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
      problems.add(number, f"not a JSON object: {error}")
      continue
    if not isinstance(row, dict):
      problems.add(number, f"not a JSON object but {type(row).__name__}; expected {{...}}")
      continue
    values = {}
    for column, value in row.items():
      known = column in REQUIRED or column in OPTIONAL
      if value is None or not known:
        values[column] = ""
      elif isinstance(value, str) or (type(value) is int and column != "path"):
        values[column] = value if column == "path" else str(value).strip()
      else:
        expected = "text" if column == "path" else "text or a whole number"
        problems.add(number, f"the {column} must be {expected}, got {type(value).__name__}")
    yield number, values
