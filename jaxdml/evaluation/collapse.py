"""Diagnostics of class collapse: how much of the structure inside a class an embedding keeps.

Everywhere x is [n, d], labels (the classes) and fine_labels (the modes inside them) are [n]; a fine
label that occurs in two classes is a mode of each. The functions of single figures take x as it is,
scaled as wanted, and options with the meaning that they have in `collapse_metrics`.
"""

from typing import Any

import numpy as np

from jaxdml._labels import numbered
from jaxdml.evaluation._checks import as_column, as_embeddings, as_positive, normalized
from jaxdml.evaluation._scores import descending_keys

# Singular values below this share of the largest count as this: float32 resolves no less.
_SPECTRUM_FLOOR = 1e-6
# Beyond this dimension (raw pixels) the spectrum is that of as many rows, drawn at random.
_SPECTRUM_ROWS = 2048
# A class this close to its centre (mean squared distance) is a point in float32.
_POINT = 1e-12
# Similarities at a time while ranking.
_BLOCK_ELEMENTS = 1 << 21


def collapse_metrics(
  embeddings: Any,
  labels: Any,
  fine_labels: Any = None,
  *,
  seed: int = 0,
  max_queries: int = 20_000,
  block_size: int = 1024,
) -> dict[str, float]:
  """Measures how far classes have collapsed, on embeddings scaled to unit norm.

  `labels` are those trained on, the classes; `fine_labels` name the modes inside them.

  - "spectral_decay", "effective_rank": see `spectral_decay`.
  - "class_spread": see `class_spread`.
  - "within/recall@1", "within/map@r", and for a random ranking "within/chance_recall@1",
    "within/chance_map@r": see `within_class_retrieval`.
  - "modes_kept": see `modes_kept`.

  Figures that the labels leave undefined (no class of two items, one class alone, no class of two
  modes) are left out; every value returned is finite. Time and memory are linear in n, but for the
  ranking: its memory is linear, its time min(n, max_queries) times the size of a class.

  Args:
    embeddings: [n, d].
    labels, fine_labels: [n], of any type that compares; without the second the last two are left
      out.
    seed: of the random draws, where there are any.
    max_queries: rows that rank their class; of more, as many are drawn at random.
    block_size: rows at a time.

  Raises:
    ValueError: NaN in embeddings, labels of another length.

  >>> x = [[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [-1.0, 0.0], [-1.0, 0.0]]
  >>> metrics = collapse_metrics(x, [0, 0, 0, 0, 1, 1], list("aabbcc"))
  >>> metrics["within/recall@1"], round(metrics["within/chance_recall@1"], 3)
  (1.0, 0.333)
  >>> metrics["modes_kept"]
  1.0
  """
  x = as_embeddings("embeddings", embeddings)
  labels = as_column("labels", labels, len(x), "embeddings")
  if fine_labels is not None:
    fine_labels = as_column("fine_labels", fine_labels, len(x), "embeddings")
  block_size = as_positive("block_size", block_size)
  max_queries = as_positive("max_queries", max_queries)
  x = normalized(x)
  metrics = spectral_decay(x, seed=seed, block_size=block_size)
  # Rows whose label is unknown belong to no class.
  labels = numbered("labels", labels)[0]
  known = labels >= 0
  metrics |= class_spread(x[known], labels[known], block_size=block_size)
  if fine_labels is not None:
    fine_labels = numbered("fine_labels", fine_labels)[0]
    known &= fine_labels >= 0
  if fine_labels is not None and known.any():
    x, labels, fine_labels = x[known], labels[known], fine_labels[known]
    metrics |= within_class_retrieval(x, labels, fine_labels, seed=seed, max_queries=max_queries)
    metrics |= modes_kept(x, labels, fine_labels, block_size=block_size)
  return metrics


def spectral_decay(x: np.ndarray, *, seed: int = 0, block_size: int = 1024) -> dict[str, float]:
  """Measures how far from uniform the spectrum of the embeddings is: 0 uses all directions alike.

  With s the D = min(n, d) singular values of x [n, d], not centred, and p = s / sum(s):

      spectral_decay = KL(uniform || p) = 1/D sum_i log(1 / (D p_i))
      effective_rank = exp(-sum_i p_i log p_i), from 1 to D

  The first is rho of arXiv 2002.08473 (all singular values kept, as its authors' rho_spectrum@1);
  there a lower value went with better generalisation to new classes. Values below 1e-6 of the
  largest count as that, so that a direction not used costs at most log(1e6) / D. The second is the
  effective rank of Roy and Vetterli, EUSIPCO 2007. Beyond d = 2,048 both are those of 2,048 rows
  drawn at random. Rows that are all zero count as one direction.

  >>> x = np.diag([1.0, 3.0])  # p = (1/4, 3/4): (log 4/2 + log 4/6) / 2
  >>> round(spectral_decay(x)["spectral_decay"], 6)
  0.143841
  >>> round(spectral_decay(np.eye(5))["effective_rank"], 6)
  5.0
  """
  if x.shape[1] > _SPECTRUM_ROWS < len(x):
    x = x[np.sort(np.random.default_rng(seed).choice(len(x), _SPECTRUM_ROWS, replace=False))]
  tall = x if len(x) >= x.shape[1] else x.T
  gram = np.zeros((tall.shape[1], tall.shape[1]))
  for start in range(0, len(tall), block_size):
    block = tall[start : start + block_size].astype(np.float64)
    gram += block.T @ block
  s = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))  # ascending
  if not s[-1]:
    s[-1] = 1.0
  s = np.maximum(s, _SPECTRUM_FLOOR * s[-1])
  p = s / s.sum()
  return {
    "spectral_decay": max(float(-np.log(len(p) * p).mean()), 0.0),
    "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
  }


