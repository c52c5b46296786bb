"""Writes the generated parts of docs/results.md: python -m studies.document.

Whatever stands between `<!-- suite:NAME -->` and `<!-- end -->` is replaced by the tables and the
figures of docs/results/NAME.csv, with the command, run time and machine of docs/results/NAME.json;
the rest of the page is left as it is. With --check nothing is written, and the exit status is 1 if
the page or a figure is not what the tables give.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdml import _files, commands
from studies import markdown, statistics, table

__all__ = [
  "PageError",
  "Place",
  "collect",
  "main",
  "read_info",
  "render",
  "section",
]


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
    _files.write_json(results / f"{name}.json", info)
  return [path.parent.name for path in paths]


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise PageError(f"{path}: expected JSON, got {error}") from error


def read_info(path: pathlib.Path) -> dict[str, Any]:
  """Returns what is known about how a table was made; nothing, if there is no such file."""
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


NOT_RUN = "*Not run.*"
_START = re.compile(r"<!-- suite:([\w-]+) -->")
_END = "<!-- end -->"


class Place(NamedTuple):
  """Places of a page, its sources and its figures.

  Attributes:
    page: the Markdown file.
    results: the folder of NAME.csv and NAME.json.
    images: the folder of results_NAME.png and results_NAME_effects.png.
  """

  page: pathlib.Path
  results: pathlib.Path
  images: pathlib.Path


class Suite(NamedTuple):
  """One suite's sources."""

  name: str
  rows: list[table.Row]
  info: Mapping[str, Any]
  metrics: tuple[str, ...] | None

  @property
  def digest(self) -> str:
    """Of all that its figures show."""
    shown = [self.name, self.metrics, [list(row) for row in self.rows]]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]

  @property
  def figures(self) -> dict[str, str]:
    """File name -> what it shows."""
    plan = table.layout(self.rows, self.metrics)
    figures = {f"results_{self.name}.png": "each arm with its interval, and the floors"}
    if statistics.all_effects(self.rows, plan):
      figures[f"results_{self.name}_effects.png"] = "paired differences from plain"
    return figures


def load(place: Place, name: str) -> Suite | None:
  """The suite of that name; None if it has no table.

  Raises:
    TableError: a table that cannot be read.
    PageError: rows of another suite, or a .json file that does not fit.
  """
  path = place.results / f"{name}.csv"
  if not path.exists():
    return None
  rows = table.read(path)
  suites = sorted({row.suite for row in rows})
  if suites != [name]:
    raise PageError(f"{path}: expected rows of suite {name}, got {', '.join(suites) or 'none'}")
  info = read_info(path.with_suffix(".json"))
  rows = table.with_chance(rows)
  present = {row.metric for row in rows}
  # A metric may be undefined for a suite's data; the figures show the others.
  metrics = tuple(metric for metric in info.get("metrics", ()) if metric in present)
  return Suite(name, rows, info, metrics or None)


def section(place: Place, suite: Suite | None) -> str:
  """Returns what stands between a suite's markers."""
  if suite is None:
    return NOT_RUN
  parts = []
  if suite.info.get("command"):
    parts.append(f"```bash\n{suite.info['command']}\n```")
  parts.append(markdown.results(suite.rows, suite.metrics))
  links = [
    f"![{suite.name}: {shown}]({_relative(place.images / name, place.page.parent)})"
    for name, shown in suite.figures.items()
  ]
  parts.append(links[0])
  if len(links) > 1:
    parts += [markdown.effects(suite.rows, suite.metrics), links[1]]
    # What the second method of a combination adds to the first.
    arms = {row.arm for row in suite.rows}
    for first in sorted(arms):
      both = {arm for arm in arms if arm.startswith(f"{first}+")}
      if both:
        parts.append(markdown.effects(suite.rows, suite.metrics, first, both))
  if any(row.metric == table.MILLIONS for row in suite.rows):
    parts.append(markdown.costs(suite.rows))
  if suite.info.get("tuning"):
    parts.append(markdown.tuning(suite.info["tuning"]))
  made = markdown.provenance(suite.info)
  if made:
    parts.append(made)
  return "\n\n".join(parts)


