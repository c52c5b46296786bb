"""Suites' tables and how they were made, copied from where runs wrote them to the docs."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from studies import table

__all__ = ["PageError", "collect", "read_info"]

_INFO = {
  "command": (str,),
  "metrics": (list,),
  "runs": (int,),
  "seconds": (int, float),
  "workers": (int,),
  "machine": (str,),
  "versions": (str, dict),
  "notes": (str, list),
  "tuning": (list,),
}
_CANDIDATE = {"task", "loss", "arm", "candidate", "validation", "chosen"}


class PageError(ValueError):
  """A page whose markers do not pair, or a file beside a table that says something else."""


def collect(out: pathlib.Path, results: pathlib.Path) -> list[str]:
  """Copies the tables of `python -m studies.run --out=OUT` to the results folder.

  OUT/NAME/table.csv becomes NAME.csv; info.json and, as its "tuning", tuning.json become NAME.json.

  Args:
    out: the folder that run wrote.
    results: e.g. docs/results.

  Returns:
    The names of the suites.

  Raises:
    PageError: there is no table in `out`.
    TableError: a table that cannot be read.
  """
  paths = sorted(out.glob("*/table.csv"))
  if not paths:
    raise PageError(
      f"{out}: expected NAME/table.csv in it, as studies.run writes for every suite but "
      "theory, which is a simulation and draws its own figure"
    )
  for path in paths:
    name = path.parent.name
    table.write(table.read(path), results / f"{name}.csv")
    info = read_info(path.with_name("info.json"))
    if path.with_name("tuning.json").exists():
      info["tuning"] = _json(path.with_name("tuning.json"))
    (results / f"{name}.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
  return [path.parent.name for path in paths]


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise PageError(f"{path}: expected JSON, got {error}") from error


def read_info(path: pathlib.Path) -> dict[str, Any]:
  """What is known about how a table was made; nothing, if there is no such file."""
  info = _json(path) if path.exists() else {}
  if not isinstance(info, dict):
    raise PageError(f"{path}: expected a JSON object, got {type(info).__name__}")
  for name, kinds in _INFO.items():
    if name in info and not isinstance(info[name], kinds):
      expected = " or ".join(kind.__name__ for kind in kinds)
      raise PageError(f"{path}: {name}: expected {expected}, got {info[name]!r}")
  for one in info.get("tuning", ()):
    if not isinstance(one, dict) or _CANDIDATE - set(one):
      raise PageError(f"{path}: tuning: expected {', '.join(sorted(_CANDIDATE))}; got {one!r}")
  return info