def class_spread(x: np.ndarray, labels: np.ndarray, *, block_size: int = 1024) -> dict[str, float]:
  """Size of the classes against the distance between them: pi_ratio of arXiv 2002.08473.

      pi_intra = mean over classes of the mean of D(x_i, x_j) over pairs i != j of the class
      pi_inter = mean of D(c_k, c_l) over pairs of classes, c = the class mean at unit norm
      class_spread = pi_intra / max(pi_inter, 1e-8),   D(a, b) = |a - b|^2 / 2

  For rows of unit norm (or zero) D is the cosine distance 1 - a.b, as in the paper's code. No pair
  is ever formed: the mean of D over the pairs of m points is sum |x_i - mean|^2 / (m - 1). Classes
  of one item have no pi_intra; without two classes, or one of two items, nothing is returned.
  Collapsed classes give 0.

  >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
  >>> round(class_spread(x, np.array([0, 0, 1, 1]))["class_spread"], 6)  # 1/2 over 1 + 1/sqrt(2)
  0.292893
  """
  _, codes = np.unique(labels, return_inverse=True)
  sums, squares, counts = _moments(x, codes, block_size)
  several = counts > 1
  if len(counts) < 2 or not several.any():
    return {}
  scatter = _scatter(sums, squares, counts)
  intra = (scatter[several] / (counts[several] - 1)).mean()
  norms = np.linalg.norm(sums, axis=1, keepdims=True)
  # A mean of opposed items is rounding noise, and has no direction.
  centers = np.where(norms > 1e-6 * counts[:, None], sums / np.where(norms > 0, norms, 1.0), 0.0)
  spread = np.square(centers - centers.mean(0)).sum()
  return {"class_spread": float(intra / max(spread / (len(centers) - 1), 1e-8))}