def render(place: Place, suites: Mapping[str, Suite | None]) -> str:
  """The page with every section renewed.

  Raises:
    PageError: see `names_in`.
  """
  lines, inside = [], False
  names_in(place.page)
  for line in place.page.read_text(encoding="utf-8").splitlines():
    start = _START.fullmatch(line.strip())
    if start:
      lines += [line, "", section(place, suites[start[1]]), ""]
      inside = True
    elif line.strip() == _END:
      inside = False
    if not inside:
      lines.append(line)
  return "\n".join(lines) + "\n"


def names_in(page: pathlib.Path) -> list[str]:
  """The suites that a page has markers for, in its order.

  Raises:
    PageError: a marker without its other half, or a suite twice.
  """
  names, inside = [], None
  for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
    start = _START.fullmatch(line.strip())
    if (start and inside) or (line.strip() == _END and not inside):
      expected = _END if inside else "<!-- suite:NAME -->"
      raise PageError(f"{page}: line {number}: expected {expected} before {line.strip()}")
    if start:
      inside = start[1]
      if inside in names:
        raise PageError(f"{page}: line {number}: suite {inside} stands twice")
      names.append(inside)
    elif line.strip() == _END:
      inside = None
  if inside:
    raise PageError(f"{page}: expected {_END} after <!-- suite:{inside} -->")
  return names


def stale_figures(place: Place, suite: Suite) -> list[pathlib.Path]:
  """Figures that are missing or were drawn from other numbers."""
  from PIL import Image

  stale = []
  for name in suite.figures:
    path = place.images / name
    if path.exists():
      with Image.open(path) as image:
        if image.info.get("Description") == suite.digest:
          continue
    stale.append(path)
  return stale


def redraw(suite: Suite, paths: Sequence[pathlib.Path]) -> None:
  """Draws these figures of a suite."""
  from studies import draw

  for path in paths:
    function = draw.effects if path.stem.endswith("_effects") else draw.dots
    draw.save(function(suite.rows, metrics=suite.metrics), path, note=suite.digest)


def _relative(path: pathlib.Path, start: pathlib.Path) -> str:
  return pathlib.PurePath(os.path.relpath(path, start)).as_posix()


def main(argv: Sequence[str] | None = None) -> int:
  """The command: 0, or 1 if --check finds something out of date, or 2 after an error."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.document",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--page", type=pathlib.Path, default=pathlib.Path("docs/results.md"), help="(%(default)s)")
  add("--results", type=pathlib.Path, default=pathlib.Path("docs/results"), help="(%(default)s)")
  add("--images", type=pathlib.Path, default=pathlib.Path("docs/images"), help="(%(default)s)")
  add("--collect", type=pathlib.Path, help="first copy the tables that run wrote into this --out")
  add("--check", action="store_true", help="write nothing, say what is out of date")
  add("--redraw", action="store_true", help="draw figures again even if their numbers are the same")
  args = parser.parse_args(argv)
  if args.check and (args.collect or args.redraw):
    parser.error("--check: expected neither --collect nor --redraw beside it")
  place = Place(args.page, args.results, args.images)
  try:
    if args.collect:
      print(f"collected {', '.join(collect(args.collect, args.results))}")
    stale = _update(place, write=not args.check, redraw_all=args.redraw)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  for path in stale:
    print(f"{path} is out of date" if args.check else f"wrote {path}")
  if args.check and stale:
    print("python -m studies.document brings them up to date")
  return int(args.check and bool(stale))


def _update(place: Place, *, write: bool, redraw_all: bool) -> list[pathlib.Path]:
  """Returns what was out of date, and renews it if `write`."""
  suites = {name: load(place, name) for name in names_in(place.page)}
  stale = []
  for suite in filter(None, suites.values()):
    old = stale_figures(place, suite)
    if redraw_all:
      old = [place.images / name for name in suite.figures]
    if write:
      redraw(suite, old)
    stale += old
  text = render(place, suites)
  if text != place.page.read_text(encoding="utf-8"):
    stale.append(place.page)
    if write:
      place.page.write_text(text, encoding="utf-8")
  return stale


if __name__ == "__main__":
  sys.exit(commands.guard(main))
