"""Pages of results: one self-contained file each, HTML or a picture."""

import base64
import html
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from jaxdml import _files, drawing
from jaxdml.data import ImageDecodeError, augment, decode
from jaxdml.search.index import SearchError
from jaxdml.search.results import Hit, Result

_SUFFIXES = (".html", ".htm", ".png")
_SIDE = 240  # pixels; sharp on phones, and about 10 kB a photo

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f4f4f4; --ink: #333; --faint: #666;
  --line: #ddd; --own: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --panel: #1d2026; --ink: #e9ebef; --faint: #a4a9b4; --line: #363b45;
    --own: #7db3f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem;
  background: var(--ground); color: var(--ink);
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
.frame { aspect-ratio: 1; background: var(--panel); display: flex; align-items: center;
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
    SearchError: neither a page nor a picture by its suffix, or a folder.
    OSError: it cannot be written.
  """
  out = pathlib.Path(path).expanduser()
  if out.suffix.lower() not in _SUFFIXES:
    raise SearchError(
      f"{out}: expected a name that ends in .html (a page) or .png (a picture), got "
      f"{out.suffix or 'no suffix'}"
    )
  if out.is_dir():
    raise SearchError(f"{out} is a folder; expected the name of a file in it")
  with _files.replacing(out) as temporary:
    if out.suffix.lower() == ".png":
      draw(results, title=title, note=note).savefig(temporary, format="png")
    else:
      temporary.write_text(to_html(results, title=title, note=note), encoding="utf-8")
  return out


def draw(results: Sequence[Result], *, title: str, note: str = "") -> Figure:
  """Draws each query and what was found for it, with similarity, label and file name.

  The query itself has a blue frame among its hits. ValueError without results.
  """
  if not results:
    raise ValueError("results: expected at least one, got none")
  lines = []
  for query, hits in results:
    captions = ("query", query.path.rpartition("/")[2])
    first = drawing.Cell(_thumbnail(query.image), "#333333", captions=captions)
    lines.append([[first], [_cell(hit) for hit in hits]])
  return drawing.draw_neighbours(lines, title=title, note=note)


def _cell(hit: Hit) -> drawing.Cell:
  name = "the query itself" if hit.itself else hit.path.rpartition("/")[2]
  captions = (_label(hit), f"{hit.similarity:.3f}  {name}")
  frame = "#1f5fa8" if hit.itself else None
  return drawing.Cell(_thumbnail(hit.image), frame, captions=captions)


def _label(hit: Hit) -> str:
  return "no label" if hit.label is None else hit.label


def to_html(results: Sequence[Result], *, title: str, note: str = "") -> str:
  """Returns the page of `write_page`, as text.

  >>> from jaxdml.search.results import Query
  >>> page = to_html([Result(Query("q.png", b""), ())], title="<b>")
  >>> "<h1>&lt;b&gt;</h1>" in page
  True
  """
  sections = "\n".join(map(_section, results))
  return _PAGE.format(title=_escape(title), note=_escape(note), style=_STYLE, sections=sections)


def _section(result: Result) -> str:
  query, hits = result
  found = f"{len(hits)} nearest" if hits else "nothing found"
  return (
    f"<section><header>{_frame(query.image, 'the query')}"
    f'<h2>{_escape(query.path)}<br><span class="path">{found}</span></h2></header>\n'
    f"<ol>\n{''.join(map(_card, hits))}</ol></section>"
  )


def _card(hit: Hit) -> str:
  own = '<div class="own-note">the query itself</div>' if hit.itself else ""
  return (
    f"<li{' class=own' if hit.itself else ''}>{_frame(hit.image, _label(hit))}"
    f'<div class="row"><span>{hit.rank}.</span><span>{hit.similarity:.3f}</span></div>{own}'
    f"<b>{_escape(_label(hit))}</b>"
    f'<div class="path">{_escape(hit.path)}</div></li>\n'
  )


def _frame(encoded: bytes | None, alt: str) -> str:
  image = _thumbnail(encoded)
  if image is None:
    return '<div class="frame"><span>image not there</span></div>'
  # Small pictures, icons and letters, stay as they are: no losses, and pixels when enlarged.
  small = max(image.shape[:2]) <= 96
  suffix, options = (".png", []) if small else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
  content = cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()
  kind = "image/png" if small else "image/jpeg"
  source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
  style = " class=small" if small else ""
  return f'<div class="frame"><img{style} src="{source}" alt="{_escape(alt)}"></div>'


def _thumbnail(encoded: bytes | None, side: int = _SIDE) -> np.ndarray | None:
  """Decodes an image to fit into a square, never enlarged: uint8 RGB [h, w, 3]; None if it cannot.

  >>> _thumbnail(b"no image") is None
  True
  """
  if encoded is None:
    return None
  try:
    header = decode.probe(encoded)
    ratio = min(side / max(header.height, header.width), 1.0)
    height, width = (max(round(x * ratio), 1) for x in (header.height, header.width))
    image = decode.decode(encoded, 3, min_size=(height, width))
  except ImageDecodeError:
    return None
  return augment.resize(image, height, width)


def _escape(text: str) -> str:
  """Returns text for HTML, attributes too; lone surrogates, which UTF-8 has not, as escapes."""
  return html.escape(text.encode("utf-8", "backslashreplace").decode(), quote=True)
