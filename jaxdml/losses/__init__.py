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

from jaxdml.losses import reducers as reducers
from jaxdml.losses.core import tuple_loss as tuple_loss
from jaxdml.losses.pair import contrastive_loss as contrastive_loss
from jaxdml.losses.pair import margin_loss as margin_loss
from jaxdml.losses.pair import multi_similarity_loss as multi_similarity_loss
from jaxdml.losses.pair import signal_to_noise_contrastive_loss as signal_to_noise_contrastive_loss
from jaxdml.losses.pairs import Inputs as Inputs
from jaxdml.losses.pairs import TwoPass as TwoPass
from jaxdml.losses.pairs import element_rows as element_rows
from jaxdml.losses.pairs import make_pairs as make_pairs
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

LOSSES: dict[str, Callable] = {
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

__all__ = [
  "LOSSES",
  "Inputs",
  "TwoPass",
  "create",
  "element_rows",
  "make_pairs",
  "reducers",
  "tuple_loss",
  *(fn.__name__ for fn in LOSSES.values()),
]


def create(name: str, **options: Any) -> Callable:
  """The loss of that name with its keyword arguments bound.

  Raises:
    ValueError: for an unknown loss or option, listing the valid ones.

  >>> loss = create("margin", margin=0.1)
  """
  if name not in LOSSES:
    raise ValueError(f"unknown loss {name!r}; valid names: {', '.join(LOSSES)}")
  valid = list(inspect.signature(LOSSES[name]).parameters)[2:]
  if unknown := sorted(set(options) - set(valid)):
    raise ValueError(f"loss {name!r} has no option {unknown}; valid options: {', '.join(valid)}")
  return functools.partial(LOSSES[name], **options)
