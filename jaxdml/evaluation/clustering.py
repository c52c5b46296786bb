"""Clustering metrics: NMI, AMI and pairwise F1 of k-means clusters and labels."""

import math
from typing import Any

import numpy as np
from scipy.special import gammaln

from jaxdml._labels import as_given, numbered
from jaxdml.evaluation._checks import as_column, as_embeddings, normalized
from jaxdml.evaluation.kmeans import kmeans


def clustering_metrics(
  embeddings: Any,
  labels: Any,
  *,
  seed: int = 0,
  normalize: bool = True,
  restarts: int | None = None,
  max_iterations: int = 30,
  block_size: int = 512,
) -> dict[str, float]:
  """Clusters the embeddings by k-means, k the number of classes, and compares with the labels.

  The protocol of arXiv 1511.06452, its k that of the classes evaluated, not of those trained on.
  Rows whose label is unknown (None, NaN, or -1) are left out.

  Args:
    embeddings: [n, d].
    labels: [n], of any type that compares.
    normalize: scale embeddings to unit norm first.
    restarts: independent runs of k-means, the one of lowest inertia is taken; by default 3, and 1
      of more than 1,000 classes: with many clusters, runs end alike.
    seed, max_iterations, block_size: of `kmeans`.

  Returns:
    "nmi", "ami" and "f1"; NaN where no label is known.

  Raises:
    ValueError: NaN in embeddings, labels of another length.

  >>> clustering_metrics([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "a", "b", "b"])
  {'nmi': 1.0, 'ami': 1.0, 'f1': 1.0}
  """
  embeddings = as_embeddings("embeddings", embeddings)
  labels = as_column("labels", labels, len(embeddings), "embeddings")
  labels = numbered("labels", labels)[0]
  known = labels >= 0
  if not known.any():
    return {"nmi": math.nan, "ami": math.nan, "f1": math.nan}
  embeddings, labels = embeddings[known], labels[known]
  if normalize:
    embeddings = normalized(embeddings)
  k = len(np.unique(labels))
  if restarts is None:
    restarts = 3 if k <= 1000 else 1
  options = {"restarts": restarts, "max_iterations": max_iterations, "block_size": block_size}
  clusters = kmeans(embeddings, k, seed=seed, **options).assignment
  scores = {"nmi": nmi, "ami": ami, "f1": pairwise_f1}
  return {name: score(labels, clusters) for name, score in scores.items()}


def nmi(labels_true: Any, labels_pred: Any) -> float:
  """Normalised mutual information of two partitions, 2 I / (H + H'), in [0, 1].

  Two partitions of one class each are identical and score 1.

  Both are [n], integers, text or booleans. Rows whose label is unknown (None, NaN, or -1) are left
  out; -1 is a cluster like any other. Other lengths, and nothing to compare, raise ValueError.

  >>> round(nmi([0, 0, 1, 1], [5, 5, 7, 7]), 6), round(nmi([0, 0, 1, 1], [0, 1, 0, 1]), 6)
  (1.0, 0.0)
  """
  joint, rows, columns, counts = _contingency(labels_true, labels_pred)
  entropies = _entropy(rows) + _entropy(columns)
  if entropies == 0:
    return 1.0
  information = _information(joint, rows, columns, counts)
  return min(max(2 * information / entropies, 0.0), 1.0)


def ami(labels_true: Any, labels_pred: Any) -> float:
  """Adjusted mutual information, (I - E) / ((H + H') / 2 - E), at most 1.

  E is the expectation of I over all partitions with clusters of these sizes, so that chance scores
  0 however many clusters there are; NMI grows with their number. Vinh, Epps and Bailey, JMLR 2010,
  equation 24a; exact. It takes O(n) memory and O(n s) time, s the number of different class sizes.

  >>> round(ami([0, 0, 1, 1], [5, 5, 7, 7]), 6), round(ami([0, 0, 1, 1], [0, 1, 0, 1]), 6)
  (1.0, -0.5)
  """
  joint, rows, columns, counts = _contingency(labels_true, labels_pred)
  if len(rows) == len(columns) == len(counts):  # identical: 0 / 0 if of one class or singletons
    return 1.0
  information = _information(joint, rows, columns, counts)
  expected = _expected_information(rows, columns)
  average = (_entropy(rows) + _entropy(columns)) / 2
  return (information - expected) / (average - expected)


