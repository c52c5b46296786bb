"""Miners: functions from Pairs to Pairs, composed with `chain`, usable with every loss."""

from typing import Any

from jaxdml.mining import compose, negatives, positives
from jaxdml.mining._miner import Miner, keep
from jaxdml.mining.compose import *  # noqa: F403
from jaxdml.mining.negatives import *  # noqa: F403
from jaxdml.mining.positives import *  # noqa: F403
from jaxdml.types import Maker, MiningFn

MINERS: dict[str, MiningFn | Maker] = {
  "all_positives": positives.all_positives,
  "nearest_positive": positives.nearest_positive,
  "nearest_positives": Maker(positives.nearest_positives, ("k",), ("k",)),
  "hardest_positive": positives.hardest_positive,
  "random_positive": positives.random_positive,
  "all_negatives": negatives.all_negatives,
  "hardest_negative": negatives.hardest_negative,
  "hardest_negatives": Maker(negatives.hardest_negatives, ("k",), ("k",)),
  "semihard_negative": negatives.semihard_negative,
  "random_negative": negatives.random_negative,
  "distance_weighted_negative": Maker(
    negatives.distance_weighted_negative, ("dim", "cutoff", "max_distance"), ("dim",)
  ),
  "multi_similarity_filter": Maker(compose.multi_similarity_filter, ("epsilon",)),
  "expand_positives": Maker(compose.expand_positives, ("max_positives",)),
}
"""Name -> miner, or its `Maker`, for `create` and configs; miners of one's own may be added."""

__all__ = ["MINERS", "Maker", "Miner", "create", "keep"]
__all__ += compose.__all__
__all__ += negatives.__all__
__all__ += positives.__all__


def __dir__() -> list[str]:
  return __all__


def create(names: str, **options: Any) -> Miner:
  """Returns the chain of miners named in `names`, joined by "+"; each takes the options it knows.

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
  return compose.chain(*fns)
