"""The tidy table of an experiment: one row a number, as CSV or JSON lines.

A file says no more than its rows: rows are sorted, floats are written with the digits that give the
same float back, and a file is replaced at once or not at all.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jaxdml import _files
from jaxdml.evaluation import describe_metric

__all__ = [
  "BASELINE",
  "Layout",
  "Row",
  "TableError",
  "layout",
  "loss_label",
  "read",
  "task_label",
  "with_chance",
  "write",
]


class TableError(ValueError):
  """A table that cannot be read or written: the message names the file, the row and the column."""


class Row(NamedTuple):
  """One number.

  Attributes:
    suite: the grid it belongs to, e.g. "glyphs".
    task: what was trained and asked for, e.g. "letters" or "script -> code point".
    loss: npair, triplet, margin, multi_similarity; "" for a floor, which belongs to no loss.
    arm: plain, EPS, HDML, EPS+HDML, or a floor: raw pixels, untrained encoder, frozen
      pretrained encoder (in older tables "pretrained encoder": through the run's random head).
    seed: of the run, 0 or more.
    split: of the data, e.g. "test".
    metric: e.g. "recall@1", "map@r", "nmi".
    value: finite.
  """

  suite: str
  task: str
  loss: str
  arm: str
  seed: int
  split: str
  metric: str
  value: float

  @property
  def key(self) -> tuple[str, str, str, str, int, str, str]:
    """All but the value: a table has one row of each key."""
    return self[:-1]


def read(path: str | os.PathLike[str]) -> list[Row]:
  """Reads what `write` wrote, or a table made by hand with the same columns in any order.

  Args:
    path: a .csv file, whose first line names the columns, or a .jsonl file, an object a line.

  Returns:
    The rows, sorted by their keys.

  Raises:
    TableError: another suffix, columns missing or unknown, a seed that is no whole number, a value
      that is no finite number, two rows of one key.
    OSError: the file cannot be read.
  """
  path = pathlib.Path(path)
  parse = _by_suffix(path, {".csv": _parse_csv, ".jsonl": _parse_jsonl})
  try:
    text = path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise TableError(f"{path}: expected UTF-8, got {error}") from error
  return _checked((_row(where, fields) for where, fields in parse(path, text)), path)


def write(rows: Iterable[Row], path: str | os.PathLike[str]) -> None:
  """Writes the rows, sorted by their keys, so that equal tables are equal files.

  The file appears complete or not at all. Folders are made.

  Args:
    rows: one of each key, in any order.
    path: .csv or .jsonl.

  Raises:
    TableError: another suffix, a row that `read` would refuse, two rows of one key.
  """
  path = pathlib.Path(path)
  dump = _by_suffix(path, {".csv": _dump_csv, ".jsonl": _dump_jsonl})
  named = (_row(f"{path}: row {i}", Row(*row)._asdict()) for i, row in enumerate(rows))
  text = dump(_checked(named, path))
  _files.write_text(path, text)


def _by_suffix(path: pathlib.Path, choices: dict[str, Callable]) -> Callable:
  if path.suffix not in choices:
    raise TableError(f"{path}: expected a name that ends in .csv or .jsonl")
  return choices[path.suffix]


def _parse_csv(path: pathlib.Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
  reader = csv.reader(io.StringIO(text), strict=True)
  try:
    header = next(reader, [])
    if sorted(header) != sorted(Row._fields):
      raise TableError(
        f"{path}: expected the columns {', '.join(Row._fields)}; got {', '.join(header) or 'none'}"
      )
    for cells in reader:
      where = f"{path}: line {reader.line_num}"
      if len(cells) != len(header):
        raise TableError(f"{where}: expected {len(header)} cells, got {len(cells)}")
      yield where, dict(zip(header, cells, strict=True))
  except csv.Error as error:
    raise TableError(f"{path}: line {reader.line_num}: {error}") from error


def _parse_jsonl(path: pathlib.Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
  for number, line in enumerate(text.splitlines(), 1):
    where = f"{path}: line {number}"
    try:
      fields = json.loads(line)
    except json.JSONDecodeError as error:
      raise TableError(f"{where}: expected a JSON object, got {line[:80]!r}") from error
    if not isinstance(fields, dict) or set(fields) != set(Row._fields):
      raise TableError(
        f"{where}: expected an object with {', '.join(Row._fields)}; got {line[:80]!r}"
      )
    yield where, fields


def _row(where: str, fields: dict[str, Any]) -> Row:
  """The row of its fields, which may be text."""
  row = Row(**fields)
  texts = {name: getattr(row, name) for name in Row._fields if name not in ("seed", "value")}
  for name, text in texts.items():
    if not isinstance(text, str) or text != text.strip() or not text.isprintable():
      raise TableError(f"{where}: {name}: expected one line of text, got {text!r}")
    if not text and name != "loss":
      raise TableError(f"{where}: {name}: expected some text, got ''")
  try:
    seed, value = int(row.seed), float(row.value)
  except (TypeError, ValueError):
    seed, value = -1, math.nan
  if seed < 0 or (not isinstance(row.seed, str) and row.seed != seed) or not math.isfinite(value):
    raise TableError(
      f"{where}: expected a whole number from 0 as seed and a finite value; "
      f"got seed {row.seed!r}, value {row.value!r}"
    )
  return row._replace(seed=seed, value=value)


def _checked(rows: Iterable[Row], path: pathlib.Path) -> list[Row]:
  """Sorted, with one row of each key."""
  ordered = sorted(rows)
  for one, other in itertools.pairwise(ordered):
    if one.key == other.key:
      raise TableError(f"{path}: expected one row of each key, got several of {one.key}")
  return ordered


def _dump_csv(rows: list[Row]) -> str:
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(Row._fields)
  writer.writerows((*row.key, repr(row.value)) for row in rows)
  return file.getvalue()


def _dump_jsonl(rows: list[Row]) -> str:
  return "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)


BASELINE = "plain"
MILLIONS, MINUTES = "cost/millions", "cost/minutes"
"""Parameters that learnt, in millions, and the wall time of a run."""
_ARMS = ("plain", "EPS", "HDML", "EPS+HDML")
_FLOORS = (
  "chance", "raw pixels", "untrained encoder", "pretrained encoder", "frozen pretrained encoder",
)  # fmt: skip
_LOSSES = {
  "npair": "N-pair",
  "triplet": "triplet",
  "margin": "margin",
  "multi_similarity": "multi-similarity",
  "contrastive": "contrastive",
}
_MAIN = ("map@r", "recall@1", "nmi")
_CHANCE = "collapse/within/chance_"


class Layout(NamedTuple):
  """Contents of a suite's rows, each in the order in which it is shown."""

  tasks: tuple[str, ...]
  losses: tuple[str, ...]
  arms: tuple[str, ...]
  floors: tuple[str, ...]
  metrics: tuple[str, ...]
  seeds: tuple[int, ...]
  split: str


def layout(rows: Sequence[Row], metrics: Iterable[str] | None = None) -> Layout:
  """The layout of one suite's rows: known names first, then others by the alphabet.

  Args:
    rows: of one suite. Floors are the rows without a loss.
    metrics: those to show; by default the rows' MAP@R, Recall@1 and NMI.

  Raises:
    ValueError: no rows, rows of several suites, a metric that no row has, or several splits of
      which none is "test".
  """
  suites = sorted({row.suite for row in rows})
  if len(suites) != 1:
    raise ValueError(f"rows: expected those of one suite, got {', '.join(suites) or 'no rows'}")
  splits = {row.split for row in rows}
  if len(splits) > 1 and "test" not in splits:
    raise ValueError(f"rows: expected the split test or one split, got {', '.join(sorted(splits))}")
  split = "test" if "test" in splits else splits.pop()
  rows = [row for row in rows if row.split == split]
  present = {row.metric for row in rows}
  if metrics is None:
    metrics = tuple(name for name in _MAIN if name in present)
    metrics = metrics or tuple(sorted(present, key=lambda name: describe_metric(name).order))
  else:
    metrics = tuple(dict.fromkeys(metrics))
  if set(metrics) - present:
    raise ValueError(
      f"metrics: expected some of {', '.join(sorted(present))}; "
      f"got {', '.join(sorted(set(metrics) - present))}"
    )
  rows = [row for row in rows if row.metric in metrics]
  return Layout(
    tasks=_ordered({row.task for row in rows}, ()),
    losses=_ordered({row.loss for row in rows if row.loss}, tuple(_LOSSES)),
    arms=_ordered({row.arm for row in rows if row.loss}, _ARMS),
    floors=_ordered({row.arm for row in rows if not row.loss}, _FLOORS),
    metrics=metrics,
    seeds=tuple(sorted({row.seed for row in rows})),
    split=split,
  )


def with_chance(rows: Sequence[Row]) -> list[Row]:
  """The rows, with the chance level of retrieval inside the class as a floor named "chance".

  Every model's diagnostics come with that level (`collapse/within/chance_map@r`), which depends on
  the labels alone.
  """
  chance = {}
  for row in rows:
    if row.metric.startswith(_CHANCE):
      metric = row.metric.replace("chance_", "")
      floor = row._replace(loss="", arm="chance", metric=metric)
      chance.setdefault(floor.key, floor)
  return [row for row in rows if not row.metric.startswith(_CHANCE)] + list(chance.values())


def loss_label(name: str) -> str:
  """The name of a loss in print."""
  return _LOSSES.get(name, name)


def task_label(name: str) -> str:
  """The name of a task in print, arrows as arrows."""
  return name.replace("->", "→")


def _ordered(names: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
  """Known ones in their order, then the others, numbers in names by size."""
  place = {name: index for index, name in enumerate(known)}
  parts = lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
  return tuple(sorted(names, key=lambda name: (place.get(name, len(known)), parts(name))))
