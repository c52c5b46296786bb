"""Puts tables into docs/benchmarks.md or another page, between a benchmark's own markers."""

from __future__ import annotations

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def read(marker: str, path: pathlib.Path = PAGE) -> list[str]:
  """Returns the lines between a page's markers."""
  start, end = f"<!-- {marker} -->\n", f"\n<!-- /{marker} -->"
  found = re.search(re.escape(start) + "(.*?)" + re.escape(end), path.read_text(), re.DOTALL)
  return found.group(1).split("\n") if found else []


def write(marker: str, text: str, path: pathlib.Path = PAGE) -> None:
  """Replaces what stands between a page's markers."""
  page = path.read_text()
  start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
  pattern = re.escape(start) + ".*?" + re.escape(end)
  if not re.search(pattern, page, re.DOTALL):
    raise SystemExit(f"{path} has no {start} ... {end}")
  body = f"{start}\n{text}\n{end}"
  path.write_text(re.sub(pattern, lambda _: body, page, flags=re.DOTALL))
