"""The classes of a report: how each is found, and which are taken for each other; HTML and CSV."""

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdml.evaluation import ClassMetrics, Confusions, class_metrics, confusions
from jaxdml.report import _figures
from jaxdml.report._galleries import Ranked
from jaxdml.report._sections import even, number, text

_SHOWN = 100  # classes at each end of the table, so that a page of 11,000 stays small
_PAIRS = 12


class Classes(NamedTuple):
  """Metrics of all classes, the worst first, and what they are taken for."""

  scores: ClassMetrics  # of those that have something to find
  images: np.ndarray  # [c]
  alone: int  # classes whose queries have nothing to find
  pairs: Confusions
  examples: np.ndarray  # [p, 2] rows of a query and of its nearest neighbour
  k: int  # neighbours that MAP@R is of, where a class has more to find


def measure(ranked: Ranked, labels: np.ndarray) -> Classes:
  """Measures the classes of the queries."""
  asked, candidates, found = ranked
  given = () if asked is candidates else (labels[candidates],)
  scores = class_metrics(found, labels[asked], *given)
  pairs = confusions(found, labels[asked], *given)
  names, counts = np.unique(labels, return_counts=True)
  size = dict(zip(names.tolist(), counts.tolist(), strict=True))
  order = np.lexsort((scores.map_at_r, scores.recall_at_1))
  order = order[scores.queries[order] > 0]
  nearest = candidates[found.indices[pairs.example, 0]]
  examples = np.stack([asked[pairs.example], nearest], axis=1)
  scores, alone = ClassMetrics(*(x[order] for x in scores)), len(scores.labels) - len(order)
  images = np.array([size[label] for label in scores.labels], int)
  return Classes(scores, images, alone, pairs, examples, found.indices.shape[1])


def shown_rows(classes: Classes) -> set[int]:
  """Rows whose pictures `section` shows."""
  return set(classes.examples[:_PAIRS].ravel().tolist())


def section(
  classes: Classes,
  call: Callable[[Any], str],
  uris: Mapping[int, str],
  record: Callable[[int], str],
) -> tuple[str, dict[str, Any]]:
  """The section, and its figures by the id of their place; `call` names a label."""
  scores = classes.scores
  if not len(scores.labels):
    return "<p>No class has two images.</p>", {}
  plots = {
    "recall-classes": _figures.shares(scores.recall_at_1),
    "map-classes": _figures.shares(scores.map_at_r),
  }
  captions = dict(zip(plots, ("Classes by R@1", f"Classes by {_map_label(classes)}"),
                      strict=True))  # fmt: skip
  drawn = "".join(
    f"<figure><figcaption><b>{caption}</b><span>median {number(float(np.median(values)))}"
    f'</span></figcaption><div id="{target}" class="plot" role="img" aria-label="Histogram: '
    f'{caption}"></div></figure>'
    for (target, caption), values in zip(
      captions.items(), (scores.recall_at_1, scores.map_at_r), strict=True
    )
  )
  low = int((scores.recall_at_1 < 0.5).sum())
  said = (
    f"How each class is found, the worst first: R@1 is below 0.5 in {low:,} of "
    f"{len(scores.labels):,} classes. A class far below the others has wrong labels, copies of "
    "another class, or looks like another: see what it is taken for."
  )
  if classes.alone:
    said += f" Left out, as their images have no other to find: {classes.alone:,}."
  html = (
    f'<p>{said}</p><div class="curves">{drawn}</div>{_table(classes, call)}'
    f"{_pairs(classes, call, uris, record)}"
  )
  return html, plots


def _map_label(classes: Classes) -> str:
  return "MAP@R" if classes.scores.exact.all() else f"MAP@{classes.k}"


def _taken_for(classes: Classes) -> dict[Any, tuple[Any, float]]:
  """Class -> the class it is most often taken for, and the share of its queries."""
  pairs = classes.pairs
  found = zip(pairs.labels, pairs.found, pairs.share.tolist(), strict=True)
  result: dict[Any, tuple[Any, float]] = {}
  for label, other, share in found:
    result.setdefault(label, (other, share))
  return result


