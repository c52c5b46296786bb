"""Miners: functions from Pairs to Pairs, composed with `chain`, usable with every loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdml.mining._miner import Miner, keep
from jaxdml.mining.compose import chain, expand_positives, multi_similarity_filter, switch
from jaxdml.mining.negatives import (
  all_negatives,
  distance_weighted_negative,
  hardest_negative,
  hardest_negatives,
  random_negative,
  semihard_negative,
)
from jaxdml.mining.positives import (
  all_positives,
  hardest_positive,
  nearest_positive,
  nearest_positives,
  random_positive,
)
from jaxdml.types import MiningFn


class Maker(NamedTuple):
  """A function that makes a miner of options, as `MINERS` lists it.

  Attributes:
    make: (**options) -> MiningFn.
    options: their names.
    needed: those of them that have no default.
  """

  make: Callable[..., MiningFn]
  options: tuple[str, ...]
  needed: tuple[str, ...] = ()


MINERS: dict[str, MiningFn | Maker] = {
  "all_positives": all_positives,
  "nearest_positive": nearest_positive,
  "nearest_positives": Maker(nearest_positives, ("k",), ("k",)),
  "hardest_positive": hardest_positive,
  "random_positive": random_positive,
  "all_negatives": all_negatives,
  "hardest_negative": hardest_negative,
  "hardest_negatives": Maker(hardest_negatives, ("k",), ("k",)),
  "semihard_negative": semihard_negative,
  "random_negative": random_negative,
  "distance_weighted_negative": Maker(
    distance_weighted_negative, ("dim", "cutoff", "max_distance"), ("dim",)
  ),
  "multi_similarity_filter": Maker(multi_similarity_filter, ("epsilon",)),
  "expand_positives": Maker(expand_positives, ("max_positives",)),
}
"""Name -> miner, or its `Maker`, for `create` and configs; miners of one's own may be added."""

__all__ = [
  "MINERS", "Maker", "Miner", "all_negatives", "all_positives", "chain", "create",
  "distance_weighted_negative", "expand_positives", "hardest_negative", "hardest_negatives",
  "hardest_positive", "keep", "multi_similarity_filter", "nearest_positive",
  "nearest_positives", "random_negative", "random_positive", "semihard_negative", "switch",
]  # fmt: skip


def __dir__() -> list[str]:
  return __all__


def create(names: str, **options: Any) -> Miner:
  """Returns the chain of miners named in `names`, joined by "+".

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
    entry = MINERS[name]
    if not isinstance(entry, Maker):
      fns.append(entry)
      continue
    own = {key: value for key, value in options.items() if key in entry.options}
    if missing := [option for option in entry.needed if option not in own]:
      raise ValueError(f"miner {name!r} needs the options {missing}")
    taken |= set(own)
    fns.append(entry.make(**own))
  if unknown := sorted(set(options) - taken):
    raise ValueError(f"none of the miners in {names!r} takes the options {unknown}")
  return chain(*fns)
