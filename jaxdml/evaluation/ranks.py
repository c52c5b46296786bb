"""Ranks of the relevant items of every query, exact, by whichever way is the cheaper.

A query with few relevant items has their ranks counted on the devices: how many items beat each,
in tiles that fit a cache, no sort (`counting.py`). One with many has all items put in order on the
host, from scores computed on the devices (`ordering.py`). Both rank equal scores by index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxdml.evaluation import counting, ordering
from jaxdml.evaluation.scores import Problem, matches, padded_slices

# Relevant items that are counted at most; beyond it, on a CPU, a row is put in order in less time.
# Elsewhere the devices count and the host sorts.
_MOST_COUNTED_CPU, _MOST_COUNTED = 128, 256
# Widths of the tables of relevant items, and what one more program is worth, in comparisons.
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_COMPILATION = 2e9
# Items that the host looks at in one piece, while it makes the tables.
_PIECE = 1 << 22


class Ranks(NamedTuple):
  """Where the relevant items of some queries come, for one set of labels.

  Attributes:
    rows: the queries [b].
    counts: relevant items of each [b].
    ranks: their ranks from 0, ascending within a query, one query after the other [sum of counts].
  """

  rows: np.ndarray
  counts: np.ndarray
  ranks: np.ndarray


class Relevant:
  """Which items are relevant to a query, for one set of labels; the query itself never is.

  Args:
    task: the queries and items.
    labels: of the queries [n].
    item_labels: of the items [m].
  """

  def __init__(self, task: Problem, labels: np.ndarray, item_labels: np.ndarray):
    self.order, self.start, self.stop = matches(labels, item_labels)
    self._task = task
    self.counts = self.stop - self.start
    # An item that the query must not see is not relevant to it, if it was of its class.
    of_class = np.empty(len(item_labels), np.int64)
    of_class[self.order] = np.arange(len(self.order))
    _, first, last = task.dropped
    if (last > first).any():
      step = max(1, _PIECE // int((last - first).max()))
      for begin in range(0, len(labels), step):
        rows = np.arange(begin, min(begin + step, len(labels)))
        dropped = task.excluded(rows)
        place = of_class[np.minimum(dropped, len(item_labels) - 1)]
        inside = (self.start[rows, None] <= place) & (place < self.stop[rows, None])
        self.counts[rows] -= (inside & (dropped < len(item_labels))).sum(1)

  def table(self, rows: np.ndarray, width: int) -> np.ndarray:
    """The relevant items of queries `rows`, ascending, int32 [b, width]; m where there is none."""
    m = len(self.order)
    table = padded_slices(self.order, self.start[rows], self.stop[rows], fill=m)
    for column in self._task.excluded(rows).T:
      table[table == column[:, None]] = m
    table.sort(axis=1)
    if table.shape[1] < width:
      table = np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=m)
    return np.ascontiguousarray(table[:, :width])


def relevant_ranks(
  task: Problem,
  relevant: list[Relevant],
  labels: list[np.ndarray],
  item_labels: list[np.ndarray],
  *,
  block_size: int | None = None,
  progress: bool = False,
) -> Iterator[tuple[int, Ranks]]:
  """Yields the ranks for every set of labels, (number of the set, `Ranks`), a block at a time.

  A query comes once a set, unless it has nothing relevant there.

  Args:
    task: the queries and items.
    relevant: one for each set of labels.
    labels: codes of the queries' labels for each set, [n] int32.
    item_labels: codes of the items' labels for each set, [m] int32.
    block_size: queries at a time on a device.
    progress: show a bar where it takes long.
  """
  total = sum(r.counts for r in relevant)
  most = _MOST_COUNTED_CPU if jax.default_backend() == "cpu" else _MOST_COUNTED
  counted = (total > 0) & (total <= most)
  for low, high in _groups(total[counted], len(task.items)):
    rows = np.flatnonzero((low < total) & (total <= high))
    # Queries of a class stand together, and so do the items: few tiles hold a block's relevant.
    rows = rows[np.lexsort([codes[rows] for codes in labels])]
    widths = [int(r.counts[rows].max()) for r in relevant]
    for some, table, ranks in counting.count_ranks(
      task,
      lambda some, widths=widths: np.concatenate(
        [r.table(some, width) for r, width in zip(relevant, widths, strict=True)], axis=1
      ),
      rows,
      np.lexsort(item_labels),
      block_size=block_size,
      progress=progress,
    ):
      ranks = np.where(table < len(task.items), ranks, _NONE)
      for number, part in enumerate(np.split(ranks, np.cumsum(widths)[:-1], axis=1)):
        part = np.sort(part, axis=1)
        yield number, Ranks(some, relevant[number].counts[some], part[part < _NONE])
  rows = np.flatnonzero(total > most)
  _, first, last = task.dropped
  seen = len(task.items) - (last - first)  # those that a query must not see come last
  for some, order in ordering.in_order(task, rows, progress=progress):
    for number, (mine, theirs) in enumerate(zip(labels, item_labels, strict=True)):
      hits = theirs[order] == mine[some, None]
      hits[np.arange(order.shape[1]) >= seen[some, None]] = False
      yield number, Ranks(some, relevant[number].counts[some], np.nonzero(hits)[1])


_NONE = np.iinfo(np.int32).max


def _groups(counts: np.ndarray, m: int) -> list[tuple[int, int]]:
  """Splits (0, largest count] where narrower tables save more than another program costs."""
  if not len(counts):
    return []
  groups, high = [], int(counts.max())
  for width in reversed(_WIDTHS):
    narrow = counts[counts <= width]
    if (high - width) * float(len(narrow)) * m > _COMPILATION:
      groups.append((width, high))
      high = int(narrow.max())
  return [*groups, (0, high)]