def pairwise_f1(labels_true: Any, labels_pred: Any) -> float:
  """F1 of the pairs that share a cluster, as a prediction of the pairs that share a class.

  2 P R / (P + R), P the share of same-cluster pairs that are of one class, R the share of
  same-class pairs that are in one cluster. 1 where neither partition has a pair, 0 where no pair is
  common.

  >>> round(pairwise_f1([0, 0, 0, 1], [0, 0, 1, 1]), 6)  # P = 1/2, R = 1/3
  0.4
  """
  _, rows, columns, counts = _contingency(labels_true, labels_pred)
  common, same_class, same_cluster = (
    float((c * (c - 1) / 2).sum()) for c in (counts, rows, columns)
  )
  if same_class + same_cluster == 0:
    return 1.0
  return 2 * common / (same_class + same_cluster)


def _entropy(sizes: np.ndarray) -> float:
  """Returns the entropy of a partition into parts of these sizes, in nats."""
  shares = sizes / sizes.sum()
  return float(-(shares * np.log(shares)).sum())


def _information(
  joint: np.ndarray, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray
) -> float:
  """Returns the mutual information of two partitions, of `_contingency`, in nats."""
  n = rows.sum()
  expected = rows[joint[0]] * (columns[joint[1]] / n)
  return float((counts / n * np.log(counts / expected)).sum())


def _expected_information(rows: np.ndarray, columns: np.ndarray) -> float:
  """Returns the mean mutual information of partitions with classes and clusters of these sizes.

  The number of items that a class of a and a cluster of b share is hypergeometric: only the sizes
  count, so each pair of different sizes is taken once, with its number.
  """
  n = int(rows.sum())
  log_factorial = gammaln(np.arange(n + 1) + 1.0)
  b, b_count = np.unique(columns.astype(np.int64), return_counts=True)
  total = 0.0
  for a, a_count in zip(*np.unique(rows.astype(np.int64), return_counts=True), strict=True):
    # All sizes m of the common part, for each b in turn: together at most n.
    low = np.maximum(1, a + b - n)
    lengths = np.minimum(a, b) - low + 1
    which = np.repeat(np.arange(len(b)), lengths)
    m = np.arange(len(which)) + np.repeat(low - (np.cumsum(lengths) - lengths), lengths)
    other = b[which]
    log_probability = (
      (log_factorial[a] + log_factorial[n - a] - log_factorial[n])
      + (log_factorial[b] + log_factorial[n - b])[which]
      - (log_factorial[m] + log_factorial[a - m])
      - (log_factorial[other - m] + log_factorial[n - a - other + m])
    )
    terms = m / n * (np.log(m / a) - np.log(other / n)) * np.exp(log_probability)
    total += float(a_count * (b_count[which] * terms).sum())
  return total


def _contingency(
  labels_true: Any, labels_pred: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns the pairs (class, cluster) that occur [2, p], class and cluster sizes, pair counts."""
  labels_true = as_given(labels_true)
  labels_true = as_column("labels_true", labels_true, labels_true.size, "itself")
  labels_pred = as_column("labels_pred", labels_pred, len(labels_true), "labels_true")
  if not len(labels_true):
    raise ValueError("labels_true: expected at least one label, got none")
  (classes,), (clusters,) = (
    numbered("labels_true", labels_true),
    numbered("labels_pred", labels_pred, unknown=None),
  )
  known = (classes >= 0) & (clusters >= 0)
  if not known.any():
    raise ValueError("labels_true: expected at least one label that is known, got none")
  _, classes, rows = np.unique(classes[known], return_inverse=True, return_counts=True)
  _, clusters, columns = np.unique(clusters[known], return_inverse=True, return_counts=True)
  pairs = classes.astype(np.int64) * len(columns) + clusters
  occurring, counts = np.unique(pairs, return_counts=True)
  joint = np.stack(np.divmod(occurring, len(columns)))
  return joint, rows.astype(float), columns.astype(float), counts.astype(float)
