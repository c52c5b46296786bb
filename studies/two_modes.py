"""Two classes of two modes under label noise: what a margin-based loss costs, exactly.

Easy positive sampling (arXiv 2006.05162) is argued from such a model. Here all examples of a mode
share an embedding, and every label is flipped to the other class with probability `noise`, afresh
in each batch. An anchor meets three groups: the others of its mode at distance 0, the other mode of
its class at distance d1, the other class at distance d2. Then everything has a closed form.

With u = noise (1 - noise) and k examples a mode, the triplet loss with all positives and D = d^2
expects of an anchor, summed over its triplets (margin m, [x]+ = max(x, 0)):

  u k(k-1) (4 m + [m - D1]+ + [m + D1]+ + 2 [m + D2]+)  - 2 u (k-1) m
  + 2 u k (k [m + D2 - D1]+ + (2k-1) m)
  + 2 (1 - 3u) k ((k-1) [m - D2]+ + k [m + D1 - D2]+)

and the margin loss, with boundary b,

  2 u (k-1) (b + m) + k ((1 - 2u) [d1 - b + m]+ + 2u [b + m - d1]+)
  + 2k (2u [d2 - b + m]+ + (1 - 2u) [b + m - d2]+)                                (m <= b)

`expected_loss` computes both, and the same with the nearest positive alone, group by group.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdml import losses

__all__ = ["LOSSES", "Landscape", "embeddings", "expected_loss", "landscape"]

LOSSES = ("triplet", "margin", "contrastive")
"""Losses with a closed form, with jaxdml's default hyperparameters and distances."""


class _Group(NamedTuple):
  """Examples that an anchor sees at one distance.

  Attributes:
    distance: plain Euclidean, any shape.
    count: how many examples.
    same: probability that one of them bears the anchor's label.
  """

  distance: np.ndarray
  count: int
  same: float


def _default(loss: str, name: str) -> float:
  return inspect.signature(losses.LOSSES[loss].fn).parameters[name].default


def _pair_terms(loss: str) -> tuple[Callable, Callable]:
  """(cost of a positive, cost of a negative) at a distance."""
  relu = lambda x: np.maximum(x, 0.0)
  if loss == "margin":
    margin, beta = _default(loss, "margin"), _default(loss, "beta")
    return lambda d: relu(d - beta + margin), lambda d: relu(beta - d + margin)
  near, far = _default(loss, "positive_margin"), _default(loss, "negative_margin")
  return lambda d: relu(d - near) ** 2, lambda d: relu(far - d) ** 2


def _of_anchor(loss: str, groups: Sequence[_Group], easy: bool) -> np.ndarray:
  """Expected sum over an anchor's tuples; groups come the nearest first."""
  none = [(1.0 - g.same) ** g.count for g in groups]  # P(no positive in the group)
  before = np.cumprod([1.0, *none])  # P(no positive in any nearer group)
  total = np.zeros_like(groups[0].distance)
  if loss != "triplet":
    pull, push = _pair_terms(loss)
    for i, g in enumerate(groups):
      kept = before[i] * (1.0 - none[i]) if easy else g.count * g.same
      total = total + kept * pull(g.distance) + g.count * (1.0 - g.same) * push(g.distance)
    return total
  margin = _default(loss, "margin")
  for i, g in enumerate(groups):
    for j, h in enumerate(groups):
      # Expected number of pairs (kept positive in g, negative in h).
      negatives = h.count * (1.0 - h.same)
      if not easy:
        number = (g.count - (i == j)) * g.same * negatives
      elif j < i:  # all of a nearer group are negatives
        number = before[i] * (1.0 - none[i]) * h.count
      elif j == i:  # some of the group are not
        number = before[i] * (negatives - g.count * none[i])
      else:
        number = before[i] * (1.0 - none[i]) * negatives
      gap = np.square(g.distance) - np.square(h.distance)
      total = total + number * np.maximum(gap + margin, 0.0)
  return total


