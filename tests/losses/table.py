"""The table of all losses x miners x distances, and the compiled programs that the laws share.

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
from tests.losses import proxy_reference, reference, reference_distances
from tests.losses.names import PARAMETRIC, TUPLE

# Of the classes the last has no example; losses with several vectors a class have two.
N, D, CLASSES, PER_CLASS = 10, 4, 6, 2

# Hyperparameters off their defaults.
OPTIONS = {
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
  "arcface": {"margin": 0.6, "scale": 3.0},
  "cosface": {"margin": 0.2, "scale": 3.0},
  "normalized_softmax": {"temperature": 0.4},
  "proxy_anchor": {"margin": 0.2, "alpha": 3.0},
  "proxy_nca": {"temperature": 0.7},
  "proxy_nca_pp": {"temperature": 0.3},
  "soft_triple": {"la": 4.0, "gamma": 0.4, "margin": 0.1, "tau": 0.3},
  "sphereface": {"margin": 3, "scale": 1.5},
  "sub_center_arcface": {"margin": 0.6, "scale": 3.0},
}  # fmt: skip
# A hyperparameter of each whose gradient is tested; the histogram's only one is a number of bins.
LEARNABLE = {
  "angular": "alpha",
  "arcface": "margin",
  "circle": "margin",
  "contrastive": "negative_margin",
  "cosface": "margin",
  "fast_ap": "max_distance",
  "generalized_lifted_structure": "margin",
  "lifted_structure": "margin",
  "margin": "beta",
  "multi_similarity": "base",
  "nca": "temperature",
  "normalized_softmax": "temperature",
  "npair": "l2_reg",
  "ntxent": "temperature",
  "proxy_anchor": "margin",
  "proxy_nca": "temperature",
  "proxy_nca_pp": "temperature",
  "ranked_list": "balance",
  "signal_to_noise_contrastive": "negative_margin",
  "smooth_ap": "temperature",
  "soft_margin_triplet": "margin",
  "soft_triple": "gamma",
  "sphereface": "scale",
  "sub_center_arcface": "scale",
  "supcon": "temperature",
  "triplet": "margin",
  "tuplet_margin": "margin",
}
PER_CLASS_OPTION = {"soft_triple": "centers_per_class", "sub_center_arcface": "sub_centers"}
# One loss of each kind of row function: what the engine does is tested on these.
KINDS = {
  "elements, hyperparameters by class": "margin",
  "several terms": "contrastive",
  "soft sums, and the embeddings themselves": "npair",
  "a sum over positives": "triplet",
  "a sum over positives that compares references": "angular",
  "two passes": "lifted_structure",
  "two passes of histograms": "histogram",
  "class vectors, and the embeddings themselves": "sphereface",
  "several vectors a class, and a penalty": "soft_triple",
  "proxies as anchors": "proxy_anchor",
}
TUPLE_KINDS = [name for name in KINDS.values() if name in TUPLE]
PARAMETRIC_KINDS = [name for name in KINDS.values() if name in PARAMETRIC]
# Those whose anchors are the examples.
OF_EXAMPLES = [name for name in KINDS.values() if name != "proxy_anchor"]
REDUCERS = ("mean", "mean_elements", "mean_nonzero", "none", "sum")

# A ball of another curvature, and a radius that cuts some of the batch.
_BALL = {"hyperbolic": {"curvature": 0.7, "clip_radius": 1.5}}
DISTANCES = {name: distances.create(name, **_BALL.get(name, {})) for name in distances.NAMES}
REFERENCE = {
  name: reference_distances.create(name, **_BALL.get(name, {})) for name in distances.NAMES
}
# Of these the rows are functions of an angle.
ANGULAR = ("arcface", "sub_center_arcface", "sphereface")


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
# Among class vectors; their reference knows no other.
OF_CLASSES = {
  "none": Miner(lambda pairs: pairs, None),
  "hardest_negative": Miner(mining.hardest_negative, None),
}
GROUPS = {
  "one_row": ONE_ROW, "more_rows": MORE_ROWS, "two_rows": TWO_ROWS, "classes": OF_CLASSES,
}  # fmt: skip


def group_of(name: str) -> str:
  """The miners that every loss is tried with."""
  return "one_row" if name in TUPLE else "classes"


# Every loss with these, and one of each kind with miners that make more rows of an anchor.
CASES = [(name, group_of(name)) for name in OPTIONS] + [(name, "more_rows") for name in TUPLE_KINDS]


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


def init(name: str, seed: int = 0, classes: int = CLASSES, dim: int = D):
  """The loss's parameters, with two vectors a class where it has several."""
  option = PER_CLASS_OPTION.get(name)
  options = {option: PER_CLASS} if option else {}
  return losses.init(name, jax.random.key(seed), classes, dim, **options)


def batch(seed: int = 0, dtype=np.float64, name: str | None = None) -> dict:
  """Arguments of a loss: classes of 3, 3, 2, 1 and 1 examples, everything valid.

  With a name also its parameters and, as "option", its learnable hyperparameter.
  """
  rng = np.random.default_rng(seed)
  y = np.array([0, 1, 2, 0, 3, 1, 4, 0, 1, 2])
  b = {
    "x": (0.7 * rng.normal(size=(N, D)) + 0.6 * np.eye(CLASSES, D)[y]).astype(dtype),
    "y": y,
    "where": np.ones(N, bool),
    "weights": np.ones(N, dtype),
    "ids": np.arange(N),
    "seed": np.int32(seed),
  }
  if name in PARAMETRIC:
    b["params"] = {k: np.asarray(v, dtype) for k, v in init(name, seed).items()}
  if name in LEARNABLE:
    b["option"] = np.asarray(OPTIONS[name][LEARNABLE[name]], dtype)
  return b


