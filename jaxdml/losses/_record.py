"""The facts of a loss that the engine's callers, HDML and configs need: one record each."""

from collections.abc import Callable
from typing import NamedTuple

from jaxdml.types import Array, DistanceFn, ReduceFn


class Parameter(NamedTuple):
  """The array that a loss learns, params[name], and the way to make it.

  Attributes:
    name: its key in `params`.
    axes: names of its axes, "num_classes" first and "dim" last; one between them holds the vectors
      of a class.
    init: (key, num_classes, dim, **options) -> params.
    options: names of those options.
  """

  name: str
  axes: tuple[str, ...]
  init: Callable[..., dict[str, Array]]
  options: tuple[str, ...] = ()


class Loss(NamedTuple):
  """Facts of a loss, as `jaxdml.losses.LOSSES` lists it.

  Attributes:
    name: as in `create` and in configs.
    fn: the loss, a plain function.
    options: names of its own hyperparameters.
    distance_fn: its default distance, as in its signature.
    reduce_fn: its default reducer, as in its signature.
    additive: its rows need nothing but their own anchor, so it is a sum over blocks of anchors;
      not so for losses that need sums over all rows first.
    parameter: what it learns; None for a loss of embeddings and labels alone, which takes `refs`.
  """

  name: str
  fn: Callable[..., Array]
  options: tuple[str, ...]
  distance_fn: DistanceFn
  reduce_fn: ReduceFn
  additive: bool = True
  parameter: Parameter | None = None
