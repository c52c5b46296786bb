"""Names of the metrics: in print, in words and in order, and a text table of them."""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
  """A metric as people read it."""

  # Its short name, as papers have it: "R@4"; of a metric that this room does not compute the key
  # itself.
  label: str
  family: str  # whose meaning it shares: "R@k" of every Recall@K, "by class" of every macro/ one
  meaning: str  # what it says, in a line; empty where nobody knows
  more_is_better: bool  # whether a higher value is better; of spreads and spectra neither is
  order: tuple[int, int, str]  # sorts metrics as tables show them


_SCORE = True  # more is better
# By key, as `retrieval_metrics`, `clustering_metrics` and `collapse_metrics` return it, in the
# order of the tables: (label, whether more is better, meaning). "k" stands for a number.
_METRICS: dict[str, tuple[str, bool, str]] = {
  "recall@k": (
    "R@k", _SCORE, "share of queries with an image of their class among the k nearest others"
  ),
  "precision@k": ("P@k", _SCORE, "share of the k nearest others that are of the query's class"),
  "map@r": (
    "MAP@R", _SCORE, "mean average precision over the R nearest, R being how many there are to "
    "find: 1 if they come first, all of them (Musgrave et al., arXiv 2003.08505)",
  ),
  "r_precision": ("R-prec", _SCORE, "share of the R nearest that are of the query's class"),
  "map": ("mAP", _SCORE, "mean average precision over the whole ranking"),
  "mrr": ("MRR", _SCORE, "mean of 1 / rank of the first image of the query's class"),
  "nmi": ("NMI", _SCORE, "normalized mutual information of k-means clusters with the classes"),
  "ami": (
    "AMI", _SCORE, "mutual information of k-means clusters with the classes, corrected for chance"
  ),
  "f1": ("F1", _SCORE, "F1 of pairs: in one cluster against in one class"),
  "spectral_decay": (
    "spectral decay", False, "how unevenly the directions of the space are used; 0 uses all alike "
    "(arXiv 2002.08473)",
  ),
  "effective_rank": (
    "effective rank", False, "how many directions the embeddings use, from 1 to their dimension"
  ),
  "class_spread": (
    "class spread", False, "size of the classes over the distance between them; 0 is collapsed "
    "(arXiv 2002.08473)",
  ),
  "within/recall@1": (
    "R@1 within the class", _SCORE, "among the images of its own training class alone: share of "
    "queries whose nearest has their fine label",
  ),
  "within/map@r": (
    "MAP@R within the class", _SCORE, "among the images of the query's own training class alone: "
    "MAP@R by fine label",
  ),
  "within/chance_recall@1": (
    "R@1 within the class by chance", False, "the same under a random ranking"
  ),
  "within/chance_map@r": (
    "MAP@R within the class by chance", False, "the same under a random ranking"
  ),
  "modes_kept": (
    "modes kept", _SCORE, "share of a class's variance that lies between its finer classes, "
    "corrected for chance; 1: each is a point of its own, 0: no trace of them",
  ),
}  # fmt: skip
_PLACE = {key: place for place, key in enumerate(_METRICS)}
_COUNTS = ("num_queries", "num_without_match", "num_unknown", "num_undecodable")


def describe_metric(key: str) -> Metric:
  """Returns how a metric is named, explained and sorted.

  Args:
    key: as the metrics of this package, metrics.jsonl and results.json have it; those of
      `collapse_metrics` with "collapse/" in front or without.

  >>> describe_metric("recall@4").label, describe_metric("collapse/class_spread").label
  ('R@4', 'class spread')
  >>> describe_metric("macro/map@r").label, describe_metric("recall@4").family
  ('MAP@R by class', 'R@k')
  >>> sorted(["nmi", "recall@10", "map@r", "recall@2"], key=lambda key: describe_metric(key).order)
  ['recall@2', 'recall@10', 'map@r', 'nmi']
  """
  if key.startswith("macro/"):
    metric = describe_metric(key.removeprefix("macro/"))
    meaning = "the mean over classes of the mean over a class's queries"
    place, number, name = metric.order
    order = place + len(_METRICS) + 1, number, name
    return Metric(f"{metric.label} by class", "by class", meaning, metric.more_is_better, order)
  bare = key.removeprefix("collapse/")
  number = re.fullmatch(r"(recall|precision)@(\d+)", bare)
  family = f"{number[1]}@k" if number else bare
  if family not in _METRICS:
    return Metric(key, key, "", False, (len(_METRICS), 0, key))
  label, more_is_better, meaning = _METRICS[family]
  k = int(number[2]) if number else 0
  order = _PLACE[family], k, key
  return Metric(label.replace("@k", f"@{k}"), label, meaning, more_is_better, order)


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Returns an aligned table, one line a row, no trailing newline.

  Columns: R@K in the order of K, MAP@R, R-prec, NMI, AMI, F1, then any other metric under its own
  name; counts are left out, and so are metrics with a slash in their name: diagnostics, for the
  files. A metric that a row lacks is shown as "-".

  Args:
    rows: name of the row -> metrics, keyed as `retrieval_metrics` and `clustering_metrics` do.

  Raises:
    ValueError: no rows.

  >>> print(format_table({"raw pixels": {"recall@1": 0.39, "map@r": 0.09}, "trained": {"nmi": 1}}))
                R@1  MAP@R    NMI
  raw pixels  0.390  0.090      -
  trained         -      -  1.000
  """
  if not rows:
    raise ValueError("rows: expected at least one row of metrics, got none")
  shown = {key for row in rows.values() for key in row if key not in _COUNTS and "/" not in key}
  keys = sorted(shown, key=lambda key: describe_metric(key).order)
  lines = [["", *(describe_metric(key).label for key in keys)]]
  for name, row in rows.items():
    lines.append([name, *(f"{row[key]:.3f}" if key in row else "-" for key in keys)])
  widths = [max(len(line[column]) for line in lines) for column in range(len(keys) + 1)]
  return "\n".join(
    "  ".join(
      [line[0].ljust(widths[0])]
      + [cell.rjust(max(width, 5)) for cell, width in zip(line[1:], widths[1:], strict=True)]
    )
    for line in lines
  )
