"""Miners: functions from Pairs to Pairs, composed with `chain`, usable with every tuple loss."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from jaxdml.mining.compose import chain as chain
from jaxdml.mining.compose import expand_positives as expand_positives
from jaxdml.mining.compose import switch as switch
from jaxdml.mining.informative import multi_similarity_filter as multi_similarity_filter
from jaxdml.mining.negatives import all_negatives as all_negatives
from jaxdml.mining.negatives import distance_weighted_negative as distance_weighted_negative
from jaxdml.mining.negatives import hardest_negative as hardest_negative
from jaxdml.mining.negatives import hardest_negatives as hardest_negatives
from jaxdml.mining.negatives import random_negative as random_negative
from jaxdml.mining.negatives import semihard_negative as semihard_negative
from jaxdml.mining.positives import all_positives as all_positives
from jaxdml.mining.positives import hardest_positive as hardest_positive
from jaxdml.mining.positives import nearest_positive as nearest_positive
from jaxdml.mining.positives import nearest_positives as nearest_positives
from jaxdml.mining.positives import random_positive as random_positive
from jaxdml.types import MiningFn

MINERS: dict[str, MiningFn] = {
  fn.__name__: fn
  for fn in (
    all_positives,
    nearest_positive,
    nearest_positives,
    hardest_positive,
    random_positive,
    all_negatives,
    hardest_negative,
    hardest_negatives,
    semihard_negative,
    random_negative,
    distance_weighted_negative,
    multi_similarity_filter,
    expand_positives,
  )
}

__all__ = ["MINERS", "chain", "create", "switch", *MINERS]


def create(names: str, **options: Any) -> MiningFn:
  """The chain of miners named in `names`, joined by "+".

  Args:
    names: such as "nearest_positive+semihard_negative".
    **options: keyword arguments (`dim`, `cutoff`, `max_positives`...); each miner takes those it
      knows.

  Raises:
    ValueError: for an unknown miner, an option that no named miner takes or one that a miner needs
      and has no default for.

  >>> mine = create("nearest_positive+distance_weighted_negative", dim=64)
  """
  fns, taken = [], set()
  for name in names.split("+"):
    if name not in MINERS:
      raise ValueError(f"unknown miner {name!r} in {names!r}; valid names: {', '.join(MINERS)}")
    _, *parameters = inspect.signature(MINERS[name]).parameters.values()  # the first: pairs
    valid = {parameter.name for parameter in parameters}
    own = {k: v for k, v in options.items() if k in valid}
    needed = [p.name for p in parameters if p.default is p.empty and p.name not in own]
    if needed:
      raise ValueError(f"miner {name!r} needs the options {needed}")
    taken |= set(own)
    fns.append(functools.partial(MINERS[name], **own) if own else MINERS[name])
  if unknown := sorted(set(options) - taken):
    raise ValueError(f"none of the miners in {names!r} takes the options {unknown}")
  return chain(*fns)