LEARNT = ("x", "params", "option")
NOT_BY_EXAMPLE = ("seed", "params", "option")


def learnt(b: dict) -> dict:
  """What a loss is differentiated by: embeddings, parameters, and a hyperparameter."""
  return {k: b[k] for k in LEARNT if k in b}


def arguments(name: str, b: dict) -> dict:
  """A batch as the loss's keyword arguments, less the embeddings and labels."""
  rest = {k: b[k] for k in ("where", "weights", "params" if name in PARAMETRIC else "ids")}
  return rest | {"key": jax.random.key(b["seed"])}


def call(name: str, b: dict, **options):
  """The loss of a batch, with hyperparameters off their defaults."""
  own = OPTIONS[name] | ({LEARNABLE[name]: b["option"]} if "option" in b else {})
  return losses.LOSSES[name].fn(b["x"], b["y"], **own | arguments(name, b) | options)


def value_and_gradients(name: str, b: dict, **options):
  """(value, gradients of all that is learnt and of the weights)."""
  by = learnt(b) | {"weights": b["weights"]}
  return jax.value_and_grad(lambda by: call(name, b | by, **options))(by)


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


def all_reducers(default):
  """A reduce_fn giving the default reduction and, beside it, every other."""
  return lambda rows, w: (default(rows, w), {r: reducers.create(r)(rows, w) for r in REDUCERS})


def default_reducer(name: str):
  """The reducer of the reference, not the one that the loss says it has."""
  return reducers.create("mean" if name in PARAMETRIC else reference.LOSSES[name][2])


class Cell(NamedTuple):
  """One combination of the table."""

  index: int
  miner: str
  distance: str

  @property
  def random(self) -> bool:
    """A draw is made by column, so the order of the batch matters."""
    return "random" in self.miner or "weighted" in self.miner


@functools.cache
def cells(group: str) -> tuple[Cell, ...]:
  combinations = itertools.product(GROUPS[group], DISTANCES)
  return tuple(Cell(k, miner, distance) for k, (miner, distance) in enumerate(combinations))


def has_reference(name: str, cell: Cell) -> bool:
  """Angles need cosines, which other distances do not give."""
  return name not in ANGULAR or cell.distance == "cosine"


def expected(name: str, group: str, cell: Cell, b: dict, reduce=(), mine=None, fixed=None):
  """The reference's value; with `reduce`, its values by reducer.

  Args:
    mine: the reference's miner, if not the cell's: random ones keep what the miner drew for `b`.
    fixed: embeddings at which the weights of some losses are held.
  """
  own = OPTIONS[name] | ({LEARNABLE[name]: b["option"]} if "option" in b else {})
  repeats, between = b["weights"].astype(int), REFERENCE[cell.distance]
  if name in PARAMETRIC:
    (vectors,) = b["params"].values()
    of = lambda r: proxy_reference.loss(
      name, b["x"], b["y"], np.asarray(vectors, np.float64), distance=between, where=b["where"],
      repeats=repeats, hardest=cell.miner == "hardest_negative", reduce=r, **own,
    )  # fmt: skip
    default = "mean"
  else:
    mine = mine or GROUPS[group][cell.miner].reference or kept(cell.miner, group, cell.distance, b)
    terms = reference.anchors(
      name, b["x"], b["y"], mine=mine, distance=between, ids=b["ids"], where=b["where"],
      repeats=repeats, fixed=fixed, **own,
    )  # fmt: skip
    of, default = lambda r: reference.reduced(terms, r, repeats), reference.LOSSES[name][2]
  return {r: of(r) for r in reduce} if reduce else of(default)


@functools.cache
def program(name: str, group: str, defaults: bool = False):
  """(batches stacked, one for each cell) -> ((value, by reducer), gradients); traces counted."""
  miners = [miner.fn for miner in GROUPS[group].values()]
  distance_fns = list(DISTANCES.values())
  traces = []

  def value(by, b, miner, distance):
    traces.append(1)
    options = {
      "mining_fn": mining.switch(miner, *miners),
      "distance_fn": lambda a, b: jax.lax.switch(distance, distance_fns, a, b),
      "reduce_fn": all_reducers(default_reducer(name)),
    }
    b = b | by
    if defaults:
      return losses.LOSSES[name].fn(b["x"], b["y"], **arguments(name, b), **options)
    return call(name, b, **options)

  def cell(args):
    b, miner, distance = args
    return jax.value_and_grad(value, has_aux=True)(learnt(b), b, miner, distance)

  def table(batches):
    indices = itertools.product(range(len(miners)), range(len(distance_fns)))
    miner, distance = (jnp.array(column) for column in zip(*indices, strict=True))
    return jax.lax.map(cell, (batches, miner, distance))

  fn = compiled(table)
  fn.traces = traces
  return fn


class Result(NamedTuple):
  """What a loss gave for one cell; `gradient` is that of all that is learnt."""

  value: np.ndarray
  by_reducer: Mapping[str, np.ndarray]
  gradient: dict


def run(fn, group: str, batches) -> list[Result]:
  """A program over its table: one batch for all cells, or a list of one for each."""
  count = len(cells(group))
  batches = [batches] * count if isinstance(batches, dict) else batches
  stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
  (value, by_reducer), gradient = jax.device_get(fn(stacked))
  of = lambda k, tree: jax.tree.map(lambda a: a[k], tree)
  return [
    Result(value[k], MappingProxyType(of(k, by_reducer)), of(k, gradient)) for k in range(count)
  ]


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
