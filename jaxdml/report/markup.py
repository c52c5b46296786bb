"""Text from data into HTML and into JSON inside a script element, never as code."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdml import _files

__all__ = ["csp_hash", "data_uri", "json_script", "number", "table", "text"]


def text(value: Any) -> str:
  """Escapes anything for an HTML text or a quoted attribute.

  >>> text('<b> & "quotes"')
  '&lt;b&gt; &amp; &quot;quotes&quot;'
  """
  return html.escape(str(value), quote=True)


def json_script(element_id: str, value: Any) -> str:
  """A script element that holds `value` as JSON; nothing in it can end the element.

  >>> json_script("x", ["</script><!--", float("nan")])
  '<script type="application/json" id="x">["\\\\u003c/script\\\\u003e\\\\u003c!--",null]</script>'
  """
  dumped = _files.dump_json(value, strict=True)
  for character in "<>&":
    dumped = dumped.replace(character, f"\\u{ord(character):04x}")
  return f'<script type="application/json" id="{text(element_id)}">{dumped}</script>'


def csp_hash(script: str) -> str:
  """How a Content-Security-Policy names an inline script that may run."""
  return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def data_uri(content: bytes, kind: str) -> str:
  """Bytes as an address that needs no request."""
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float | None) -> str:
  """A metric for people: three decimals, or four digits where those would hide it.

  >>> [number(x) for x in (0.65432, 1234567.0, 0.000123, 42, None)]
  ['0.654', '1.235e+06', '0.000123', '42', '-']
  """
  if value is None:
    return "-"
  if isinstance(value, int) or (abs(value) >= 100 and value == int(value) and abs(value) < 1e6):
    return f"{int(value)}"
  return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 100 else f"{value:.4g}"


def table(
  caption: str, header: Sequence[str], rows: Mapping[str, Sequence[float | None]], *, best: bool
) -> str:
  """A table of numbers, a line a model; `best` marks the largest of each column.

  Args:
    caption: over it.
    header: names of the columns.
    rows: name -> its numbers; None is shown as "-".
    best: the largest of a column is bold and carries a star.
  """
  columns = list(zip(*rows.values(), strict=True))
  tops = [max((v for v in column if v is not None), default=None) for column in columns]
  cells = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
  lines = []
  for name, values in rows.items():
    line = f'<th scope="row">{text(name)}</th>'
    for value, top in zip(values, tops, strict=True):
      first = best and len(rows) > 1 and value is not None and value == top
      line += f'<td class="best">{number(value)}</td>' if first else f"<td>{number(value)}</td>"
    lines.append(f"<tr>{line}</tr>")
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
    f"<caption>{text(caption)}</caption><thead><tr><td></td>{cells}</tr></thead>"
    f"<tbody>{''.join(lines)}</tbody></table></div>"
  )
