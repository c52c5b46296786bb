"""Embeddings of whole batches of images, as the metrics take them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm


class Embedded(NamedTuple):
  """Embeddings and the columns that go with them."""

  embeddings: np.ndarray  # [n, d] float32
  columns: dict[str, np.ndarray]  # everything else in the batches by name, [n, ...]: labels, ids


def embed_batches(
  apply_fn: Callable[[Any], Any],
  batches: Iterable[Mapping[str, Any]],
  *,
  progress: bool = True,
  total: int | None = None,
  description: str = "embed",
) -> Embedded:
  """Embeds every image of the batches, leaves the padding out, and returns arrays on the host.

  Args:
    apply_fn: images [b, h, w, c] to embeddings [b, d]; jit it, every batch has the same shape. It
      may also map [devices, b, h, w, c] to [devices, b, d]; the rows come out in that order.
    batches: dicts of `image`, optionally `mask` (bool, [b]: False is padding) and any columns [b].
    progress, total, description: of the bar, with the time left; `total` batches.

  Raises:
    ValueError: no batches, or a column with another number of rows than the images.

  >>> batch = {"image": np.ones((2, 2, 2, 1)), "mask": np.array([True, False]), "label": [7, 0]}
  >>> result = embed_batches(lambda images: images.reshape(2, -1), [batch], progress=False)
  >>> result.embeddings.shape, result.columns
  ((1, 4), {'label': array([7])})
  """
  embeddings, columns, waiting = [], [], None
  hidden = None if progress else True
  for batch in tqdm(
    batches, total=total, desc=description, unit="batch", disable=hidden, leave=False
  ):
    running = (apply_fn(batch["image"]), batch)
    # One batch behind, so that the device computes while the host copies.
    if waiting is not None:
      _collect(*waiting, embeddings, columns)
    waiting = running
  if waiting is None:
    raise ValueError("batches: expected at least one batch, got none; is the split empty?")
  _collect(*waiting, embeddings, columns)
  return Embedded(
    np.concatenate(embeddings),
    {name: np.concatenate([column[name] for column in columns]) for name in columns[0]},
  )


def raw_pixels(
  batches: Iterable[Mapping[str, Any]],
  *,
  center: bool = False,
  progress: bool = False,
  total: int | None = None,
) -> Embedded:
  """Returns flattened pixels as embeddings: the floor that a trained model has to beat.

  Args:
    batches, progress, total: as in `embed_batches`.
    center: subtract each image's mean, so that cosine similarity is Pearson's correlation.

  >>> raw_pixels([{"image": np.array([[[[1.0], [3.0]]]])}], center=True).embeddings
  array([[-1.,  1.]], dtype=float32)
  """

  def flatten(images: Any) -> np.ndarray:
    images = np.asarray(images, np.float32)
    pixels = images.reshape(*images.shape[:-3], -1)
    return pixels - pixels.mean(-1, keepdims=True) if center else pixels

  return embed_batches(flatten, batches, progress=progress, total=total, description="raw pixels")


def _collect(
  outputs: Any, batch: Mapping[str, Any], embeddings: list, columns: list[dict[str, np.ndarray]]
) -> None:
  """Appends the rows of one batch that are not padding."""
  outputs = np.asarray(outputs, np.float32)
  leading = outputs.shape[:-1]
  mask = np.asarray(batch["mask"], bool) if "mask" in batch else np.ones(leading, bool)
  rows = {name: np.asarray(value) for name, value in batch.items() if name not in ("image", "mask")}
  for name, value in [("mask", mask), *rows.items()]:
    if value.shape[: len(leading)] != leading:
      raise ValueError(
        f"batches: expected {name!r} to start with {leading} as the embeddings do, "
        f"got shape {value.shape}"
      )
  embeddings.append(outputs[mask])
  columns.append({name: value[mask] for name, value in rows.items()})
