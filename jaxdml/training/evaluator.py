"""Evaluation during training: embeds a split on all devices and scores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import data, evaluation
from jaxdml.training import parallel
from jaxdml.training.program import TrainState
from jaxdml.types import Array

__all__ = ["Evaluator"]


def _logged(name: str) -> bool:
  """Leaves out Recall@1 under its other name, and all but two of the means over classes."""
  if name.startswith("macro/"):
    return name in ("macro/recall@1", "macro/map@r")
  return name != "precision@1"


class Evaluator:
  """Scores models on one split of unseen images.

  Images are ranked among themselves; a data set with a `gallery` column (0 query, 1 gallery) ranks
  its gallery for each query. Clustering (`eval.clustering`) and the diagnostics of class collapse
  (`eval.diagnostics`, named collapse/...) take all images.

  Args:
    config: the run's.
    dataset: the images; `eval_label` (or `label`) says what counts as a match.
    embed_fn: ({"params", "batch_stats"}, images) -> embeddings, per device.
  """

  def __init__(self, config: ConfigDict, dataset: data.Dataset, embed_fn: Callable[..., Array]):
    devices = jax.local_device_count()
    self._batch_size = -(-config.eval.batch_size // devices) * devices
    self._config = config
    self._dataset = dataset
    self._classes = dataset.column(config.data.label)
    self._labels = dataset.column(config.data.eval_label or config.data.label)
    self._embed = parallel.compile_embed(embed_fn)
    self._bad_images = data.BadImages(dataset, config.data.max_bad_images)
    keys = config.data
    self.preprocess = data.preprocess.from_config(keys, train=False, cache=keys.cache)

  @property
  def name(self) -> str:
    """The data set's split, for messages."""
    return f"{self._dataset.name} {self._dataset.split}"

  def _batches(self) -> data.Batches:
    return data.eval_batches(
      self._dataset,
      self.preprocess,
      self._batch_size,
      self._config.data.num_workers,
      self._bad_images,
    )

  def score(self, embedded: evaluation.Embedded) -> dict[str, float]:
    """Metrics of what `embed` or `pixels` returned."""
    rows, x = embedded.columns["index"], embedded.embeddings
    labels, ks, seed = self._labels[rows], self._config.eval.ks, self._config.seed
    if data.GALLERY in self._dataset.labels:
      stored = self._dataset.column(data.GALLERY)[rows] == 1
      metrics = evaluation.retrieval_metrics(
        x[~stored],
        labels[~stored],
        gallery=x[stored],
        gallery_labels=labels[stored],
        ks=ks,
        macro=True,
      )
    else:
      metrics = evaluation.retrieval_metrics(x, labels, ks=ks, macro=True)
    metrics = {name: value for name, value in metrics.items() if _logged(name)}
    if self._config.eval.clustering:
      metrics |= evaluation.clustering_metrics(x, labels, seed=seed)
    if self._config.eval.diagnostics:
      # Where classes are not split by a finer label, what measures their modes is left out.
      collapse = evaluation.collapse_metrics(x, self._classes[rows], labels, seed=seed)
      metrics |= {f"collapse/{name}": value for name, value in collapse.items()}
    return {**metrics, "num_undecodable": len(self._dataset) - len(rows)}

  @property
  def _total(self) -> int:
    return -(-len(self._dataset) // self._batch_size)

  def embed(self, state: TrainState) -> evaluation.Embedded:
    """Embeds every image that can be decoded with a model on the host, in the data set's order."""
    keep = ("encoder", "embedding")
    pick = lambda tree: {name: tree[name] for name in keep if name in tree}
    variables = {"params": pick(state.params), "batch_stats": pick(state.batch_stats)}
    variables = parallel.replicate(variables)

    def apply(images: np.ndarray) -> Any:
      return self._embed(variables, parallel.split(images)).reshape(len(images), -1)

    return self.embed_with(apply)

  def embed_with(self, apply: Callable[[np.ndarray], Any]) -> evaluation.Embedded:
    """Likewise, with any function of uint8 images [b, h, w, c] that gives [b, d]."""
    with self._batches() as batches:
      return evaluation.embed_batches(
        apply, batches, total=self._total, description=f"embed {self.name}"
      )

  def pixels(self) -> evaluation.Embedded:
    """The flattened, centred pixels that the network receives: the embedding of no model."""
    with self._batches() as batches:
      normalized = ({**b, "image": self.preprocess.normalize(b["image"])} for b in batches)
      return evaluation.raw_pixels(normalized, center=True, total=self._total)

  def model(self, state: TrainState) -> dict[str, float]:
    """Metrics of a model on the host."""
    return self.score(self.embed(state))

  def raw_pixels(self) -> dict[str, float]:
    """Metrics of the raw pixels: the floor."""
    return self.score(self.pixels())
