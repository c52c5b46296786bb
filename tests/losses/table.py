"""The table of losses x miners x distances, and the compiled programs that the laws share.

Compiling is what these tests cost, so a program takes the miner and the distance as traced indices
(`lax.switch`): one program a loss, dtype and block size covers the whole table.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining
from jaxdml.losses import reducers
from jaxdml.types import Pairs
from tests.losses import reference

N, D, CLASSES = 10, 4, 5

LOSSES = {
  "contrastive": {"positive_margin": 0.1, "negative_margin": 0.9},
  "margin": {"margin": 0.3, "beta": np.array([0.7, 0.8, 0.9, 1.0, 1.1]), "nu": 0.1},
  "multi_similarity": {"alpha": 2.0, "beta": 5.0, "base": 0.4},
  "npair": {"l2_reg": 0.2},
  "soft_margin_triplet": {"margin": 0.1},
  "triplet": {"margin": 0.4},
}
DISTANCES = tuple(reference.DISTANCES)
REDUCERS = ("mean", "mean_elements", "mean_nonzero", "none", "sum")

_weighted = functools.partial(mining.distance_weighted_negative, dim=D)
_two_positives = functools.partial(mining.expand_positives, max_positives=2)

# Miners that keep one row an anchor, and those that make more. The second entry is the reference;
# None for random ones, whose own choice the reference then takes over.
ONE_ROW = {
  "none": (lambda pairs: pairs, reference.chain()),
  "nearest_positive": (mining.nearest_positive, reference.chain(reference.nearest_positive)),
  "batch_hard": (
    mining.chain(mining.hardest_positive, mining.hardest_negative),
    reference.chain(reference.hardest_positive, reference.hardest_negative),
  ),
  "semihard": (mining.semihard_negative, reference.chain(reference.semihard_negative)),
  "eps_semihard": (
    mining.chain(mining.nearest_positive, mining.semihard_negative),
    reference.chain(reference.nearest_positive, reference.semihard_negative),
  ),
  "random": (mining.chain(mining.random_positive, mining.random_negative), None),
  "eps_distance_weighted": (mining.chain(mining.nearest_positive, _weighted), None),
}
MORE_ROWS = {
  "pairs_semihard": (
    mining.chain(mining.expand_positives, mining.semihard_negative),
    reference.chain(reference.expand_positives, reference.semihard_negative),
  ),
  "pairs_random": (mining.chain(mining.expand_positives, mining.random_negative), None),
}
TWO_ROWS = {
  "two_pairs": (
    _two_positives,
    reference.chain(functools.partial(reference.expand_positives, max_positives=2)),
  ),
}
GROUPS = {"one_row": ONE_ROW, "more_rows": MORE_ROWS, "two_rows": TWO_ROWS}
CASES = [(loss, group) for loss in LOSSES for group in ("one_row", "more_rows")]


def compiled(fn):
  """jax.jit that optimises less: on tiny arrays compiling is the whole cost."""
  return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def batch(seed: int = 0, n: int = N, dtype=np.float64) -> dict:
  """Arguments of a program: classes of 3, 3, 2, 1 and 1 examples, everything valid."""
  rng = np.random.default_rng(seed)
  y = np.array([0, 1, 2, 0, 3, 1, 4, 0, 1, 2])[:n]
  return {
    "x": (0.7 * rng.normal(size=(n, D)) + 0.6 * np.eye(CLASSES, D)[y]).astype(dtype),
    "y": y,
    "where": np.ones(n, bool),
    "weights": np.ones(n, dtype),
    "ids": np.arange(n),
    "key": jax.random.key(seed),
  }


def all_reducers(default):
  """A reduce_fn giving the default reduction and, beside it, every other."""
  return lambda rows, w: (default(rows, w), {r: reducers.create(r)(rows, w) for r in REDUCERS})


@functools.cache
def program(
  loss: str, group: str = "one_row", block_size: int | None = None, defaults=False, names=DISTANCES
):
  """(miner index, distance index, batch) -> ((value, by reducer), gradient), traces counted."""
  miners = [fn for fn, _ in GROUPS[group].values()]
  default = reducers.create(reference.LOSSES[loss][2])
  hyperparameters = {} if defaults else LOSSES[loss]
  traces = []

  def value(x, miner, distance, y, **rest):
    traces.append(1)
    return losses.LOSSES[loss](
      x,
      y,
      **rest,
      **hyperparameters,
      mining_fn=lambda pairs: jax.lax.switch(miner, miners, pairs),
      distance_fn=lambda a, b: jax.lax.switch(
        distance, [distances.create(name) for name in names], a, b
      ),
      reduce_fn=all_reducers(default),
      block_size=block_size,
    )

  def value_and_gradient(miner, distance, b):
    rest = {k: v for k, v in b.items() if k != "x"}
    return jax.value_and_grad(value, has_aux=True)(b["x"], miner, distance, **rest)

  fn = compiled(value_and_gradient)
  fn.over_batches = compiled(jax.vmap(value_and_gradient, in_axes=(None, None, 0)))
  fn.traces = traces
  return fn


@functools.cache
def _choice(group: str):
  def mine(miner, key, ids, *pairs):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
    fns = [fn for fn, _ in GROUPS[group].values()]
    mined = jax.lax.switch(miner, fns, Pairs(*pairs, jnp.arange(N), keys))
    return mined.anchor, mined.positive, mined.negative

  return compiled(mine)


def kept(miner: str, group: str, distance: str, b: dict):
  """For the reference: the rows that a random miner keeps, drawn outside the loss."""
  base = reference.rows(b["x"], b["y"], distance, ids=b["ids"], where=b["where"])
  mask = lambda side: np.array([np.isin(np.arange(N), getattr(row, side)) for row in base])
  d = np.nan_to_num([row.distances for row in base])
  index = list(GROUPS[group]).index(miner)
  mined = _choice(group)(index, b["key"], b["ids"], d, mask("positives"), mask("negatives"))
  return lambda all_rows: reference.mined_rows(all_rows, *map(np.asarray, mined))
