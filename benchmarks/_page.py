"""Puts tables into docs/benchmarks.md, between a benchmark's own markers."""

from __future__ import annotations

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def write(marker: str, text: str) -> None:
  """Replaces what stands between the page's markers."""
  page = PAGE.read_text()
  start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
  pattern = re.escape(start) + ".*?" + re.escape(end)
  if not re.search(pattern, page, re.DOTALL):
    raise SystemExit(f"{PAGE} has no {start} ... {end}")
  body = f"{start}\n{text}\n{end}"
  PAGE.write_text(re.sub(pattern, lambda _: body, page, flags=re.DOTALL))