def within_class_retrieval(
  x: np.ndarray,
  labels: np.ndarray,
  fine_labels: np.ndarray,
  *,
  seed: int = 0,
  max_queries: int = 20_000,
) -> dict[str, float]:
  """Retrieval by fine label among the items of the query's own class alone.

  Each query ranks the other M items of its class by cosine similarity; R of them share its fine
  label. Recall@1 and MAP@R are those of `retrieval_metrics`, and under a random ranking

      E[recall@1] = R / M,   E[MAP@R] = (H + (R - H) (R - 1) / (M - 1)) / M,   H = sum_{i<=R} 1/i

  averaged over the same queries. Chance: the class has collapsed, or its modes are mixed. A query
  with no other item of its fine label is left out, and so is one whose class has no other fine
  label: there every ranking scores 1. Items that are equally near rank by their index.

  >>> x = normalized(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32))
  >>> within_class_retrieval(x, np.zeros(4), np.array(list("aabb")))["within/map@r"]
  1.0
  """
  _, coarse = np.unique(labels, return_inverse=True)
  _, fine = np.unique(fine_labels, return_inverse=True)
  _, mode, sizes = np.unique(
    coarse * (fine.max() + 1) + fine, return_inverse=True, return_counts=True
  )
  class_sizes = np.bincount(coarse)
  relevant, others = sizes[mode] - 1, class_sizes[coarse] - 1
  scored = np.flatnonzero((relevant > 0) & (relevant < others))
  if not len(scored):
    return {}
  if len(scored) > max_queries:
    scored = np.random.default_rng(seed).choice(scored, max_queries, replace=False)
  is_query = np.zeros(len(x), bool)
  is_query[scored] = True

  recall, precision = 0.0, 0.0
  for members in np.split(np.argsort(coarse, kind="stable"), np.cumsum(class_sizes)[:-1]):
    items, modes = x[members], mode[members]
    queries = np.flatnonzero(is_query[members])
    queries = queries[np.argsort(modes[queries], kind="stable")]
    rows = max(1, _BLOCK_ELEMENTS // len(members))
    for start in range(0, len(queries), rows):
      block = queries[start : start + rows]
      similarity = items[block] @ items.T
      # Queries of one mode have as many relevant items, so that they rank alike.
      for group in np.split(np.arange(len(block)), np.flatnonzero(np.diff(modes[block])) + 1):
        first, average = _rank(similarity[group], modes, block[group])
        recall, precision = recall + first, precision + average

  r, m = relevant[scored].astype(float), others[scored].astype(float)
  harmonic = np.cumsum(1.0 / np.arange(1, relevant.max() + 1))[relevant[scored] - 1]
  return {
    "within/recall@1": float(recall / len(scored)),
    "within/map@r": float(precision / len(scored)),
    "within/chance_recall@1": float((r / m).mean()),
    "within/chance_map@r": float(((harmonic + (r - harmonic) * (r - 1) / (m - 1)) / m).mean()),
  }


def modes_kept(
  x: np.ndarray, labels: np.ndarray, fine_labels: np.ndarray, *, block_size: int = 1024
) -> dict[str, float]:
  """Share of the classes' variance that lies between their modes, corrected for chance.

  With n items and m modes (fine labels) in a class, T the sum of squared distances to the class
  mean, W that to the means of the modes, eta^2 = 1 - W / T is between-mode variance over all; under
  shuffled fine labels its expectation is (m - 1) / (n - 1). Over the classes, each weighted by its
  degrees of freedom:

      modes_kept = (A - E) / (1 - E),   A = sum (n-1) eta^2 / sum (n-1),   E = sum (m-1) / sum (n-1)

  In one class this is the epsilon squared of Kelley, 1935. 1: each mode is a point of its own; 0:
  the labels of the modes might as well be shuffled (collapsed or mixed), below 0: by chance, or
  worse. A class that is one point counts as 0, a class of one mode is left out.

  >>> x = np.array([[0.0], [2.0], [4.0], [6.0]])  # T = 20, W = 4: eta^2 = 0.8; E = 1/3
  >>> round(modes_kept(x, np.zeros(4), np.array([0, 0, 1, 1]))["modes_kept"], 6)
  0.7
  """
  _, coarse = np.unique(labels, return_inverse=True)
  _, fine = np.unique(fine_labels, return_inverse=True)
  pairs, codes = np.unique(coarse * (fine.max() + 1) + fine, return_inverse=True)
  owner = pairs // (fine.max() + 1)  # the class of each mode
  sums, squares, counts = _moments(x, codes, block_size)
  within = np.bincount(owner, _scatter(sums, squares, counts))
  modes, items = np.bincount(owner), np.bincount(owner, counts)
  class_sums = np.add.reduceat(sums, np.unique(owner, return_index=True)[1])
  total = _scatter(class_sums, np.bincount(owner, squares), items)

  used = modes > 1
  expected = (items - modes)[used]
  if not expected.sum():
    return {}
  point = total[used] <= _POINT * items[used]
  ratio = within[used] / np.where(point, 1.0, total[used])
  observed = np.where(point, expected, (items[used] - 1) * ratio)
  return {"modes_kept": float(1.0 - observed.sum() / expected.sum())}


def _moments(
  x: np.ndarray, codes: np.ndarray, block_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns, a group: the sum of its rows [g, d], the sum of their squares and their number [g]."""
  counts = np.bincount(codes)
  sums, squares = np.zeros((len(counts), x.shape[1])), np.zeros(len(counts))
  order = np.argsort(codes, kind="stable")
  for start in range(0, len(x), block_size):
    rows = order[start : start + block_size]
    block = x[rows].astype(np.float64)
    groups, first = np.unique(codes[rows], return_index=True)
    sums[groups] += np.add.reduceat(block, first)
    squares[groups] += np.add.reduceat(np.square(block).sum(1), first)
  return sums, squares, counts


def _scatter(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns each group's sum of squared distances to its mean."""
  return np.maximum(squares - np.square(sums).sum(1) / counts, 0.0)


def _rank(similarity: np.ndarray, modes: np.ndarray, queries: np.ndarray) -> tuple[float, float]:
  """Sums recall at 1 and average precision at R over queries of one mode.

  `similarity` [q, m] is that of the items `queries` [q] to all of their class, of `modes` [m].
  """
  mode = modes[queries[0]]
  r = int((modes == mode).sum()) - 1
  keys = descending_keys(similarity)
  keys[np.arange(len(queries)), queries] = np.iinfo(np.uint64).max  # never its own neighbour
  nearest = np.sort(np.partition(keys, r - 1, axis=1)[:, :r], axis=1)
  hits = modes[nearest & np.uint64(0xFFFFFFFF)] == mode
  precision = np.cumsum(hits, axis=1) / np.arange(1, r + 1)
  return float(hits[:, 0].sum()), float((hits * precision).sum() / r)
