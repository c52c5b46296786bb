"""Pages of the guide as the site needs them, with nothing added to the files themselves.

The table of contents follows docs/README.md; the map of docs/architecture.md is drawn as SVG; code
that names something of the reference links to it; the first page is index.html too.
"""

import html
import pathlib
import re
import shutil
import urllib.parse

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
DOCS = pathlib.Path(__file__).resolve().parent.parent
WIDTH, GAP, ROOM, BAND = 760, 10, 34, 150  # of the map, in pixels


def contents():
  """The tables of contents of the first page."""
  listed = re.findall(r"^- \[(\w+)\.md\]", (DOCS / "README.md").read_text(), flags=re.MULTILINE)
  parts = {
    "Guide": [f"docs/{name}" for name in listed],
    "Reference": ["docs/api/index"],
    "Project": ["All pages, notebooks <docs/README>", "CONTRIBUTING", "CHANGELOG"],
  }
  return "\n".join(
    f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n" + "\n".join(names) + "\n```"
    for caption, names in parts.items()
  )


def drawn(match):
  """The map as SVG: a row for each ring, an arrow for each import."""
  rings = [
    (title, body.split())
    for title, body in re.findall(r'subgraph "(.*?)"\n(.*?)\n\s*end', match[1], re.DOTALL)
  ]
  boxes, places, style = [], {}, []
  for i, (title, names) in enumerate(reversed(rings)):
    top, step = i * BAND + 78, (WIDTH - GAP) / len(names)
    boxes.append(f'<rect class="ring" y="{top - 68}" width="{WIDTH}" height="{BAND - 20}" rx="8"/>')
    boxes.append(f'<text class="title" x="{GAP}" y="{top - 50}">{html.escape(title)}</text>')
    for j, name in enumerate(names):
      places[name] = (round((j + 0.5) * step + GAP / 2), top, round(step - GAP))
  arrows = []
  for of, to in re.findall(r"(\w+) --> (\w+)", match[1]):
    (x1, y1, _), (x2, y2, _) = places[of], places[to]
    if y1 == y2:  # an arc over the rooms between
      x1, x2 = x1 - 8, x2 + 8
      rise = y1 - 12 - round(24 * min(1, 1.6 * abs(x1 - x2) / WIDTH))
      bend = f"{x1} {rise} {x2} {rise}"
    else:
      y1 += ROOM
      bend = f"{x1} {(y1 + y2) // 2} {x2} {(y1 + y2) // 2}"
    line = f"M{x1} {y1} C{bend} {x2} {y2}"
    arrows.append(f'<path class="of-{of} of-{to}" d="{line}" marker-end="url(#arrow)"/>')
  for name, (x, y, width) in places.items():
    boxes.append(
      f'<a class="room-{name}" href="api/jaxdml.{name}.html"><rect class="room" '
      f'x="{x - width // 2}" y="{y}" width="{width}" height="{ROOM}" rx="5"/>'
      f'<text x="{x}" y="{y + 22}" text-anchor="middle">{name}</text></a>'
    )
    lit = f".map:has(.room-{name}:is(:hover, :focus))"  # the others' arrows fade
    style.append(f"{lit} path:not(.of-{name}) {{ opacity: .06 }}")
  count = 2 * len(rings)  # the rings lie under the arrows, the rooms over them
  return f"""<div class="map"><svg viewBox="0 0 {WIDTH} {BAND * len(rings)}" role="img"
aria-label="rooms and their imports"><style>{" ".join(style)}</style><defs><marker id="arrow"
viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path
d="M0 0L8 4L0 8z"/></marker></defs>{"".join([*boxes[:count], *arrows, *boxes[count:]])}</svg></div>

An arrow is an import. Point at a room for its own; it links to the reference.
"""


def read(app, name, source):
  """Sphinx's hook: changes the text of a page on its way."""
  if name == "README":
    source[0] += contents()
  # A folder has a page on a code host, not here.
  source[0] = re.sub(r"\[([^\]]+)\]\((?!http)[\w./-]+/\)", r"`\1`", source[0])
  source[0] = source[0].replace("](../jaxdml/training/defaults.py)", "](api/config.md)")
  source[0] = re.sub(r"```mermaid\n(.*?)\n```", drawn, source[0], flags=re.DOTALL)


def keep(app, tree):
  """Sphinx's hook: what another host would have to be asked for, a badge, is its text here."""
  for image in list(tree.findall(nodes.image)):
    if "://" in image["uri"]:
      image.replace_self(nodes.Text(image.get("alt") or image["uri"]))


def link(app, tree, name):
  """Sphinx's hook: inline code that names something of the reference becomes a link to it."""
  if name.startswith("docs/api/"):
    return
  known = app.env.get_domain("py").objects
  for node in list(tree.findall(nodes.literal)):
    text = node.astext().partition("(")[0]
    tried = [f"jaxdml.{text}"] if "." in text else []
    if name == "docs/losses" and re.fullmatch(r"\w+", text):
      tried = [f"jaxdml.losses.{text}_loss", f"jaxdml.mining.{text}", f"jaxdml.distances.{text}"]
    found = next((full for full in tried if full in known), None)
    if found is None or isinstance(node.parent, nodes.reference):
      continue
    entry = known[found]
    uri = app.builder.get_relative_uri(name, entry.docname) + "#" + entry.node_id
    node.replace_self(nodes.reference("", "", node.deepcopy(), refuri=uri, internal=True))


def finish(app, error):
  """Sphinx's hook: makes index.html, which servers and people look for, and follows all links."""
  if error is not None or app.builder.format != "html":
    return
  shutil.copy(app.outdir / "README.html", app.outdir / "index.html")
  for page, target in dead_links(app.outdir):
    LOGGER.warning("dead link in %s: %s", page, target, type="link")


def dead_links(folder):
  """(page, link) of each link inside the site that leads to no file, or to no place in it."""
  texts = {path: path.read_text() for path in folder.rglob("*.html")}
  places = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
  for path, text in texts.items():
    for target in sorted(set(re.findall(r'<[a-z]+ [^>]*?\b(?:href|src)="([^"]+)"', text))):
      parts = urllib.parse.urlsplit(html.unescape(target))
      if parts.scheme or parts.netloc:
        continue
      file = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
      known = places.get(file)
      if not file.is_file() or (
        known is not None and parts.fragment and urllib.parse.unquote(parts.fragment) not in known
      ):
        yield path.relative_to(folder), target


def setup(app):
  """Connects to Sphinx."""
  app.add_lexer("csv", TextLexer)  # GitHub knows it
  app.connect("source-read", read)
  app.connect("doctree-read", keep)
  app.connect("doctree-resolved", link)
  app.connect("build-finished", finish)
  return {"parallel_read_safe": True}
