"""From uint8 images to embeddings, as a config describes it: what is left when training is over."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxdml import models
from jaxdml.data import preprocess
from jaxdml.data.normalize import Normalize
from jaxdml.types import Array, PyTree

__all__ = ["Embedder", "build"]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
  """The two networks that images pass through, and what comes before them.

  Attributes:
    encoder: images to features.
    embedding: features to embeddings.
    normalize: 8-bit pixels to what the encoder takes.
    image_shape: [h, w, c] of an image.
  """

  encoder: Any
  embedding: models.Embedding
  normalize: Normalize
  image_shape: tuple[int, int, int]

  def init(self, keys: dict[str, Array]) -> dict[str, PyTree]:
    """Returns the variables before training of "encoder" and "embedding", each by its key."""
    inputs = {
      "encoder": jnp.zeros((1, *self.image_shape)),
      "embedding": jnp.zeros((1, self.encoder.feature_dim)),
    }
    return {
      name: getattr(self, name).init(keys[name], x, train=False) for name, x in inputs.items()
    }

  def abstract(self) -> dict[str, PyTree]:
    """Returns {"params", "batch_stats"}, each a dict by network, as shapes and dtypes."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: self.init({"encoder": key, "embedding": key}))
    return {
      kind: {name: v[kind] for name, v in variables.items() if kind in v}
      for kind in ("params", "batch_stats")
    }

  def embed(self, variables: PyTree, images: Array) -> Array:
    """Returns embeddings [b, d] float32 of images [b, h, w, c], uint8 or floats of the same range.

    Args:
      variables: {"params", "batch_stats"}, each a dict by network.
      images: of `image_shape`, RGB or grey.
    """
    pick = lambda name: {kind: tree[name] for kind, tree in variables.items() if name in tree}
    y = self.encoder.apply(pick("encoder"), self.normalize(images), train=False)
    return self.embedding.apply(pick("embedding"), y, train=False)


def build(config: ConfigDict, axis_name: str | None = None) -> Embedder:
  """The networks of a config whose hdml.variant is resolved.

  Args:
    config: with every key of jaxdml/training/defaults.py.
    axis_name: mapped axis over which BatchNorm is synchronised in training.

  Raises:
    ValueError: unknown names or options.
  """
  encoder = models.create(
    config.encoder.name,
    axis_name=axis_name,
    frozen_bn=config.encoder.frozen_bn,
    dtype=jnp.dtype(config.encoder.dtype),
    **config.encoder.options,
  )
  embedding = models.Embedding(
    config.embedding.dim,
    axis_name=axis_name,
    norm=config.embedding.norm,
    unit_norm=config.embedding.unit_norm,
    kernel_scale=config.embedding.kernel_scale,
    momentum=config.embedding.bn_momentum,
  )
  pixels = preprocess.from_config(config.data, train=False)
  return Embedder(encoder, embedding, pixels.normalize, pixels.shape)
