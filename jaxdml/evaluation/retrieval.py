"""Retrieval metrics of any number of items: Recall@K, R-precision, MAP@R, mAP, MRR; exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdml.evaluation.checks import as_column, as_positive
from jaxdml.evaluation.ranks import Ranks, Relevant, relevant_ranks
from jaxdml.evaluation.scores import codes, problem

_AVERAGES = ("map@r", "r_precision", "precision@1", "map", "mrr")


def retrieval_metrics(
  embeddings: Any,
  labels: Any,
  *,
  ks: Sequence[int] = (1, 2, 4, 8),
  gallery: Any = None,
  gallery_labels: Any = None,
  ids: Any = None,
  gallery_ids: Any = None,
  normalize: bool = True,
  macro: bool = False,
  block_size: int | None = None,
  progress: bool = False,
) -> dict[str, float]:
  """Ranks a gallery for every query and scores how early the items of its class come.

  With rel(i) = 1 where the i-th nearest item has the query's label, R their number in the gallery,
  P(i) = 1/i sum_{j<=i} rel(j), each a mean over the queries:

      Recall@K    = 1 if any rel(i) = 1, i <= K, else 0         (arXiv 1511.06452)
      Precision@1 = rel(1), the same as Recall@1
      R-precision = 1/R sum_{i<=R} rel(i)                        (arXiv 2003.08505)
      MAP@R       = 1/R sum_{i<=R} rel(i) P(i)                   (arXiv 2003.08505)
      mAP         = 1/R sum_i rel(i) P(i), over the whole gallery
      MRR         = 1/i of the first i with rel(i) = 1

  A query without a relevant item is left out and counted. Items that are equally near rank by
  their index. Exact, in float32, on all local devices; memory beyond the arrays is one copy of
  the gallery and a few blocks, whatever the sizes. Few relevant items a query (128 on a CPU) take
  no sort: the items that beat each are counted, at little more than the cost of the product. With
  more the host sorts, at some 20 ns an item and query.

  Args:
    embeddings: queries [n, d]; also the gallery, unless one is given.
    labels: [n], of any type that compares; or several sets of them, a mapping name -> [n], all
      scored in one pass over the gallery.
    ks: the K of Recall@K.
    gallery: items to rank [m, d]; None ranks the queries among themselves.
    gallery_labels: [m], or a mapping of the same names; with `gallery` and only with it.
    ids: [n] identities; an item with the query's id is the query itself and is dropped. By default
      the row number without `gallery`; with one, nothing is dropped unless both ids are given.
    gallery_ids: [m], with `gallery`.
    normalize: scale embeddings to unit norm and rank by cosine similarity; else by Euclidean
      distance between them as they are.
    macro: also average within each class of queries first, then over the classes.
    block_size: queries at a time on a device; the default suits the device.
    progress: show a bar where it takes long.

  Returns:
    "recall@K" for each K, "map@r", "r_precision", "precision@1", "map", "mrr" (NaN where no query
    has a relevant item), "num_queries" (those scored) and "num_without_match" (those left out).
    `macro` adds "macro/NAME" of each mean. Several sets of labels give "SET/NAME".

  Raises:
    ValueError: NaN in embeddings, lengths that differ, a gallery without labels or the reverse,
      text on one side and numbers on the other.

  >>> x = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.2]]
  >>> metrics = retrieval_metrics(x, [0, 0, 1, 2], ks=(1,))
  >>> metrics["recall@1"], metrics["map@r"], metrics["num_queries"], metrics["num_without_match"]
  (1.0, 1.0, 2, 2)
  >>> sorted(retrieval_metrics(x, {"fine": [0, 0, 1, 2], "coarse": [0, 0, 1, 1]}, ks=(1,)))[:2]
  ['coarse/map', 'coarse/map@r']
  """
  if not isinstance(ks, Iterable):
    raise ValueError(f"ks: expected numbers, such as (1, 10), got {ks!r}")
  ks = [as_positive("ks", k) for k in ks]
  block_size = None if block_size is None else as_positive("block_size", block_size)
  task = problem(embeddings, gallery, ids, gallery_ids, normalize, name="embeddings")
  sets = _label_sets(labels, gallery_labels, len(task.queries), len(task.items), gallery is None)
  relevant = [Relevant(task, mine, theirs) for mine, theirs in sets.values()]
  values = [_Values(ks, len(task.queries)) for _ in sets]
  for number, ranks in relevant_ranks(
    task,
    relevant,
    [mine for mine, _ in sets.values()],
    [theirs for _, theirs in sets.values()],
    block_size=block_size,
    progress=progress,
  ):
    values[number].add(ranks)
  result = {}
  for (name, (mine, _)), per_query in zip(sets.items(), values, strict=True):
    prefix = f"{name}/" if isinstance(labels, Mapping) else ""
    means = per_query.means(mine, macro=macro)
    result |= {prefix + key: value for key, value in means.items()}
  return result


class _Values:
  """The metrics of each query, NaN until its ranks are known."""

  def __init__(self, ks: Sequence[int], n: int):
    self._ks = ks
    names = [*(f"recall@{k}" for k in ks), *_AVERAGES]
    self._values = {name: np.full(n, np.nan) for name in names}

  def add(self, found: Ranks) -> None:
    """Takes the ranks of some queries' relevant items."""
    scored = found.counts > 0
    rows, counts = found.rows[scored], found.counts[scored]
    if not len(rows):
      return
    starts = np.cumsum(counts) - counts
    before = np.arange(len(found.ranks)) - np.repeat(starts, counts)
    early = found.ranks < np.repeat(counts, counts)
    precision = (before + 1) / (found.ranks + 1.0)
    first = found.ranks[starts]
    total = lambda terms: np.add.reduceat(terms, starts, dtype=np.float64) / counts
    self._values["map@r"][rows] = total(precision * early)
    self._values["r_precision"][rows] = total(early)
    self._values["precision@1"][rows] = first == 0
    self._values["map"][rows] = total(precision)
    self._values["mrr"][rows] = 1 / (first + 1.0)
    for k in self._ks:
      self._values[f"recall@{k}"][rows] = first < k

  def means(self, labels: np.ndarray, *, macro: bool) -> dict[str, float]:
    """Means over the queries that have a relevant item, over their classes too if `macro`."""
    scored = ~np.isnan(self._values["mrr"])
    count = int(scored.sum())
    mean = lambda values: float(values.mean()) if count else float("nan")
    found = {name: values[scored] for name, values in self._values.items()}
    result = {name: mean(values) for name, values in found.items()}
    result |= {"num_queries": count, "num_without_match": len(scored) - count}
    if macro:
      sizes = np.bincount(labels[scored])
      for name, values in found.items():
        sums = np.bincount(labels[scored], weights=values)
        result[f"macro/{name}"] = mean(sums[sizes > 0] / sizes[sizes > 0])
    return result