def _table(classes: Classes, call: Callable[[Any], str]) -> str:
  scores, taken = classes.scores, _taken_for(classes)
  count = len(scores.labels)
  rows = np.arange(count)
  caption = f"All {count:,} classes"
  if count > 2 * _SHOWN:
    rows = np.concatenate([rows[:_SHOWN], rows[-_SHOWN:]])
    caption = f"The {_SHOWN} worst and the {_SHOWN} best of {count:,} classes"
  caption += "; whole in the file …_classes.csv beside this page"
  if not scores.exact.all():
    caption += f". MAP@{classes.k}: of MAP@R the first {classes.k}, where there are more to find"
  lines = []
  for row in rows.tolist():
    label = scores.labels[row]
    other, share = taken.get(label, (None, 0.0))
    numbers = [classes.images[row], scores.recall_at_1[row], scores.map_at_r[row], share]
    shown = [str(numbers[0]), *even([1.0, *numbers[1:3]])[1:], f"{share:.0%}"]
    cells = [f'<td data-value="{value:.6g}">{said}</td>'
             for value, said in zip(numbers, shown, strict=True)]  # fmt: skip
    name = "" if other is None else text(call(other))
    lines.append(
      f'<tr><th scope="row">{text(call(label))}</th>{"".join(cells[:3])}'
      f'<td class="name">{name}</td>{cells[3] if other is not None else "<td></td>"}</tr>'
    )
  heads = ("class", "images", "R@1", _map_label(classes), "most often taken for", "how often")
  sorted_by = lambda head: ' aria-sort="ascending"' if head == "R@1" else ""
  named = lambda head: ' class="name"' if head == "most often taken for" else ""
  header = "".join(
    f'<th scope="col"{sorted_by(head)}{named(head)}><button type="button" data-sort="{place}">'
    f"{head}</button></th>"
    for place, head in enumerate(heads)
  )
  return (
    '<div class="controls"><label>Find a class <input type="search" id="class-filter"></label>'
    '<span id="class-count" role="status"></span></div>'
    '<div class="scroll tall" tabindex="0" role="region" aria-label="Classes">'
    f'<table id="class-table"><caption><span>{caption}</span></caption>'
    f"<thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
  )


def _pairs(
  classes: Classes,
  call: Callable[[Any], str],
  uris: Mapping[int, str],
  record: Callable[[int], str],
) -> str:
  pairs = classes.pairs
  count = len(pairs.labels)
  if not count:
    return "<h3>Classes taken for each other</h3><p>None: every nearest image is of its class.</p>"
  cards = []
  for place in range(min(_PAIRS, count)):
    one, other = call(pairs.labels[place]), call(pairs.found[place])
    asked = round(pairs.queries[place] / pairs.share[place])
    pictures = "".join(
      f'<img src="{uris[row]}" alt="{said}" title="{said}">'
      for row, said in (
        (row, text(f"{name} ({record(row)})"))
        for row, name in zip(classes.examples[place].tolist(), (one, other), strict=True)
      )
    )
    cards.append(
      f'<figure class="pair">{pictures}<figcaption><b>{text(one)}</b> taken for '
      f"<b>{text(other)}</b><span>{pairs.queries[place]} of {asked} "
      f"({pairs.share[place]:.0%})</span></figcaption></figure>"
    )
  some = "all pairs"
  if count > len(cards):
    some = f"the {len(cards)} most frequent of {count:,} pairs"
  return (
    "<h3>Classes taken for each other</h3><p>How many images of a class have one of another class "
    f"as their nearest: {some}, each with such an image and its nearest. Two classes that you "
    "cannot tell apart here may be one. All are in the file …_confusions.csv beside this page.</p>"
    f'<div class="pairs">{"".join(cards)}</div>'
  )


def tables(classes: Classes, call: Callable[[Any], str]) -> dict[str, str]:
  """All classes and all pairs as CSV, by the name of the table."""
  scores, pairs, taken = classes.scores, classes.pairs, _taken_for(classes)
  average = "map@r" if scores.exact.all() else f"map@{classes.k}"
  rows = []
  for row, label in enumerate(scores.labels):
    other, share = taken.get(label, (None, 0.0))
    values = [classes.images[row], scores.queries[row], f"{scores.recall_at_1[row]:.6g}"]
    name = "" if other is None else call(other)
    rows.append([call(label), *values, f"{scores.map_at_r[row]:.6g}", name, f"{share:.6g}"])
  head = ["class", "images", "queries", "recall@1", average, "taken_for", "share"]
  confused = [
    [call(one), call(other), count, f"{share:.6g}"]
    for one, other, count, share in zip(*pairs[:4], strict=True)
  ]
  head_of_pairs = ["class", "taken_for", "queries", "share"]
  return {"classes": _csv(head, rows), "confusions": _csv(head_of_pairs, confused)}


def _csv(head: list[str], rows: list[list[Any]]) -> str:
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows([head, *rows])
  return out.getvalue()
