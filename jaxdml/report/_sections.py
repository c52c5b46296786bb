"""The sections of a report as HTML; all that comes from data goes through `text`, never as code."""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdml import _files
from jaxdml.evaluation import describe_metric
from jaxdml.report import _figures
from jaxdml.report._analysis import Projection, Similarities

GALLERY_NOTE = (
  "<p>The image asked about comes first. A solid frame with ✓ has its class; a dashed frame with "
  "✗, dimmed, has another. One without a frame has another, too, but comes after as many as there "
  "are to find. Point at an image for its label and where it comes from.</p>"
)
_CARDS = 4
_GROUPS = {"metrics": "Curves", "loss": "Loss", "dials": "HDML's dials",
           "training": "Training", "diagnostics": "Class collapse"}  # fmt: skip


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
  dumped = _files.dump_json(value)
  for character in "<>&":
    dumped = dumped.replace(character, f"\\u{ord(character):04x}")
  return f'<script type="application/json" id="{text(element_id)}">{dumped}</script>'


def csp_hash(script: str) -> str:
  """The name of an inline script that may run, in a Content-Security-Policy."""
  return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def data_uri(content: bytes, kind: str) -> str:
  """Bytes as an address that needs no request."""
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float | None) -> str:
  """A number for people: three decimals up to 10, then four digits.

  >>> [number(x) for x in (0.65432, 1.0, 89.8663, 522.81, 0.001, 1234567.0, 42, None)]
  ['0.654', '1.000', '89.87', '522.8', '0.001', '1.235e+06', '42', '-']
  """
  if value is None:
    return "-"
  if isinstance(value, int) or (abs(value) >= 100 and value == int(value) and abs(value) < 1e6):
    return f"{int(value)}"
  if value == 0 or 1e-2 <= abs(value) < 1e4:
    return f"{value:.{_decimals(value)}f}"
  return f"{value:.4g}"


def _decimals(value: float) -> int:
  return 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1


def even(values: Sequence[float | None]) -> list[str]:
  """Numbers that stand together, with as many decimals as the largest of them takes.

  >>> even([441.2013, 97.754, None]), even([0.69, 1.137]), even([0.001, 0.5])
  (['441.2', '97.8', '-'], ['0.690', '1.137'], ['0.001', '0.500'])
  """
  largest = max((abs(v) for v in values if v is not None and np.isfinite(v)), default=0.0)
  if not 0.01 <= largest < 1e4:
    return [number(v) for v in values]
  return ["-" if v is None else f"{v:.{_decimals(largest)}f}" for v in values]


def table(
  caption: str, header: Sequence[str], rows: Mapping[str, Sequence[float | None]], *, best: bool
) -> str:
  """A table of numbers, a line a model; `best` puts a star to the largest of each column.

  Numbers of one metric have the same decimals: a column's where models are lines, else a line's.
  """
  columns = list(zip(*rows.values(), strict=True))
  lines_of = list(zip(*map(even, columns), strict=True)) if best else map(even, rows.values())
  tops = [max((v for v in column if v is not None), default=None) for column in columns]
  cells = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
  lines = []
  for (name, values), said in zip(rows.items(), lines_of, strict=True):
    line = f'<th scope="row">{text(name)}</th>'
    for value, shown, top in zip(values, said, tops, strict=True):
      first = best and len(rows) > 1 and value is not None and value == top
      line += f'<td class="best">{shown}</td>' if first else f"<td>{shown}</td>"
    lines.append(f"<tr>{line}</tr>")
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
    f"<caption><span>{text(caption)}</span></caption><thead><tr><td></td>{cells}</tr></thead>"
    f"<tbody>{''.join(lines)}</tbody></table></div>"
  )


def _label(metric: str) -> str:
  return describe_metric(metric).label


class Curve(NamedTuple):
  """A metric over training."""

  group: str  # "metrics", "loss", "dials", "training" or "diagnostics": the section
  name: str
  steps: np.ndarray  # [t]
  values: np.ndarray  # [t]
  floor: float | None = None  # what it should beat, if known
  floor_name: str = ""  # whose that is
  of: str = ""  # the split it was measured on, if any
  note: str = ""  # what good values are, and what to do about others


class Setting(NamedTuple):
  """One key of the run's config, its value, and the default."""

  key: str
  value: Any
  default: Any