def _label_sets(
  labels: Any, gallery_labels: Any, n: int, m: int, alone: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Checks the labels and returns name -> (codes of the queries [n], codes of the items [m])."""
  if alone and gallery_labels is not None:
    raise ValueError("gallery_labels: expected only with gallery, got it alone; pass gallery too")
  if not alone and gallery_labels is None:
    raise ValueError("gallery_labels: expected one label a gallery row, got None; pass them")
  several = isinstance(labels, Mapping)
  named = labels if several else {"": labels}
  if not named:
    raise ValueError("labels: expected at least one set of labels, got an empty mapping")
  theirs = named
  if not alone:
    theirs = gallery_labels if several else {"": gallery_labels}
    if not isinstance(theirs, Mapping) or set(theirs) != set(named):
      got = sorted(theirs) if isinstance(theirs, Mapping) else "labels without a name"
      raise ValueError(f"gallery_labels: expected the sets {sorted(named)} of labels, got {got}")
  result = {}
  for name, values in named.items():
    suffix = f"[{name!r}]" if several else ""
    mine = as_column(f"labels{suffix}", values, n, "embeddings")
    other = mine
    if not alone:
      other = as_column(f"gallery_labels{suffix}", theirs[name], m, "gallery")
    result[name] = codes(mine, other)
  return result
