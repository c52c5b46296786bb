"""The facts of a loss that the engine's callers, HDML and configs need: one record each."""

from collections.abc import Callable
from typing import NamedTuple

from jaxdml.types import Array, DistanceFn, ReduceFn


class Parameter(NamedTuple):
  """The array that a loss learns, params[name], and the way to make it."""

  name: str
  axes: tuple[str, ...]  # "num_classes" first, "dim" last; one between them: vectors of a class
  init: Callable[..., dict[str, Array]]  # (key, num_classes, dim, **options) -> params
  options: tuple[str, ...] = ()  # their names


class Loss(NamedTuple):
  """Facts of a loss, as `RECORDS` beside it and `jaxdml.losses.LOSSES` list it."""

  name: str  # as in `create` and in configs
  fn: Callable[..., Array]  # the loss, a plain function
  options: tuple[str, ...]  # names of its own hyperparameters
  distance_fn: DistanceFn  # its default distance, as in its signature
  reduce_fn: ReduceFn  # its default reducer, as in its signature
  # Its rows need nothing but their own anchor, so it is a sum over blocks of anchors; not so for
  # losses that need sums over all rows first.
  additive: bool = True
  # What it learns; None for a loss of embeddings and labels alone, which takes `refs`.
  parameter: Parameter | None = None