def header(
  title: str, about: str, notices: Sequence[str], metrics: Mapping[str, Mapping[str, float]],
  what: str,
) -> str:  # fmt: skip
  """Heading, the result in a line, and the main metrics as cards, beside the floors."""
  *floors, model = metrics
  keys = list(filter(_is_score, metrics[model]))
  preferred = ("recall@1", "map@r", "r_precision", "nmi", "recall@8", "f1")
  main = [key for key in preferred if key in keys][:_CARDS]
  cards = []
  for key in main:
    below = "".join(
      f"<span>{text(floor)} {number(metrics[floor][key])}</span>"
      for floor in floors
      if key in metrics[floor]
    )
    cards.append(
      f'<div class="card">{text(_label(key))}<b>{number(metrics[model][key])}</b>'
      f"{below or f'<span>{text(model)}</span>'}</div>"
    )
  said = ", ".join(f"{_label(key)} {number(metrics[model][key])}" for key in main[:2])
  lead = f"{text(said)} on {text(what)}." if said else f"{text(what)}."
  return (
    f'<header>{f"""<p class="over">{text(about)}</p>""" if about else ""}<h1>{text(title)}</h1>'
    f'<p class="lead">{lead}</p>'
    + "".join(f'<p class="notice">{text(notice)}</p>' for notice in notices)
    + f'<div class="cards">{"".join(cards)}</div></header>'
  )


def _is_score(key: str) -> bool:
  return not key.startswith("num_") and "/" not in key


def _meanings(keys: Sequence[str]) -> str:
  known = {metric.family: metric.meaning for metric in map(describe_metric, keys) if metric.meaning}
  lines = "".join(f"<dt>{text(name)}</dt><dd>{text(said)}</dd>" for name, said in known.items())
  return f"<details><summary>What these mean</summary><dl>{lines}</dl></details>"


def metrics(rows: Mapping[str, Mapping[str, float]]) -> str:
  """The table of all models, and what its columns mean."""
  present = {key for row in rows.values() for key in row}
  order = lambda metric: describe_metric(metric).order
  keys = sorted(filter(_is_score, present), key=order)
  counts = list(rows.values())[-1]
  said = []
  if "num_queries" in counts:
    said.append(f"{int(counts['num_queries']):,} queries")
  if counts.get("num_without_match"):
    said.append(f"{int(counts['num_without_match']):,} without a match left out")
  if counts.get("num_undecodable"):
    said.append(f"{int(counts['num_undecodable']):,} images that cannot be decoded left out")
  caption = "; ".join(said) or "Higher is better"
  by_class = sorted((key for key in present if key.startswith("macro/")), key=order)
  plain = lambda key: key.removeprefix("macro/")
  if all(
    number(row.get(k)) == number(row.get(plain(k))) for row in rows.values() for k in by_class
  ):
    by_class = []  # Classes of one size: the same numbers again.
  html = _of(f"{caption}. ★ marks the best.", rows, keys)
  if by_class:
    html += _of("Each class counts alike, however many images it has", rows, by_class)
  if len(rows) > 1:
    html = ("<p>Raw pixels, and the model before training, are floors: what any training has to "
            f"beat.</p>{html}")  # fmt: skip
  return html + _meanings([*keys, *by_class])


def _of(caption: str, rows: Mapping[str, Mapping[str, float]], keys: Sequence[str]) -> str:
  values = {name: [row.get(key) for key in keys] for name, row in rows.items()}
  return table(caption, [_label(key) for key in keys], values, best=True)


def collapse(rows: Mapping[str, Mapping[str, float]]) -> str:
  """The diagnostics of class collapse of all models; empty if there are none."""
  keys = list(dict.fromkeys(k for row in rows.values() for k in row if k.startswith("collapse/")))
  if not keys:
    return ""
  kept = {name: row for name, row in rows.items() if any(key in row for key in keys)}
  # Metrics as lines: there are more of them than models.
  lines = {_label(key): [row.get(key) for row in kept.values()] for key in keys}
  caption = "None of these is better high or low by itself"
  said = "<p>Whether classes shrank to points, and what is left of finer classes inside them.</p>"
  return said + table(caption, list(kept), lines, best=False) + _meanings(keys)


def map_controls(projection: Projection, n: int, classes: int) -> str:
  """The map's place, its controls, and what it shows."""
  count = len(projection.rows)
  some = f"{count:,} of {n:,} images, drawn at random" if count < n else f"All {n:,} images"
  shares = projection.explained
  layouts = [("tsne", "t-SNE")] if projection.tsne is not None else []
  buttons = "".join(
    f'<button type="button" data-layout="{key}" aria-pressed="{str(i == 0).lower()}">{name}'
    "</button>"
    for i, (key, name) in enumerate([*layouts, ("pca", "PCA")])
  )
  return f"""<p>{text(some)}, of {classes:,} classes. Point at one to see it and its class;
drag to move, turn the wheel with Ctrl to zoom. t-SNE keeps neighbours together, and its distances
across the map mean little; PCA's two axes hold {shares.sum():.0%} of the variance.</p>
<div class="controls"><span role="group" aria-label="Layout">{buttons}</span>
<label>Colour by <select id="colour-by"></select></label>
<label>Show class <select id="highlight"><option value="">all</option></select></label>
<span role="group" aria-label="Zoom"><button type="button" data-zoom="0.6" aria-label="Zoom in">+
</button><button type="button" data-zoom="1.6667" aria-label="Zoom out">−</button>
<button type="button" data-zoom="reset">Reset</button></span></div>
<div id="map-plot" class="plot" role="img"
aria-label="Map of {count} images; neighbours in it are shown as galleries above"></div>
<div id="legend" class="legend" aria-label="Legend"></div>"""


