"""Metrics in words: their short names, what they mean, and which way is better."""

from __future__ import annotations

import re

__all__ = ["ORDER", "meaning", "short"]

_MEANINGS = {
  "recall@k": "share of queries with an image of their class among the k nearest others",
  "precision@1": "share of queries whose nearest other image is of their class",
  "map@r": "mean average precision over the R nearest, R being how many there are to find: "
  "1 if they come first, all of them (Musgrave et al., arXiv 2003.08505)",
  "r_precision": "share of the R nearest that are of the query's class",
  "map": "mean average precision over the whole ranking",
  "mrr": "mean of 1 / rank of the first image of the query's class",
  "nmi": "normalized mutual information of k-means clusters with the classes",
  "ami": "mutual information of k-means clusters with the classes, corrected for chance",
  "f1": "F1 of pairs: in one cluster against in one class",
  "spectral_decay": "how unevenly the directions of the space are used; 0 uses all alike "
  "(arXiv 2002.08473)",
  "effective_rank": "how many directions the embeddings use, from 1 to their dimension",
  "class_spread": "size of the classes over the distance between them; 0 is collapsed "
  "(arXiv 2002.08473)",
  "within/recall@1": "among the images of its own training class alone: share of queries whose "
  "nearest has their fine label",
  "within/map@r": "among the images of the query's own training class alone: MAP@R by fine label",
  "within/chance_recall@1": "the same under a random ranking",
  "within/chance_map@r": "the same under a random ranking",
  "modes_kept": "share of a class's variance that lies between its finer classes, corrected for "
  "chance; 1: each is a point of its own, 0: no trace of them",
}
_SHORT = {"map@r": "MAP@R", "map": "mAP", "mrr": "MRR", "r_precision": "R-precision", "nmi": "NMI",
          "ami": "AMI", "f1": "F1"}  # fmt: skip
ORDER = ("recall@", "precision@1", "map@r", "r_precision", "map", "mrr", "nmi", "ami", "f1")


def short(metric: str) -> str:
  """The name that papers use.

  >>> short("recall@4"), short("collapse/class_spread")
  ('R@4', 'class spread')
  >>> short("macro/map@r")
  'MAP@R by class'
  """
  if metric.startswith("macro/"):
    return f"{short(metric.removeprefix('macro/'))} by class"
  if re.fullmatch(r"recall@\d+", metric):
    return metric.replace("recall@", "R@")
  if re.fullmatch(r"precision@\d+", metric):
    return metric.replace("precision@", "P@")
  bare = metric.removeprefix("collapse/")
  return _SHORT.get(bare, bare.replace("_", " "))


def meaning(metric: str) -> tuple[str, str] | None:
  """Name and meaning of a metric's family, or None if this knows none.

  >>> meaning("recall@4")[0]
  'R@k'
  """
  if metric.startswith("macro/"):
    return "by class", "the mean over classes of the mean over a class's queries"
  bare = metric.removeprefix("collapse/")
  if re.fullmatch(r"recall@\d+", bare):
    return "R@k", _MEANINGS["recall@k"]
  return (short(metric), _MEANINGS[bare]) if bare in _MEANINGS else None


def rank(metric: str) -> tuple[int, int, str]:
  """Sorts metrics as tables show them."""
  for place, name in enumerate(ORDER):
    if metric == name:
      return place, 0, metric
    if name.endswith("@") and re.fullmatch(rf"{name}\d+", metric):
      return place, int(metric[len(name) :]), metric
  return len(ORDER) + metric.startswith("collapse/"), 0, metric
