"""Losses as pure functions: loss(embeddings [n, d], labels [n], *, ...) -> scalar.

>>> import jax
>>> from jaxdml import losses, mining
>>> x = jax.random.normal(jax.random.key(0), (8, 4))
>>> y = jax.numpy.arange(8) // 2
>>> eps_triplet = lambda x, y: losses.triplet_loss(x, y, mining_fn=mining.nearest_positive)
>>> value, gradient = jax.jit(jax.value_and_grad(eps_triplet))(x, y)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxdml.losses import class_vectors, pair, proxy, ranking, reducers, softmax, structure, triplet
from jaxdml.losses._engine import from_rows
from jaxdml.losses._rows import Inputs, TwoPass, element_rows, make_pairs
from jaxdml.losses.class_vectors import *  # noqa: F403
from jaxdml.losses.pair import *  # noqa: F403
from jaxdml.losses.proxy import *  # noqa: F403
from jaxdml.losses.ranking import *  # noqa: F403
from jaxdml.losses.softmax import *  # noqa: F403
from jaxdml.losses.structure import *  # noqa: F403
from jaxdml.losses.triplet import *  # noqa: F403
from jaxdml.types import Loss, Parameter, PyTree

_MODULES = (pair, triplet, softmax, structure, ranking, class_vectors, proxy)

LOSSES: dict[str, Loss] = {
  loss.name: loss for loss in sorted((x for m in _MODULES for x in m.RECORDS), key=lambda x: x.name)
}
"""Name -> facts of a loss, for `create`, `init` and configs; losses of one's own may be added."""

__all__ = [
  "LOSSES", "SHARED", "Inputs", "Loss", "Parameter", "TwoPass", "create", "element_rows",
  "from_rows", "init", "make_pairs", "reducers",
]  # fmt: skip
__all__ += class_vectors.__all__
__all__ += pair.__all__
__all__ += proxy.__all__
__all__ += ranking.__all__
__all__ += softmax.__all__
__all__ += structure.__all__
__all__ += triplet.__all__

SHARED = (
  "params", "refs", "ids", "where", "weights", "distance_fn", "mining_fn", "key", "reduce_fn",
  "block_size", "axis_name",
)  # fmt: skip
"""Arguments that losses share; the others are a loss's own hyperparameters."""


def __dir__() -> list[str]:
  return __all__


def _known(name: str) -> Loss:
  if name not in LOSSES:
    raise ValueError(f"unknown loss {name!r}; valid names: {', '.join(LOSSES)}")
  return LOSSES[name]


def create(name: str, **options: Any) -> Callable[..., jax.Array]:
  """Returns the loss of that name with its keyword arguments bound.

  Raises:
    ValueError: for an unknown loss or option, listing the valid ones.

  >>> loss = create("margin", margin=0.1)
  """
  loss = _known(name)
  left_out = ("params",) if loss.parameter is None else ("params", "refs", "ids")
  shared = [x for x in SHARED if x not in left_out]
  valid = [*loss.options, *shared]
  if unknown := sorted(set(options) - set(valid)):
    raise ValueError(f"loss {name!r} has no option {unknown}; valid options: {', '.join(valid)}")
  return functools.partial(loss.fn, **options)


def init(name: str, key: jax.Array, num_classes: int, dim: int, **options: Any) -> PyTree:
  """Returns the parameters of the loss of that name, {} for one that has none.

  Raises:
    ValueError: for an unknown loss or option, listing the valid ones.

  >>> params = init("soft_triple", jax.random.key(0), 5, 8, centers_per_class=2)
  >>> params["centers"].shape
  (5, 2, 8)
  """
  parameter = _known(name).parameter
  valid = () if parameter is None else parameter.options
  if unknown := sorted(set(options) - set(valid)):
    known = ", ".join(valid) or "none"
    raise ValueError(f"loss {name!r} has no init option {unknown}; valid options: {known}")
  return {} if parameter is None else parameter.init(key, num_classes, dim, **options)