def pairs(measured: Similarities, n: int) -> str:
  """Similarities of positive and negative pairs: the figure's place and what it shows."""
  which = "all pairs"
  if measured.anchors < n:
    which = f"the pairs of {measured.anchors:,} images, drawn at random, with all others"
  said = (
    f"Cosine similarity of {which}: {measured.positive_pairs:,} of one class (hatched, blue) and "
    f"{measured.negative_pairs:,} of two (plain, grey). They overlap by {measured.overlap:.1%} of "
    f"their area; a pair of one class is the more similar with a chance of {measured.auc:.1%} "
    "(ROC AUC; 50% is guessing)."
  )
  return (
    f'<p>{text(said)}</p><figure class="wide"><div id="pairs-plot" class="plot" role="img" '
    f'aria-label="{text(said)}"></div></figure>'
  )


def grouped(all_curves: Sequence[Curve]) -> list[tuple[str, str, list[Curve]]]:
  """The groups that have curves: name, heading, curves."""
  found = [(anchor, [c for c in all_curves if c.group == anchor]) for anchor in _GROUPS]
  return [(anchor, _GROUPS[anchor], group) for anchor, group in found if group]


def curves(anchor: str, group: Sequence[Curve], note: str = "") -> tuple[str, dict[str, Any]]:
  """Small figures with the last value each: HTML, and the figures by the id of their place."""
  parts, plots = [], {}
  for place, one in enumerate(group):
    finite = np.isfinite(one.values)
    steps, values = one.steps[finite], one.values[finite]
    if not len(steps):
      continue
    target = f"{anchor}-{place}"
    plots[target] = _figures.curve(steps, values, one.floor)
    said = (
      f"{one.name} over training steps: {number(float(values[0]))} at step {int(steps[0])}, "
      f"{number(float(values[-1]))} at step {int(steps[-1])}"
    )
    dash = ""
    if one.floor is not None:
      dash = f'<span class="dash">┄ {text(one.floor_name)} {number(one.floor)}</span>'
    if one.note:
      dash += f'<span class="note">{text(one.note)}</span>'
    parts.append(
      f'<figure><figcaption><b>{text(one.name)}</b><span title="at the last step shown">'
      f"{number(float(values[-1]))}</span>{dash}</figcaption>"
      f'<div id="{target}" class="plot" role="img" aria-label="{text(said)}"></div></figure>'
    )
  of = max(_figures.thinned(c.steps, c.values)[2] for c in group)
  points = f", each point the mean of up to {of} that were logged" if of > 1 else ""
  splits = ", ".join(dict.fromkeys(c.of for c in group if c.of))
  measured = f" on {splits}" if splits else ""
  return (
    f"<p>Over training steps{text(measured)}{points}; the last value stands at the right."
    f"{text(note and ' ' + note)}</p>"
    f'<div class="curves">{"".join(parts)}</div>',
    plots,
  )


def next_steps(steps: Sequence[tuple[str, str]]) -> str:
  """The section on what to do with the model: a sentence and a command each."""
  return "".join(f"<p>{text(said)}</p><pre><code>{text(command)}</code></pre>"
                 for said, command in steps)  # fmt: skip


def settings(keys: Sequence[Setting], facts: Mapping[str, str]) -> str:
  """The origin of the page, and the config: first what differs from the defaults."""
  lines = "".join(f"<dt>{text(k)}</dt><dd>{_fact(v)}</dd>" for k, v in facts.items())
  html = f"<dl>{lines}</dl>"
  if not keys:
    return html
  changed = [one for one in keys if one.value != one.default]
  if changed:
    html += "<h3>Config: what differs from the defaults</h3>" + _keys(changed, default=True)
  whole = f"<details><summary>The whole config, {len(keys)} keys</summary>"
  return f"{html}{whole}{_keys(keys, default=False)}</details>"


def _fact(value: str) -> str:
  """One line as it is; of several the first, the others at a click."""
  first, *others = value.split("\n")
  if not others:
    return text(first)
  lines = "".join(f"<p>{text(line)}</p>" for line in others)
  return f"<details><summary>{text(first)}</summary>{lines}</details>"


def _keys(keys: Sequence[Setting], *, default: bool) -> str:
  head = '<th scope="col">key</th><th scope="col">value</th>'
  head += '<th scope="col">default</th>' if default else ""
  lines = "".join(
    f'<tr><th scope="row"><code>{text(one.key)}</code></th><td><code>{text(repr(one.value))}</code>'
    f"</td>{f'<td><code>{text(repr(one.default))}</code></td>' if default else ''}</tr>"
    for one in keys
  )
  return (
    '<div class="scroll" tabindex="0" role="region" aria-label="Config"><table class="keys"><thead>'
    f"<tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
  )
