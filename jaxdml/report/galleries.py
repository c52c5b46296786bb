"""Queries with their nearest neighbours, as HTML: random, best and worst ones, and hubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdml.report import analysis
from jaxdml.report.markup import text

__all__ = ["Gallery", "Line", "galleries", "html"]


class Line(NamedTuple):
  """One line: the image asked about, those found, and what is said over them."""

  row: int
  found: list[int]
  note: str


class Gallery(NamedTuple):
  """Lines under a heading."""

  title: str
  note: str
  lines: list[Line]


def galleries(
  indices: np.ndarray,
  similarities: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  candidates: np.ndarray,
  *,
  count: int,
  seed: int,
) -> list[Gallery]:
  """Chooses what to show.

  Args:
    indices: [q, k] places among the candidates, -1 for none.
    similarities: [q, k].
    labels: [n].
    queries: [q] rows of the queries.
    candidates: [m] rows of what they are ranked in; equal to `queries` if that is themselves.
    count: lines of each gallery.
    seed: of the random queries.
  """
  k = indices.shape[1]
  found = np.where(indices >= 0, candidates[indices], -1)
  hits = (indices >= 0) & (labels[found] == labels[queries][:, None])
  _, codes = np.unique(labels, return_inverse=True)
  relevant = np.bincount(codes[candidates], minlength=codes.max() + 1)[codes[queries]]
  relevant = relevant - np.isin(queries, candidates)
  scores = analysis.average_precision(hits, relevant)
  chosen = analysis.choose_queries(labels[queries], scores, similarities, hits, count, seed)

  def lines(places: np.ndarray) -> list[Line]:
    return [
      Line(
        int(queries[place]),
        [int(row) for row in found[place] if row >= 0],
        f"{hits[place].sum()} of {min(k, relevant[place])} right, AP {scores[place]:.2f}",
      )
      for place in places
    ]

  notes = {
    "random": f"Drawn at random (seed {seed}) among the queries that have something to find.",
    "best": "The highest average precision; of equal ones, those whose right neighbours look least "
    "alike to the model. One a class.",
    "worst": "The lowest average precision; of equal ones, those surest of their mistake. One a "
    "class.",
  }
  shown = [Gallery(f"{kind.title()} queries", notes[kind], lines(chosen[kind])) for kind in chosen]
  hubs = analysis.find_hubs(indices, similarities, len(candidates), count, k)
  hub_lines = [
    Line(
      int(candidates[row]),
      [int(queries[place]) for place in places],
      f"among the {k} nearest of {times} images",
    )
    for row, times, places in zip(hubs.rows, hubs.occurrences, hubs.lists, strict=True)
    if times
  ]
  note = (
    f"Images that are among the {k} nearest of the most others, with some of those. "
    f"{hubs.never:.0%} are in no list; skewness of the counts {hubs.skewness:.1f} (0: no hubs)."
  )
  return [*shown, Gallery("Hubs", note, hub_lines)]


def html(
  shown: list[Gallery],
  labels: np.ndarray,
  uris: dict[int, str],
  call: Callable[[int], str],
  record: Callable[[int], str],
) -> str:
  """The galleries as HTML.

  Args:
    shown: of `galleries`.
    labels: [n]; what has the label of a line's first image is right.
    uris: data URI of every row that is shown.
    call: row -> its label's name.
    record: row -> where the image comes from.
  """
  describe = lambda row: f"{call(row)} ({record(row)})"
  parts = []
  for gallery in shown:
    lines = []
    for line in gallery.lines:
      cells = [_cell(uris[line.row], f"query: {describe(line.row)}", "query")]
      for row in line.found:
        kind = "right" if labels[row] == labels[line.row] else "wrong"
        cells.append(_cell(uris[row], f"{kind}: {describe(row)}", kind))
      caption = text(f"{call(line.row)}: {line.note}")
      lines.append(f'<div class="count" title="{caption}">{caption}</div>{"".join(cells)}')
    cells = max((1 + len(line.found) for line in gallery.lines), default=1)
    body = "".join(f'<div class="line" style="--cells:{cells}">{line}</div>' for line in lines)
    parts.append(
      f'<div class="gallery"><h3>{text(gallery.title)}</h3><p>{text(gallery.note)}</p>'
      f"{body or '<p>None.</p>'}</div>"
    )
  return f'<div class="galleries">{"".join(parts)}</div>'


def _cell(uri: str, description: str, kind: str) -> str:
  mark = {"right": "✓", "wrong": "✗", "query": ""}[kind]
  badge = f'<i aria-hidden="true">{mark}</i>' if mark else ""
  said = text(description)
  return f'<div class="cell {kind}"><img src="{uri}" alt="{said}" title="{said}">{badge}</div>'