def expected_loss(
  loss: str,
  mode_distance: np.ndarray | float,
  class_distance: np.ndarray | float,
  *,
  noise: float,
  per_mode: int,
  easy: bool = False,
) -> np.ndarray:
  """The loss that an anchor expects, summed over its tuples, under random label flips.

  Args:
    loss: one of `LOSSES`.
    mode_distance: d1, Euclidean distance between the modes of a class, any shape.
    class_distance: d2, between any mode of one and any mode of the other class.
    noise: probability that a label is flipped, in [0, 1].
    per_mode: examples of each mode in a batch, at least 1.
    easy: the nearest positive alone (`mining.nearest_positive`), not all.

  Returns:
    float64, of the distances' common shape.

  Raises:
    ValueError: unknown loss, noise or per_mode out of range.

  >>> float(expected_loss("margin", 0.9, 1.5, noise=0.0, per_mode=4))  # nothing to gain
  0.0
  """
  if loss not in LOSSES:
    raise ValueError(f"loss: expected one of {', '.join(LOSSES)}; got {loss!r}")
  if not 0.0 <= noise <= 1.0:
    raise ValueError(f"noise: expected a probability; got {noise}")
  if per_mode < 1:
    raise ValueError(f"per_mode: expected at least 1; got {per_mode}")
  d1, d2 = np.broadcast_arrays(
    *(np.asarray(d, np.float64) for d in (mode_distance, class_distance))
  )
  total = np.zeros(d1.shape)
  # An anchor whose own label is right, or flipped: then its class mostly bears the other label.
  for share, same in ((1.0 - noise, 1.0 - noise), (noise, noise)):
    own = _Group(np.zeros(d1.shape), per_mode - 1, same)
    mode = _Group(d1, per_mode, same)
    other = _Group(d2, 2 * per_mode, 1.0 - same)
    mode_first = _of_anchor(loss, (own, mode, other), easy)
    class_first = _of_anchor(loss, (own, other, mode), easy)
    total = total + share * np.where(d1 <= d2, mode_first, class_first)
  return total


def embeddings(mode_distance: float, class_distance: float) -> np.ndarray:
  """Unit vectors [4, 4] with these distances; rows are the modes 0 and 1 of class 0, then class 1.

  Raises:
    ValueError: no such points on the sphere: d1 <= 2 and d1^2/2 <= d2^2 <= 4 - d1^2/2 is needed.

  >>> z = embeddings(1.0, 1.2)
  >>> print(np.linalg.norm(z[0] - z[1:], axis=1).round(6))
  [1.  1.2 1.2]
  """
  low, high = _class_distances(mode_distance)
  if not (0.0 <= mode_distance <= 2.0 and low - 1e-9 <= class_distance <= high + 1e-9):
    raise ValueError(
      f"no four points on the sphere have mode_distance={mode_distance} and "
      f"class_distance={class_distance}: expected 0 to 2, and then {low:.4f} to {high:.4f}"
    )
  half = mode_distance / 2.0
  radius = np.sqrt(max(1.0 - half**2, 0.0))
  cosine = (1.0 - class_distance**2 / 2.0) / radius**2 if radius > 0 else 0.0
  angle = np.arccos(np.clip(cosine, -1.0, 1.0)) / 2.0
  c, s = radius * np.cos(angle), radius * np.sin(angle)
  return np.array([[c, s, half, 0], [c, s, -half, 0], [c, -s, 0, half], [c, -s, 0, -half]])


def _class_distances(mode_distance: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
  """The smallest and largest d2 on the sphere beside a d1."""
  half = np.square(mode_distance) / 2.0
  return np.sqrt(half), np.sqrt(np.maximum(4.0 - half, half))


class Landscape(NamedTuple):
  """The loss over the distance between modes, the classes as far apart as suits it best.

  Attributes:
    mode_distance: [points], from 0.
    class_distance: [points], the best one on the sphere beside it.
    value: [points], the expected loss of an anchor there.
  """

  mode_distance: np.ndarray
  class_distance: np.ndarray
  value: np.ndarray

  def minima(self, tolerance: float = 1e-9) -> tuple[float, float]:
    """The smallest and largest mode distance at which the loss is lowest."""
    at = self.mode_distance[self.value <= self.value.min() + tolerance]
    return float(at[0]), float(at[-1])


def _kinks(loss: str, d1: np.ndarray) -> list[np.ndarray]:
  """The class distances beside d1 at which a hinge of the loss begins."""
  if loss == "triplet":
    squares = [_default(loss, "margin") + sign * d1**2 for sign in (-1, 0, 1)]
    return [np.sqrt(np.abs(square)) for square in squares]
  if loss == "margin":
    beta, margin = _default(loss, "beta"), _default(loss, "margin")
    return [np.full_like(d1, beta - margin), np.full_like(d1, beta + margin), d1]
  return [np.full_like(d1, _default(loss, "negative_margin")), d1]


def landscape(
  loss: str, *, noise: float, per_mode: int, easy: bool = False, points: int = 181
) -> Landscape:
  """min over d2 of `expected_loss`, for mode distances from 0 to 1.8 on the unit sphere."""
  d1 = np.linspace(0.0, 1.8, points)
  low, high = (d[:, None] for d in _class_distances(d1))
  d2 = low + np.linspace(0.0, 1.0, 401) * (high - low)
  # Hinges are lowest at their kinks, which a grid would miss.
  kinks = [np.clip(kink[:, None], low, high) for kink in _kinks(loss, d1)]
  d2 = np.concatenate([d2, *kinks], axis=1)
  value = expected_loss(loss, d1[:, None], d2, noise=noise, per_mode=per_mode, easy=easy)
  best = np.argmin(value, axis=1)
  rows = np.arange(points)
  return Landscape(d1, d2[rows, best], value[rows, best])
