"""The table of losses x miners x distances, and the compiled programs that the laws share.

Compiling is what these tests cost, so a program takes the miner and the distance as traced indices
(`lax.switch`), one program a loss and dtype covers the whole table, and one call runs all of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining
from jaxdml.losses import reducers
from jaxdml.types import Pairs
from tests.losses import reference, reference_distances

N, D, CLASSES = 10, 4, 5

LOSSES = {
  "angular": {"alpha": 0.6},
  "circle": {"margin": 0.3, "gamma": 4.0},
  "contrastive": {"positive_margin": 0.1, "negative_margin": 0.9},
  "fast_ap": {"bins": 7, "max_distance": 3.5},
  "generalized_lifted_structure": {"margin": 0.3},
  "histogram": {"bins": 13},
  "lifted_structure": {"margin": 0.7},
  "margin": {"margin": 0.3, "beta": np.array([0.7, 0.8, 0.9, 1.0, 1.1]), "nu": 0.1},
  "multi_similarity": {"alpha": 2.0, "beta": 5.0, "base": 0.4},
  "nca": {"temperature": 0.8},
  "npair": {"l2_reg": 0.2},
  "ntxent": {"temperature": 0.5},
  "ranked_list": {
    "alpha": 1.1, "margin": 0.3, "negative_temperature": 3.0, "positive_temperature": 1.5,
    "balance": 0.4,
  },
  "signal_to_noise_contrastive": {"positive_margin": 0.1, "negative_margin": 1.2},
  "smooth_ap": {"temperature": 0.2},
  "soft_margin_triplet": {"margin": 0.1},
  "supcon": {"temperature": 0.4},
  "triplet": {"margin": 0.4},
  "tuplet_margin": {"margin": 0.2, "scale": 4.0},
}  # fmt: skip
REDUCERS = ("mean", "mean_elements", "mean_nonzero", "none", "sum")

# A ball of another curvature, and a radius that cuts some of the batch.
OPTIONS = {"hyperbolic": {"curvature": 0.7, "clip_radius": 1.5}}
DISTANCES = {name: distances.create(name, **OPTIONS.get(name, {})) for name in distances.NAMES}
REFERENCE = {
  name: reference_distances.create(name, **OPTIONS.get(name, {})) for name in distances.NAMES
}


class Miner(NamedTuple):
  """A miner and its reference; None for a random one, whose choice the reference takes over."""

  fn: Callable
  reference: Callable | None


def _miner(names: str, *fns, **options) -> Miner:
  return Miner(mining.create(names, **options), reference.chain(*fns) if fns else None)


_bind = functools.partial
# Miners that keep one row an anchor, and those that make more.
ONE_ROW = {
  "none": Miner(lambda pairs: pairs, reference.chain()),
  "nearest_positive": _miner("nearest_positive", reference.nearest_positive),
  "batch_hard": _miner(
    "hardest_positive+hardest_negative", reference.hardest_positive, reference.hardest_negative
  ),
  "semihard": _miner("semihard_negative", reference.semihard_negative),
  "eps_semihard": _miner(
    "nearest_positive+semihard_negative", reference.nearest_positive, reference.semihard_negative
  ),
  "two_nearest_and_hardest": _miner(
    "nearest_positives+hardest_negatives", _bind(reference.nearest_positives, k=2),
    _bind(reference.hardest_negatives, k=2), k=2,
  ),
  "multi_similarity": _miner(
    "multi_similarity_filter", _bind(reference.multi_similarity_filter, epsilon=0.2), epsilon=0.2
  ),
  "random": _miner("random_positive+random_negative"),
  "eps_distance_weighted": _miner("nearest_positive+distance_weighted_negative", dim=D),
}  # fmt: skip
MORE_ROWS = {
  "pairs_semihard": _miner(
    "expand_positives+semihard_negative", reference.expand_positives, reference.semihard_negative
  ),
  "pairs_three_hardest": _miner(
    "expand_positives+hardest_negatives", reference.expand_positives,
    _bind(reference.hardest_negatives, k=3), k=3,
  ),
  "pairs_random": _miner("expand_positives+random_negative"),
}  # fmt: skip
TWO_ROWS = {
  "two_pairs": _miner(
    "expand_positives", _bind(reference.expand_positives, max_positives=2), max_positives=2
  ),
}
GROUPS = {"one_row": ONE_ROW, "more_rows": MORE_ROWS, "two_rows": TWO_ROWS}
CASES = [(loss, group) for loss in LOSSES for group in ("one_row", "more_rows")]


@functools.cache
def _cheap_options() -> dict:
  """What makes this version of XLA compile faster; options come and go with its versions."""
  options = {}
  for name, value in (
    ("xla_backend_optimization_level", 0),
    ("xla_cpu_use_fusion_emitters", False),
    ("xla_cpu_parallel_codegen_split_count", 1),
  ):
    try:
      jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(0).compile()
    except jax.errors.JaxRuntimeError as error:
      assert "No such compile option" in str(error), error
    else:
      options[name] = value
  return options


def compiled(fn):
  """jax.jit that optimises less: on tiny arrays compiling is the whole cost."""
  return jax.jit(fn, compiler_options=_cheap_options())


def batch(seed: int = 0, dtype=np.float64) -> dict:
  """Arguments of a loss: classes of 3, 3, 2, 1 and 1 examples, everything valid."""
  rng = np.random.default_rng(seed)
  y = np.array([0, 1, 2, 0, 3, 1, 4, 0, 1, 2])
  return {
    "x": (0.7 * rng.normal(size=(N, D)) + 0.6 * np.eye(CLASSES, D)[y]).astype(dtype),
    "y": y,
    "where": np.ones(N, bool),
    "weights": np.ones(N, dtype),
    "ids": np.arange(N),
    "seed": np.int32(seed),
  }


ONE_EXAMPLE = np.arange(N) == 3

DEGENERATE = {
  "one_class": {"y": np.zeros(N, int)},
  "all_distinct": {"y": np.arange(N)},
  "duplicates": {"x": np.repeat(batch(seed=2)["x"][:2], N // 2, axis=0)},
  "all_equal": {"x": np.full((N, D), 0.37)},
  "all_zero": {"x": np.zeros((N, D))},
  "tiny": {"x": 1e-30 * batch(seed=2)["x"]},
  "large": {"x": 1e2 * batch(seed=2)["x"]},
  "one_example": {"where": ONE_EXAMPLE},
  "all_masked": {"where": np.zeros(N, bool)},
  "same_image": {"ids": np.zeros(N, int)},
  "no_weight": {"weights": np.zeros(N)},
}


def arguments(b: dict) -> dict:
  """A batch as the loss's keyword arguments, less the embeddings and labels."""
  rest = {k: b[k] for k in ("where", "weights", "ids")}
  return rest | {"key": jax.random.key(b["seed"])}


