"""Results as one self-contained file: an HTML page, or a picture."""

from __future__ import annotations

import base64
import html
import os
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from jaxdml import _files, drawing
from jaxdml.search.errors import SearchError
from jaxdml.search.results import Hit, Result, encode, thumbnail

__all__ = ["check_out", "draw", "to_html", "write_page"]

_SUFFIXES = (".html", ".htm", ".png")
_SIDE = 240  # pixels; sharp on phones, and about 10 kB a photo

_STYLE = """
:root { color-scheme: light; --ink: #333; --faint: #666; --line: #ddd; --own: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: #fff; color: var(--ink);
  font: 16px/1.4 "DejaVu Sans", system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
h2 { font-size: 1rem; margin: 0; }
p { margin: 0 0 1rem; color: var(--faint); font-size: .9rem; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
header { display: flex; gap: 1rem; align-items: center; margin-bottom: .8rem; }
header .frame { width: 7.5rem; flex: none; border: 2px solid var(--ink); }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); }
li { font-size: .8rem; border: 1px solid var(--line); border-radius: 4px; padding: .4rem; }
li.own { border-color: var(--own); box-shadow: inset 0 0 0 1px var(--own); }
.frame { aspect-ratio: 1; background: #f4f4f4; display: flex; align-items: center;
  justify-content: center; overflow: hidden; }
.frame img { width: 100%; height: 100%; object-fit: contain; }
.frame img.small { image-rendering: pixelated; }
.frame span { color: var(--faint); font-size: .8rem; text-align: center; }
.row { display: flex; justify-content: space-between; margin-top: .3rem; color: var(--faint); }
.row b { color: var(--ink); }
.own-note { color: var(--own); font-weight: bold; }
.path { color: var(--faint); }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{note}</p>
{sections}
</body>
</html>
"""


def check_out(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns where results go, before the work for them begins.

  Raises:
    SearchError: neither a page nor a picture by its suffix, or a folder.
  """
  out = pathlib.Path(path).expanduser()
  if out.suffix.lower() not in _SUFFIXES:
    raise SearchError(
      f"--out={out}: expected a name that ends in .html (a page) or .png (a picture), got "
      f"{out.suffix or 'no suffix'}"
    )
  if out.is_dir():
    raise SearchError(f"--out={out} is a folder; expected the name of a file in it")
  return out


def write_page(
  path: str | os.PathLike[str], results: Sequence[Result], *, title: str, note: str = ""
) -> pathlib.Path:
  """Writes results as a page (.html) or a picture (.png), whole or not at all.

  The page holds its thumbnails and asks for nothing outside; names and labels are escaped.

  Args:
    path: of the file.
    results: of `collect`, or made by hand.
    title: over them.
    note: under the title: what was searched, and how.

  Raises:
    SearchError: an unknown suffix.
    OSError: it cannot be written.
  """
  out = check_out(path)
  with _files.replacing(out) as temporary:
    if out.suffix.lower() == ".png":
      draw(results, title=title, note=note).savefig(temporary, format="png")
    else:
      temporary.write_text(to_html(results, title=title, note=note), encoding="utf-8")
  return out


def draw(results: Sequence[Result], *, title: str, note: str = "") -> Figure:
  """Draws each query and what was found for it, with similarity, label and file name.

  The query itself has a blue frame among its hits.

  Args:
    results: at least one.
    title: over the picture.
    note: under it.

  Raises:
    ValueError: no results.
  """
  if not results:
    raise ValueError("results: expected at least one, got none")
  lines = [
    [
      [_cell(query.image, ("query", _file_name(query.path)), "#333333")],
      [
        _cell(
          hit.image,
          (
            "no label" if hit.label is None else hit.label,
            f"{hit.similarity:.3f}  {'the query itself' if hit.itself else _file_name(hit.path)}",
          ),
          "#1f5fa8" if hit.itself else None,
        )
        for hit in hits
      ],
    ]
    for query, hits in results
  ]
  return drawing.draw_neighbours(lines, title=title, note=note)


def _cell(encoded: bytes | None, captions: tuple[str, ...], frame: str | None) -> drawing.Cell:
  image = thumbnail(encoded, _SIDE)
  return drawing.Cell(image, frame, captions=captions)


def _file_name(path: str) -> str:
  return path.rpartition("/")[2]


def to_html(results: Sequence[Result], *, title: str, note: str = "") -> str:
  """The page of `write_page`, as text.

  >>> from jaxdml.search.results import Query
  >>> page = to_html([Result(Query("q.png", b""), ())], title="<b>")
  >>> "<h1>&lt;b&gt;</h1>" in page
  True
  """
  return _PAGE.format(
    title=_escape(title),
    note=_escape(note),
    style=_STYLE,
    sections="\n".join(map(_section, results)),
  )


def _section(result: Result) -> str:
  query, hits = result
  found = f"{len(hits)} nearest" if hits else "nothing found"
  return (
    f"<section><header>{_frame(query.image, 'the query')}"
    f'<h2>{_escape(query.path)}<br><span class="path">{found}</span></h2></header>\n'
    f"<ol>\n{''.join(map(_card, hits))}</ol></section>"
  )


def _card(hit: Hit) -> str:
  label = "no label" if hit.label is None else hit.label
  own = '<div class="own-note">the query itself</div>' if hit.itself else ""
  return (
    f"<li{' class=own' if hit.itself else ''}>{_frame(hit.image, label)}"
    f'<div class="row"><span>{hit.rank}.</span><span>{hit.similarity:.3f}</span></div>{own}'
    f"<b>{_escape(label)}</b>"
    f'<div class="path">{_escape(hit.path)}</div></li>\n'
  )


def _frame(encoded: bytes | None, alt: str) -> str:
  image = thumbnail(encoded, _SIDE)
  if image is None:
    return '<div class="frame"><span>image not there</span></div>'
  kind, content = encode(image)
  small = " class=small" if max(image.shape[:2]) <= 96 else ""
  source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
  return f'<div class="frame"><img{small} src="{source}" alt="{_escape(alt)}"></div>'


def _escape(text: str) -> str:
  """Text for HTML, in an attribute too; lone surrogates, which UTF-8 cannot hold, as escapes."""
  return html.escape(text.encode("utf-8", "backslashreplace").decode(), quote=True)
