"""Measures of embeddings that a report shows: hubs, similarities of pairs, a map. Arrays only."""

from typing import NamedTuple

import numpy as np

_BINS = 1000  # of cosine similarity, from -1 to 1; shown in at most _SHOWN
_SHOWN = 80
_BLOCK_ELEMENTS = 1 << 22


class Hubs(NamedTuple):
  """Items in many lists of nearest neighbours (hubness: Radovanovic et al., JMLR 11, 2010)."""

  rows: np.ndarray  # [h] the most frequent ones
  occurrences: np.ndarray  # [h] N_k: how many queries have each among their k nearest
  lists: list[np.ndarray]  # for each hub, the places of such queries, the most similar first
  skewness: float  # third standardized moment of N_k over all items; hubs make it large
  never: float  # share of items that are in no list


def find_hubs(
  indices: np.ndarray, similarities: np.ndarray, items: int, count: int, shown: int
) -> Hubs:
  """Counts how often each of `items` is among the k nearest; -1 in indices [q, k] is none.

  Returns `count` hubs, each with `shown` queries.

  >>> find_hubs(np.array([[1], [0], [1]]), np.zeros((3, 1)), 3, 1, 2).occurrences.tolist()
  [2]
  """
  occurrences = np.bincount(indices[indices >= 0], minlength=items)
  rows = np.argsort(-occurrences, kind="stable")[:count]
  lists = []
  for row in rows:
    queries, places = np.nonzero(indices == row)
    lists.append(queries[np.argsort(-similarities[queries, places], kind="stable")][:shown])
  deviation = occurrences - occurrences.mean()
  spread = np.sqrt(np.square(deviation).mean())
  skewness = float((deviation**3).mean() / spread**3) if spread > 0 else 0.0
  return Hubs(rows, occurrences[rows], lists, skewness, float((occurrences == 0).mean()))


class Similarities(NamedTuple):
  """Histograms of the cosine similarity of pairs."""

  edges: np.ndarray  # [b + 1]
  positive: np.ndarray  # [b] density of pairs of one class; they integrate to 1
  negative: np.ndarray  # [b] density of pairs of two classes
  positive_pairs: int  # how many were measured
  negative_pairs: int
  anchors: int  # images whose pairs with all others were measured
  overlap: float  # the area under both densities: 0 apart, 1 alike
  auc: float  # chance that a positive pair is more similar than a negative one; 0.5 is guessing


def pair_similarities(
  x: np.ndarray, labels: np.ndarray, *, max_pairs: int = 20_000_000, seed: int = 0
) -> Similarities | None:
  """Measures all pairs of rows x [n, d] of unit norm, or those of some anchors with all others.

  Beyond `max_pairs` anchors are drawn at random. None where there is no pair of one class, or none
  of two.
  """
  n = len(x)
  count = min(n, max(1, max_pairs // n))
  anchors = np.arange(n)
  if count < n:
    anchors = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
  _, codes = np.unique(labels, return_inverse=True)
  counts = np.zeros(2 * _BINS, np.int64)
  step = max(1, _BLOCK_ELEMENTS // n)
  for start in range(0, count, step):
    rows = anchors[start : start + step]
    bins = np.clip((x[rows] @ x.T + 1) * (_BINS / 2), 0, _BINS - 1).astype(np.int64)
    bins += np.where(codes[rows][:, None] == codes, _BINS, 0)
    own = bins[np.arange(len(rows)), rows]
    counts += np.bincount(bins.ravel(), minlength=2 * _BINS)
    counts -= np.bincount(own, minlength=2 * _BINS)
  negative, positive = counts[:_BINS], counts[_BINS:]
  if not negative.sum() or not positive.sum():
    return None
  below = np.cumsum(negative) - 0.5 * negative  # Pairs of one bin count as ties.
  auc = float((positive * below).sum() / (positive.sum() * negative.sum()))
  edges, positive_density, negative_density = _shown(positive, negative)
  width = edges[1] - edges[0]
  overlap = float(np.minimum(positive_density, negative_density).sum() * width)
  ends = 2 if count == n else 1  # Every unordered pair was met from both, if all were anchors.
  pairs = int(positive.sum()) // ends, int(negative.sum()) // ends
  return Similarities(edges, positive_density, negative_density, *pairs, count, overlap, auc)


def _shown(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Edges and densities of at most _SHOWN bins over the range that occurs."""
  used = np.flatnonzero(positive + negative)
  low, high = int(used[0]), int(used[-1]) + 1
  size = -(-(high - low) // _SHOWN)
  bins = -(-(high - low) // size)
  edges = (low + size * np.arange(bins + 1)) / (_BINS / 2) - 1
  densities = []
  for counts in (positive, negative):
    cut = np.zeros(bins * size)
    kept = counts[low : low + bins * size]
    cut[: len(kept)] = kept
    grouped = cut.reshape(bins, size).sum(1)
    densities.append(grouped / (grouped.sum() * (edges[1] - edges[0])))
  return edges, *densities


class Projection(NamedTuple):
  """Two maps of the same points."""

  rows: np.ndarray  # [m] which rows they are
  pca: np.ndarray  # [m, 2]
  tsne: np.ndarray | None  # [m, 2]; None for fewer than 5 points
  explained: np.ndarray  # [2] share of the variance along PCA's two axes


def project(x: np.ndarray, *, max_points: int, seed: int = 0) -> Projection:
  """Draws up to `max_points` of x [n, d], n > 1, and lays them out by PCA and by t-SNE.

  t-SNE starts from PCA and sees the first 50 principal components; perplexity 30, less for fewer
  than 91 points.
  """
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  rows = np.arange(len(x))
  if len(x) > max_points:
    rows = np.sort(np.random.default_rng(seed).choice(len(x), max_points, replace=False))
  # Float64: the rows of a collapsed model differ in their last bits alone.
  points = x[rows].astype(np.float64)
  components = min(50, *points.shape)
  reduced, explained = np.zeros((len(rows), components)), np.zeros(min(2, components))
  if (points != points[0]).any():  # Else there is no variance to share out.
    pca = PCA(components, svd_solver="full", random_state=seed)
    reduced = pca.fit_transform(points)
    explained = pca.explained_variance_ratio_[:2]
  flat = np.zeros((len(rows), 2))
  flat[:, : min(2, components)] = reduced[:, :2]
  tsne = None
  if len(rows) >= 5:
    perplexity = min(30.0, (len(rows) - 1) / 3)
    start = 1e-4 * flat / max(float(flat[:, 0].std()), 1e-12)
    model = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=seed)
    # Its threads wait for each other by spinning: on cores shared with others two took seven times
    # as long as one.
    with threadpool_limits(1):
      tsne = model.fit_transform(reduced.astype(np.float32))
  return Projection(rows, flat, tsne, np.pad(explained, (0, 2 - len(explained))))
