"""One HTML file about embeddings: `build(embeddings, labels, images)`."""

import datetime
import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.embed import json_item
from tqdm import tqdm

from jaxdml import evaluation
from jaxdml._text import bar_options
from jaxdml.evaluation import _checks as checks
from jaxdml.report import _analysis, _classes, _figures, _galleries, _sections
from jaxdml.report._sections import Curve, Setting, csp_hash, json_script, text
from jaxdml.types import DistanceFn

# MAP@R of a class looks at as many neighbours as there are to find, and at no more than these.
_MOST_NEIGHBOURS = 100


class Page(str):
  """A page as `build` makes it: the document, and its tables as CSV by name."""

  tables: Mapping[str, str] = {}


def build(
  embeddings: Any, labels: Any, images: Any | Callable[[np.ndarray], Any], *,
  title: str = "Embeddings", about: str = "", notices: Sequence[str] = (),
  names: Mapping[Any, str] | Sequence[str] | None = None, label_name: str = "label",
  columns: Mapping[str, Sequence[Any]] | None = None, record: Callable[[int], str] | None = None,
  gallery: Any = None, metrics: Mapping[str, Mapping[str, float]] | None = None,
  distance_fn: DistanceFn | None = None, curves: Sequence[Curve] = (),
  curves_note: str = "", next_steps: Sequence[tuple[str, str]] = (),
  settings: Sequence[Setting] = (), facts: Mapping[str, str] | None = None,
  queries: int = 8, k: int = 8, max_points: int = 2000, seed: int = 0, progress: bool = True,
) -> Page:  # fmt: skip
  """Makes a page that shows what embeddings hold: one self-contained HTML document.

  Metrics, galleries of nearest neighbours, the classes one by one, a map to zoom and hover,
  similarities of pairs, class collapse, and what else is given. The page asks nothing of the
  network, and text from data is escaped.

  Args:
    embeddings: [n, d]; scaled to unit norm here.
    labels: [n] of any type that compares: what counts as a match.
    images: uint8 or float [n, h, w], [n, h, w, 1] or [n, h, w, 3] (RGB), or a function that returns
      such uint8 images for rows [m].
    title: the heading.
    about: a line over it.
    notices: sentences shown first.
    names: label -> its name; by default the label itself.
    label_name: what the labels are.
    columns: other labels by name, [n] each, to colour the map by.
    record: row -> its file or record; by default "row 7".
    gallery: [n] bool; queries are the other rows, ranked in these. By default all among themselves.
    metrics: model -> metrics, the model of `embeddings` last; by default measured here.
    distance_fn: ranks neighbours, in place of cosine similarity.
    curves: metrics over training.
    curves_note: what to know about the split that they were measured on.
    next_steps: sentences, each with a command.
    settings: of the run.
    facts: name -> what the page should say about how it came to be.
    queries: lines of each gallery.
    k: neighbours of each query.
    max_points: on the map.
    seed: of what is drawn at random.
    progress: show a progress bar.

  Returns:
    The document, a str; `write` puts its `tables`, all classes and their confusions, beside it.

  Raises:
    ValueError: shapes that do not fit together, NaN, a number that is not positive.
  """
  whole = checks.as_embeddings("embeddings", embeddings)
  x = checks.normalized(whole)
  ranked = x if distance_fn is None else whole
  n = len(x)
  if n < 2:
    raise ValueError(f"embeddings: expected at least 2 rows, got {n}")
  labels = checks.as_column("labels", labels, n, "embeddings")
  others = {
    name: checks.as_column(f"columns[{name!r}]", values, n, "embeddings")
    for name, values in (columns or {}).items()
  }
  queries, k, max_points = (
    checks.as_positive(name, value)
    for name, value in (("queries", queries), ("k", k), ("max_points", max_points))
  )
  stored = None if gallery is None else checks.as_column("gallery", gallery, n, "embeddings") > 0
  if stored is not None and (stored.all() or not stored.any()):
    raise ValueError("gallery: expected some rows in it and some queries; got all or none")
  pictures = _galleries.Pictures(images, n)
  call = functools.partial(_name, names)
  record = record or (lambda row: f"row {row}")

  bars = bar_options() if progress else {"disable": True}
  with tqdm(total=5, desc="report", unit="part", **bars) as bar:

    def done(part: str) -> None:
      bar.set_postfix_str(part)
      bar.update()

    if metrics is None:
      metrics = {"embeddings": _measure(ranked, labels, stored, distance_fn)}
    done("metrics")
    near = _neighbours(ranked, labels, stored, distance_fn, k)
    shown = _galleries.galleries(near, labels, count=queries, k=k, seed=seed)
    by_class = _classes.measure(near, labels)
    needed = {row for gallery in shown for line in gallery.lines for row in (line.row, *line.found)}
    uris = _galleries.singles(pictures, np.array(sorted(needed | _classes.shown_rows(by_class))))
    done("galleries")
    projection = _analysis.project(x, max_points=max(2, max_points), seed=seed)
    done("map")
    sheets = _galleries.sheets(pictures, projection.rows)
    done("images")
    pairs = _analysis.pair_similarities(x, labels, seed=seed)
    done("similarities")

  all_columns = {label_name: [call(v) for v in labels.tolist()]}
  all_columns |= {name: [str(v) for v in values.tolist()] for name, values in others.items()}
  classes = len(np.unique(labels))
  items = {"map-plot": _figures.scatter(projection)}
  named = lambda row: call(labels[row].item())
  galleries = _sections.GALLERY_NOTE + _galleries.html(shown, labels, uris, named, record)
  class_html, plots = _classes.section(by_class, call, uris, record)
  items |= plots
  parts = [  # of each section its anchor, its heading, its HTML
    ("metrics", "Metrics", _sections.metrics(metrics)),
    ("neighbours", "Nearest neighbours", galleries),
    ("classes", "Classes", class_html),
    ("map", "Map", _sections.map_controls(projection, n, classes)),
  ]
  if pairs is not None:
    items["pairs-plot"] = _figures.histogram(pairs)
    parts.append(("pairs", "Similarities", _sections.pairs(pairs, n)))
  collapse = _sections.collapse(metrics)
  for group, heading, drawn in _sections.grouped(curves):
    note = curves_note if group == "metrics" else ""
    html, plots = _sections.curves(f"{group}-curves", drawn, note)
    items |= plots
    if group == "diagnostics":
      collapse += html
    else:
      parts.append((group + "-curves", heading, html))
  if collapse:
    parts.append(("collapse", "Class collapse", collapse))
  if next_steps:
    parts.append(("next", "What next", _sections.next_steps(next_steps)))
  facts = {"page made": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", **(facts or {})}
  parts.append(("run", "Settings and versions", _sections.settings(settings, facts)))
  data = [
    json_script("map-data", _map_data(projection, sheets, all_columns, record)),
    json_script("figures", list(items)),
    *(json_script(f"{name}-item", json_item(plot, name)) for name, plot in items.items()),
  ]
  header = _sections.header(title, about, notices, metrics, f"{n:,} images of {classes:,} classes")
  page = Page(_document(title, header, parts, data, sheets))
  page.tables = _classes.tables(by_class, call)
  return page


def _name(names: Mapping[Any, str] | Sequence[str] | None, label: Any) -> str:
  if names is None:
    return str(label)
  if isinstance(names, Mapping):
    return str(names.get(label, label))
  return str(names[label]) if 0 <= label < len(names) else str(label)


def _measure(
  x: np.ndarray, labels: np.ndarray, stored: np.ndarray | None, distance_fn: DistanceFn | None
) -> dict[str, float]:
  if stored is None:
    metrics = evaluation.retrieval_metrics(x, labels, distance_fn=distance_fn)
  else:
    metrics = evaluation.retrieval_metrics(
      x[~stored], labels[~stored], gallery=x[stored], gallery_labels=labels[stored],
      distance_fn=distance_fn,
    )  # fmt: skip
  collapse = evaluation.collapse_metrics(x, labels)
  return {**metrics, **{f"collapse/{name}": value for name, value in collapse.items()}}


def _neighbours(
  x: np.ndarray, labels: np.ndarray, stored: np.ndarray | None, distance_fn: DistanceFn | None,
  k: int,
) -> _galleries.Ranked:  # fmt: skip
  """The k nearest, or more: as many as the largest class has, up to a limit."""
  rows = np.arange(len(x))
  asked = candidates = rows
  if stored is not None:
    asked, candidates = rows[~stored], rows[stored]
  most = int(np.unique(labels[candidates], return_counts=True)[1].max())
  k = max(k, min(most, _MOST_NEIGHBOURS))
  nearest = functools.partial(evaluation.nearest_neighbours, distance_fn=distance_fn)
  if stored is None:
    return _galleries.Ranked(asked, candidates, nearest(x, min(k, len(x) - 1)))
  return _galleries.Ranked(asked, candidates, nearest(x[asked], k, gallery=x[candidates]))


def _map_data(
  projection: _analysis.Projection, sheets: _galleries.Sheets,
  columns: Mapping[str, list[str]], record: Callable[[int], str],
) -> dict[str, Any]:  # fmt: skip
  """The points of the map, for the page's script."""
  rows = projection.rows.tolist()
  coded = []
  for name, values in columns.items():
    kept = [values[row] for row in rows]
    distinct = sorted(set(kept))
    places = {value: place for place, value in enumerate(distinct)}
    coded.append({"name": name, "names": distinct, "codes": [places[value] for value in kept]})
  layouts = {"pca": projection.pca, "tsne": projection.tsne}
  return {
    "row": rows, "record": [record(row) for row in rows], "columns": coded,
    "layouts": {
      # Six digits, so that the file stays small.
      name: {axis: [float(f"{v:.6g}") for v in points[:, i]] for i, axis in enumerate("xy")}
      for name, points in layouts.items()
      if points is not None
    },
    "side": sheets.side, "columns_a_sheet": sheets.columns, "per_sheet": sheets.per_sheet,
  }  # fmt: skip


def _document(
  title: str, header: str, parts: Sequence[tuple[str, str, str]], data: Sequence[str],
  sheets: _galleries.Sheets,
) -> str:  # fmt: skip
  """The whole page. Only its own two scripts may run, and nothing may be fetched."""
  folder = importlib.resources.files("jaxdml.report")
  style = (folder / "page.css").read_text()
  style += "".join(
    f"\n.sheet-{i} {{ background-image: url({uri}); }}" for i, uri in enumerate(sheets.uris)
  )
  scripts = [_figures.library(), (folder / "page.js").read_text()]
  policy = (
    f"default-src 'none'; script-src {' '.join(map(csp_hash, scripts))}; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; "
    "form-action 'none'"
  )
  links = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name, _ in parts)
  bodies = "\n".join(
    f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    f'<h2 id="{anchor}-title">{text(name)}</h2>\n{html}</section>'
    for anchor, name, html in parts
  )
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#metrics">Skip to the metrics</a>
{header}
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
<noscript><p class="notice">The map, the curves and sorting need JavaScript; the rest does not.
</p></noscript>
{bodies}
</main>
<div id="card" class="card-hover" role="status"></div>
<footer>Made by jaxdml. One file: it works without a network, and asks nothing of one.</footer>
{chr(10).join(data)}
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""
