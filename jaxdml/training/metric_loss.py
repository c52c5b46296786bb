"""The metric loss as a config names it: miner, layout, cross-batch memory, its own parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxdml import distances, losses, mining, refs
from jaxdml.losses import reducers
from jaxdml.refs import memory as memory_lib
from jaxdml.training.config import Config, ConfigError, duration
from jaxdml.types import Array, Batch, DistanceFn, MiningFn, PyTree

_BY_COSINE = set(distances.NAMES) - {"hyperbolic"}


def loss_of(config: ConfigDict) -> Callable[..., Array]:
  """Returns the loss that a config names, its options bound."""
  loss = losses.create(config.loss.name, **config.loss.options)
  return functools.partial(loss, block_size=config.loss.block_size or None)


def distance_of(config: ConfigDict) -> DistanceFn:
  """Returns the distance that a config names, or else its loss's own."""
  loss = config.loss
  if loss.distance:
    return distances.create(loss.distance, **loss.distance_options)
  return losses.LOSSES[loss.name].distance_fn


def ranking_of(config: ConfigDict) -> DistanceFn | None:
  """Returns the distance that a run's embeddings are ranked by; None is cosine similarity.

  By default what was trained on cosines, inner products or Euclidean distances is ranked by cosine
  similarity, which is how the field measures it; any other distance ranks as it was trained.
  """
  by_cosine = (config.loss.distance or "cosine") in _BY_COSINE
  if config.eval.rank_by == "cosine" or (by_cosine and config.eval.rank_by != "trained"):
    return None
  distance_fn = distance_of(config)
  return None if distance_fn is distances.cosine else distance_fn


def miner_of(config: ConfigDict) -> MiningFn | None:
  """Returns the chain of miners that a config names; None where it takes all pairs."""
  names = f"{config.mining.positive}+{config.mining.negative}".split("+")
  names = [name for name in names if name not in ("all_positives", "all_negatives")]
  options = dict(config.mining.options)
  if "distance_weighted_negative" in names:
    options.setdefault("dim", config.embedding.dim)
  named = bool(names or options)
  return mining.create("+".join(names or ["all_negatives"]), **options) if named else None


class MetricLoss:
  """The loss that a checked config names, with its distance, reducer, chain of miners and layout.

  It is `additive` if it is a sum over anchors, as HDML likes to know.
  """

  def __init__(self, config: Config, num_classes: int, steps_per_epoch: int, axis_name: str | None):
    self._config, self._num_classes, self._axis_name = config, num_classes, axis_name
    facts, named = losses.LOSSES[config.loss.name], config.loss.reducer
    self._loss_fn, self.distance_fn = loss_of(config), distance_of(config)
    if config.loss.precision and isinstance(self.distance_fn, distances.Distance):
      self.distance_fn = self.distance_fn.at(config.loss.precision)
    self.reduce_fn = reducers.create(named) if named else facts.reduce_fn
    self.additive, self._parametric = facts.additive, facts.parameter is not None
    self._warmup = duration(config.memory.warmup, steps_per_epoch, "memory.warmup")
    self.mining_fn = miner_of(config)
    self.layout = refs.create(config.loss.layout)

  def init_params(self, key: Array) -> PyTree:
    """The loss's own parameters; {} for a loss without."""
    loss, dim = self._config.loss, self._config.embedding.dim
    if loss.learnable_beta == "none":
      return losses.init(loss.name, key, self._num_classes, dim, **loss.init_options)
    shape = () if loss.learnable_beta == "scalar" else (self._num_classes,)
    beta = jnp.asarray(loss.options.get("beta", 1.2), jnp.float32)
    if beta.shape not in ((), shape):
      each = f" or one for each of the {self._num_classes} classes" if shape else ""
      raise ConfigError(
        f"config.loss.options.beta: expected a number{each}; got shape {beta.shape}"
      )
    return {"beta": jnp.broadcast_to(beta, shape)}

  def init_memory(self) -> Any:
    """The empty cross-batch memory; () where the config has none."""
    size = self._config.memory.size
    return memory_lib.init(size, self._config.embedding.dim) if size else ()

  def bind(self, params: dict[str, PyTree]) -> Callable[..., Array]:
    """The loss with its own parameters, params["loss"] if there are any."""
    own = params.get("loss", {})
    return functools.partial(self._loss_fn, **({"params": own} if self._parametric else own))

  def __call__(
    self, params: dict[str, PyTree], z: Array, batch: Batch, memory: Any, step: Array, key: Array
  ) -> tuple[Array, Any]:
    """The loss of the embeddings z [n, d] of a batch, and the memory with them in it.

    Nothing is stored in the first `config.memory.warmup`: those embeddings would soon be stale.
    """
    labels, axis_name = batch["label"], self._axis_name
    shared = {"distance_fn": self.distance_fn, "reduce_fn": self.reduce_fn, "axis_name": axis_name}
    loss = functools.partial(self.bind(params), mining_fn=self.mining_fn, key=key, **shared)
    if self._parametric:
      return loss(z, labels), memory
    # The record's number, so that an image is no pair with itself: not where a small class repeats
    # it in the batch, and not with an older embedding of it in the memory.
    anchors, anchor_labels, ids, given = self.layout(z, labels, axis_name, ids=batch["index"])
    if not self._config.memory.size:
      return loss(anchors, anchor_labels, refs=given, ids=ids), memory
    value = loss(anchors, anchor_labels, refs=memory_lib.extend(given, memory), ids=ids)
    stored = jnp.broadcast_to(step >= self._warmup, labels.shape)
    return value, memory_lib.enqueue(
      memory, z, labels, ids=batch["index"], where=stored, axis_name=axis_name
    )
