"""Checks of the arrays that people pass to the metrics, and rows scaled to unit norm."""

from typing import Any

import numpy as np

from jaxdml._labels import as_given

_ROWS = 4096


def as_embeddings(name: str, value: Any) -> np.ndarray:
  """Returns `value` as a float32 array [n, d], n > 0, or raises ValueError naming `name`."""
  with np.errstate(over="ignore"):
    array = np.asarray(value, np.float32)
  if array.ndim != 2 or not array.size:
    raise ValueError(
      f"{name}: expected a non-empty array [n, d], got shape {array.shape}; "
      "flatten all axes but the first"
    )
  bad = ~np.isfinite(array).all(axis=1)
  if bad.any():
    raise ValueError(
      f"{name}: expected finite values, got NaN or infinity in {int(bad.sum())} of {len(array)} "
      f"rows, the first at row {int(bad.argmax())}; the model has probably diverged"
    )
  return array


def as_column(name: str, value: Any, length: int, of: str) -> np.ndarray:
  """Returns `value` as an array [length], or raises ValueError naming `name` and both lengths."""
  array = as_given(value)
  if array.ndim != 1:
    raise ValueError(f"{name}: expected one value a row, [n], got shape {array.shape}")
  if len(array) != length:
    raise ValueError(
      f"{name}: expected as many as {of} has rows, {length}, got {len(array)}; "
      "they have to describe the same rows"
    )
  return array


def as_positive(name: str, value: Any) -> int:
  """Returns `value` as an int of at least 1, or raises ValueError naming `name`."""
  try:
    whole = int(value)
    fits = bool(whole == value) and whole >= 1
  except (OverflowError, TypeError, ValueError):  # infinite, nothing, NaN, text
    fits = False
  if not fits:
    raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
  return whole


def normalized(embeddings: np.ndarray) -> np.ndarray:
  """Returns the rows of embeddings [n, d] scaled to unit L2 norm; a zero row stays zero.

  >>> normalized(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(1).tolist()
  [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
  """
  result = np.empty(embeddings.shape, np.float32)
  for start in range(0, len(embeddings), _ROWS):  # float64 copies of a block, not of everything
    rows = embeddings[start : start + _ROWS]
    norms = np.sqrt(np.square(rows, dtype=np.float64).sum(1, keepdims=True))
    result[start : start + _ROWS] = rows / np.where(norms > 0, norms, 1.0)
  return result
