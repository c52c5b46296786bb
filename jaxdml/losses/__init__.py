"""Losses as pure functions: loss(embeddings [n, d], labels [n], *, ...) -> scalar.

>>> import jax
>>> from jaxdml import losses, mining
>>> x = jax.random.normal(jax.random.key(0), (8, 4))
>>> y = jax.numpy.arange(8) // 2
>>> eps_triplet = lambda x, y: losses.triplet_loss(x, y, mining_fn=mining.nearest_positive)
>>> value, gradient = jax.jit(jax.value_and_grad(eps_triplet))(x, y)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxdml.losses import reducers as reducers
from jaxdml.losses.core import tuple_loss as tuple_loss
from jaxdml.losses.margin_softmax import arcface_loss as arcface_loss
from jaxdml.losses.margin_softmax import cosface_loss as cosface_loss
from jaxdml.losses.margin_softmax import normalized_softmax_loss as normalized_softmax_loss
from jaxdml.losses.margin_softmax import sphereface_loss as sphereface_loss
from jaxdml.losses.margin_softmax import sub_center_arcface_loss as sub_center_arcface_loss
from jaxdml.losses.pair import contrastive_loss as contrastive_loss
from jaxdml.losses.pair import margin_loss as margin_loss
from jaxdml.losses.pair import multi_similarity_loss as multi_similarity_loss
from jaxdml.losses.pair import signal_to_noise_contrastive_loss as signal_to_noise_contrastive_loss
from jaxdml.losses.pairs import Inputs as Inputs
from jaxdml.losses.pairs import TwoPass as TwoPass
from jaxdml.losses.pairs import element_rows as element_rows
from jaxdml.losses.pairs import make_pairs as make_pairs
from jaxdml.losses.proxy import proxy_anchor_loss as proxy_anchor_loss
from jaxdml.losses.proxy import proxy_nca_loss as proxy_nca_loss
from jaxdml.losses.proxy import proxy_nca_pp_loss as proxy_nca_pp_loss
from jaxdml.losses.proxy import soft_triple_loss as soft_triple_loss
from jaxdml.losses.ranking import fast_ap_loss as fast_ap_loss
from jaxdml.losses.ranking import histogram_loss as histogram_loss
from jaxdml.losses.ranking import smooth_ap_loss as smooth_ap_loss
from jaxdml.losses.softmax import angular_loss as angular_loss
from jaxdml.losses.softmax import nca_loss as nca_loss
from jaxdml.losses.softmax import npair_loss as npair_loss
from jaxdml.losses.softmax import ntxent_loss as ntxent_loss
from jaxdml.losses.softmax import supcon_loss as supcon_loss
from jaxdml.losses.softmax import tuplet_margin_loss as tuplet_margin_loss
from jaxdml.losses.structure import circle_loss as circle_loss
from jaxdml.losses.structure import (
  generalized_lifted_structure_loss as generalized_lifted_structure_loss,
)
from jaxdml.losses.structure import lifted_structure_loss as lifted_structure_loss
from jaxdml.losses.structure import ranked_list_loss as ranked_list_loss
from jaxdml.losses.triplet import soft_margin_triplet_loss as soft_margin_triplet_loss
from jaxdml.losses.triplet import triplet_loss as triplet_loss
from jaxdml.types import PyTree

TUPLE_LOSSES: dict[str, Callable] = {
  "angular": angular_loss,
  "circle": circle_loss,
  "contrastive": contrastive_loss,
  "fast_ap": fast_ap_loss,
  "generalized_lifted_structure": generalized_lifted_structure_loss,
  "histogram": histogram_loss,
  "lifted_structure": lifted_structure_loss,
  "margin": margin_loss,
  "multi_similarity": multi_similarity_loss,
  "nca": nca_loss,
  "npair": npair_loss,
  "ntxent": ntxent_loss,
  "ranked_list": ranked_list_loss,
  "signal_to_noise_contrastive": signal_to_noise_contrastive_loss,
  "smooth_ap": smooth_ap_loss,
  "soft_margin_triplet": soft_margin_triplet_loss,
  "supcon": supcon_loss,
  "triplet": triplet_loss,
  "tuplet_margin": tuplet_margin_loss,
}
"""Losses of embeddings and labels alone, which take `refs`."""

PARAMETRIC_LOSSES: dict[str, Callable] = {
  "arcface": arcface_loss,
  "cosface": cosface_loss,
  "normalized_softmax": normalized_softmax_loss,
  "proxy_anchor": proxy_anchor_loss,
  "proxy_nca": proxy_nca_loss,
  "proxy_nca_pp": proxy_nca_pp_loss,
  "soft_triple": soft_triple_loss,
  "sphereface": sphereface_loss,
  "sub_center_arcface": sub_center_arcface_loss,
}
"""Losses with parameters: `params=loss.init(key, num_classes, dim)`."""

LOSSES: dict[str, Callable] = dict(sorted((TUPLE_LOSSES | PARAMETRIC_LOSSES).items()))

__all__ = [
  "LOSSES",
  "PARAMETRIC_LOSSES",
  "SHARED",
  "TUPLE_LOSSES",
  "Inputs",
  "TwoPass",
  "create",
  "element_rows",
  "init",
  "make_pairs",
  "reducers",
  "tuple_loss",
  *(fn.__name__ for fn in LOSSES.values()),
]


SHARED = (
  "params", "refs", "ids", "where", "weights", "distance_fn", "mining_fn", "key", "reduce_fn",
  "block_size", "axis_name",
)  # fmt: skip
"""The arguments that losses share; the others are a loss's own hyperparameters."""


def _known(name: str) -> Callable:
  if name not in LOSSES:
    raise ValueError(f"unknown loss {name!r}; valid names: {', '.join(LOSSES)}")
  return LOSSES[name]


def create(name: str, **options: Any) -> Callable:
  """The loss of that name with its keyword arguments bound.

  Raises:
    ValueError: for an unknown loss or option, listing the valid ones.

  >>> loss = create("margin", margin=0.1)
  """
  loss = _known(name)
  valid = [p for p in list(inspect.signature(loss).parameters)[2:] if p != "params"]
  if unknown := sorted(set(options) - set(valid)):
    raise ValueError(f"loss {name!r} has no option {unknown}; valid options: {', '.join(valid)}")
  return functools.partial(loss, **options)


def init(name: str, key: jax.Array, num_classes: int, dim: int, **options: Any) -> PyTree:
  """The parameters of the loss of that name, {} for one that has none.

  Raises:
    ValueError: for an unknown loss or option, listing the valid ones.

  >>> params = init("soft_triple", jax.random.key(0), 5, 8, centers_per_class=2)
  >>> params["centers"].shape
  (5, 2, 8)
  """
  make = getattr(_known(name), "init", None)
  valid = [] if make is None else list(inspect.signature(make).parameters)[3:]
  if unknown := sorted(set(options) - set(valid)):
    known = ", ".join(valid) or "none"
    raise ValueError(f"loss {name!r} has no init option {unknown}; valid options: {known}")
  return {} if make is None else make(key, num_classes, dim, **options)