def all_reducers(default):
  """A reduce_fn giving the default reduction and, beside it, every other."""
  return lambda rows, w: (default(rows, w), {r: reducers.create(r)(rows, w) for r in REDUCERS})


def default_reducer(loss: str):
  return reducers.create(reference.LOSSES[loss][2])


class Cell(NamedTuple):
  """One combination of the table."""

  index: int
  miner: str
  distance: str

  def reference(self, group: str, b: dict):
    """The reference's miner: random ones keep what the miner drew for this batch."""
    return GROUPS[group][self.miner].reference or kept(self.miner, group, self.distance, b)


@functools.cache
def cells(group: str) -> tuple[Cell, ...]:
  combinations = itertools.product(GROUPS[group], DISTANCES)
  return tuple(Cell(k, miner, distance) for k, (miner, distance) in enumerate(combinations))


@functools.cache
def program(loss: str, group: str = "one_row", defaults: bool = False):
  """(batches stacked, one for each cell) -> ((value, by reducer), gradient); traces counted."""
  miners = [miner.fn for miner in GROUPS[group].values()]
  distance_fns = list(DISTANCES.values())
  hyperparameters = {} if defaults else LOSSES[loss]
  traces = []

  def value(x, b, miner, distance):
    traces.append(1)
    return losses.LOSSES[loss].fn(
      x,
      b["y"],
      **arguments(b),
      **hyperparameters,
      mining_fn=mining.switch(miner, *miners),
      distance_fn=lambda a, b: jax.lax.switch(distance, distance_fns, a, b),
      reduce_fn=all_reducers(default_reducer(loss)),
    )

  def cell(args):
    b, miner, distance = args
    return jax.value_and_grad(value, has_aux=True)(b["x"], b, miner, distance)

  def table(batches):
    indices = itertools.product(range(len(miners)), range(len(distance_fns)))
    miner, distance = (jnp.array(column) for column in zip(*indices, strict=True))
    return jax.lax.map(cell, (batches, miner, distance))

  fn = compiled(table)
  fn.traces = traces
  return fn


class Result(NamedTuple):
  """What a loss gave for one cell."""

  value: np.ndarray
  by_reducer: Mapping[str, np.ndarray]
  gradient: np.ndarray


def run(fn, group: str, batches) -> list[Result]:
  """A program over its table: one batch for all cells, or a list of one for each."""
  count = len(cells(group))
  batches = [batches] * count if isinstance(batches, dict) else batches
  stacked = {k: np.stack([b[k] for b in batches]) for k in batches[0]}
  (value, by_reducer), gradient = jax.device_get(fn(stacked))
  of = lambda k: MappingProxyType({name: v[k] for name, v in by_reducer.items()})
  return [Result(value[k], of(k), gradient[k]) for k in range(count)]


@functools.cache
def _choice(miner: str, group: str):
  def mine(seed, ids, *pairs):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(ids)
    mined = GROUPS[group][miner].fn(Pairs(*pairs, jnp.arange(N), keys))
    return mined.anchor, mined.positive, mined.negative

  return compiled(mine)


def kept(miner: str, group: str, distance: str, b: dict):
  """For the reference: the rows that a random miner keeps, drawn outside the loss."""
  base = reference.rows(b["x"], b["y"], REFERENCE[distance], ids=b["ids"], where=b["where"])
  mask = lambda side: np.array([np.isin(np.arange(N), getattr(row, side)) for row in base])
  d = np.nan_to_num([row.distances for row in base])
  mined = _choice(miner, group)(b["seed"], b["ids"], d, mask("positives"), mask("negatives"))
  return lambda all_rows: reference.mined_rows(all_rows, *map(np.asarray, mined))
