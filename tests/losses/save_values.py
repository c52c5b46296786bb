"""Values and gradients of every loss, distance, miner and reducer on fixed inputs, and their file.

`saved_values.npz` was written by the code as it stood before the losses became plain functions.
test_saved_values.py computes a part of it anew and compares; all of it takes some minutes:

  python tests/losses/save_values.py --check

Only functions that find things by name are called, so that the same script runs on either side of a
redesign. Whoever changes a result on purpose, or adds a loss, writes the file anew and says why:

  PYTHONPATH=/path/to/the/clone/before python tests/losses/save_values.py

Everything is computed in float64, where rounding cannot pass for a change of the mathematics and a
change of the mathematics cannot pass for rounding; every loss once more in float32.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining, refs
from jaxdml.losses import reducers

Call = Callable[[], dict[str, jax.Array]]
FILE = pathlib.Path(__file__).with_name("saved_values.npz")
N, DIM, CLASSES = 24, 8, 8

# Hyperparameters off their defaults, those of the table that the contract tests use.
OPTIONS = {
  "angular": {"alpha": 0.6},
  "arcface": {"margin": 0.6, "scale": 3.0},
  "circle": {"margin": 0.3, "gamma": 4.0},
  "contrastive": {"positive_margin": 0.1, "negative_margin": 0.9, "power": 1},
  "cosface": {"margin": 0.2, "scale": 3.0},
  "fast_ap": {"bins": 7, "max_distance": 3.5},
  "generalized_lifted_structure": {"margin": 0.3},
  "histogram": {"bins": 13},
  "lifted_structure": {"margin": 0.7},
  "margin": {"margin": 0.3, "beta": np.linspace(0.7, 1.2, CLASSES), "nu": 0.1},
  "multi_similarity": {"alpha": 3.0, "beta": 5.0, "base": 0.4},
  "nca": {"temperature": 0.8},
  "normalized_softmax": {"temperature": 0.4},
  "npair": {"l2_reg": 0.2},
  "ntxent": {"temperature": 0.5},
  "proxy_anchor": {"margin": 0.2, "alpha": 3.0},
  "proxy_nca": {"temperature": 0.7},
  "proxy_nca_pp": {"temperature": 0.3},
  "ranked_list": {
    "alpha": 1.1, "margin": 0.3, "negative_temperature": 3.0, "positive_temperature": 1.5,
    "balance": 0.4,
  },
  "signal_to_noise_contrastive": {"positive_margin": 0.1, "negative_margin": 1.2},
  "smooth_ap": {"temperature": 0.2},
  "soft_margin_triplet": {"margin": 0.1},
  "soft_triple": {"la": 4.0, "gamma": 0.4, "margin": 0.1, "tau": 0.3},
  "sphereface": {"margin": 3, "scale": 1.5},
  "sub_center_arcface": {"margin": 0.6, "scale": 3.0},
  "supcon": {"temperature": 0.4},
  "triplet": {"margin": 0.4},
  "tuplet_margin": {"margin": 0.2, "scale": 4.0},
}  # fmt: skip
LOSSES = tuple(OPTIONS)

MINERS = {
  "no_miner": None,
  "nearest_positive": "nearest_positive",
  "eps_semihard": "nearest_positive+semihard_negative",
  "random": "random_positive+random_negative",
}
EVERY_MINER = {
  "all_positives": {},
  "nearest_positive": {},
  "nearest_positives": {"k": 2},
  "hardest_positive": {},
  "random_positive": {},
  "all_negatives": {},
  "hardest_negative": {},
  "hardest_negatives": {"k": 3},
  "semihard_negative": {},
  "random_negative": {},
  "distance_weighted_negative": {"dim": DIM, "cutoff": 0.6},
  "multi_similarity_filter": {"epsilon": 0.2},
  "expand_positives": {"max_positives": 2},
  "expand_positives+semihard_negative": {},
}
EVERY_DISTANCE = {
  "cosine": {},
  "dot": {},
  "euclidean": {},
  "hyperbolic": {"curvature": 0.7, "clip_radius": 1.5},
  "normalized_euclidean": {},
  "normalized_signal_to_noise": {},
  "normalized_squared_euclidean": {},
  "signal_to_noise": {},
  "squared_euclidean": {},
}
EVERY_REDUCER = ("mean", "mean_elements", "mean_nonzero", "none", "sum")

# Classes of 6, 5, 4, 3, 3, 2 and one example; the last class of the parameters has none.
_BY_CLASS = np.repeat(np.arange(7), [6, 5, 4, 3, 3, 2, 1])
_LABELS = np.random.default_rng(0).permutation(_BY_CLASS)
_LAYOUT_LABELS = {
  "npair": np.repeat([0, 1, 2, 3, 4, 5, 0, 1, 2, 6, 7, 0], 2),  # a0 p0 a1 p1 ...
  "triplet": np.array([(a, a, (a + 1 + k // 4) % 7) for k, a in enumerate(range(8))]).ravel(),
}


def _batch(seed: int, dtype=jnp.float64) -> jax.Array:
  """Embeddings [N, DIM], those of a class near each other.

  None is all zeros: it would be at distance 1 of all unit vectors, where contrastive's hinge opens,
  and rounding would say on which side. test_degenerate.py has such batches.
  """
  rng = np.random.default_rng(seed)
  x = 0.7 * rng.normal(size=(N, DIM)) + 0.8 * np.eye(CLASSES, DIM)[_LABELS]
  return jnp.asarray(x, dtype)


def _mined(miner: str) -> dict:
  names = MINERS[miner]
  return {} if names is None else {"mining_fn": mining.create(names), "key": jax.random.key(7)}


def _all_pairs(x, y, dtype) -> tuple:
  return x, y, {}


def _blocks(x, y, dtype) -> tuple:
  return x, y, {"block_size": 5}


def _masked_blocks(x, y, dtype) -> tuple:
  rng = np.random.default_rng(3)
  where, weights = rng.random(N) < 0.8, jnp.asarray(rng.random(N) + 0.5, dtype)
  return x, y, {"where": where, "weights": weights, "block_size": 5}


def _layout(name: str) -> Callable:
  def split(x, y, dtype) -> tuple:
    anchors, labels, ids, given = refs.create(name)(x, y)
    return anchors, labels, {"refs": given, "ids": ids}

  return split


def _memory(x, y, dtype) -> tuple:
  """The batch and the last 16 of 20 embeddings, four of which show images of this batch."""
  queue = refs.memory.init(16, DIM, dtype)
  old = _batch(9, dtype)
  for first in (0, 10):
    part = slice(first, first + 10)
    ids = np.where(np.arange(10) < 2, np.arange(10) + first, 100 + first + np.arange(10))
    where = np.arange(10) != 4
    queue = refs.memory.enqueue(queue, old[part], y[part], ids=ids, where=where)
  ids = np.arange(N)
  anchors, labels, ids, given = refs.create("all_pairs")(x, y, ids=ids)
  return anchors, labels, {"refs": refs.memory.extend(given, queue), "ids": ids}


SETTINGS = {
  "all_pairs": _all_pairs,
  "blocks": _blocks,
  "masked_blocks": _masked_blocks,
  "npair": _layout("npair"),
  "triplet": _layout("triplet"),
  "memory": _memory,
}
_WITH_PARAMETERS = ("all_pairs", "blocks", "masked_blocks")


def _call(loss: Callable, params: dict, setting: str, labels, dtype=jnp.float64) -> Call:
  """Makes the value and gradients (of embeddings and, if there are any, parameters) of a call."""

  def value_fn(x, params):
    anchors, anchor_labels, given = SETTINGS[setting](x, jnp.asarray(labels), dtype)
    value = loss(anchors, anchor_labels, **({"params": params} if params else {}), **given)
    # Rows that are not reduced count differently, so that one in place of another shows.
    return jnp.sum(value * jnp.arange(1.0, value.size + 1)) if value.ndim else value

  def call() -> dict:
    value, (dx, dparams) = jax.value_and_grad(value_fn, argnums=(0, 1))(_batch(1, dtype), params)
    return {"value": value, "dx": dx, **{f"d{name}": d for name, d in dparams.items()}}

  return call


def _init(name: str) -> dict:
  options = {"soft_triple": {"centers_per_class": 2}, "sub_center_arcface": {"sub_centers": 2}}
  return losses.init(name, jax.random.key(5), CLASSES, DIM, **options.get(name, {}))


def _params(name: str, dtype) -> dict:
  """Parameters as `losses.init` shapes them, of numpy's numbers: JAX's own differ in the last bit
  from one way of compiling to another, which float64 would show.
  """
  rng = np.random.default_rng(5)
  shaped = jax.eval_shape(lambda: _init(name))
  return {key: jnp.asarray(0.4 * rng.normal(size=a.shape), dtype) for key, a in shaped.items()}


def loss_values(name: str, everything: bool) -> Iterator[tuple[str, Call]]:
  """Yields (case, results) of one loss: settings x miners, options, degenerate labels, float32.

  Args:
    name: the loss.
    everything: False leaves out most settings under most miners: of each setting one miner is seen,
      another one with each loss.
  """
  params, turn = _params(name, jnp.float64), LOSSES.index(name)
  for place, setting in enumerate(_WITH_PARAMETERS if params else SETTINGS):
    labels = _LAYOUT_LABELS.get(setting, _LABELS)
    for k, miner in enumerate(MINERS):
      if name == "proxy_anchor" and setting == "masked_blocks" and k > 1:
        continue  # The code before refused weights under a miner of positives and negatives.
      if everything or k == (turn + place) % len(MINERS):
        loss = losses.create(name, **_mined(miner))
        yield f"{setting}/{miner}", _call(loss, params, setting, labels)
  yield "options", _call(losses.create(name, **OPTIONS[name]), params, "masked_blocks", _LABELS)
  single = _params(name, jnp.float32)
  yield "float32", _call(losses.create(name), single, "all_pairs", _LABELS, jnp.float32)
  if params:
    yield "float32/init", lambda: _init(name)
  if everything:
    yield "one_class", _call(losses.create(name), params, "all_pairs", np.zeros(N, int))
  if everything and not params:  # otherwise labels are below CLASSES
    yield "all_distinct", _call(losses.create(name), params, "all_pairs", np.arange(N))


def distance_values() -> Iterator[tuple[str, Call]]:
  """Yields (name, results) of every distance: all of [N, 10], and gradients of a weighted sum."""
  x, y = _batch(1), _batch(2)[:10]
  weights = np.random.default_rng(4).normal(size=(N, 10))

  def call(fn) -> dict:
    dx, dy = jax.grad(lambda x, y: jnp.sum(weights * fn(x, y)), argnums=(0, 1))(x, y)
    return {"value": fn(x, y), "dx": dx, "dy": dy}

  for name, options in EVERY_DISTANCE.items():
    yield name, functools.partial(call, distances.create(name, **options))


def miner_values() -> Iterator[tuple[str, Call]]:
  """Yields (name, results) of every miner under a loss of pairs and one of triplets, by row."""
  for name, options in EVERY_MINER.items():
    shared = {"mining_fn": mining.create(name, **options), "key": jax.random.key(7)}
    for loss in ("contrastive", "triplet"):
      by_row = losses.create(loss, reduce_fn=reducers.create("none"), **shared)
      yield f"{name}/{loss}", _call(by_row, {}, "all_pairs", _LABELS)


def reducer_values() -> Iterator[tuple[str, Call]]:
  """Yields (name, results) of every reducer under a loss of one term and one of two terms."""
  for name in EVERY_REDUCER:
    for loss in ("triplet", "margin"):
      reduced = losses.create(loss, reduce_fn=reducers.create(name))
      for setting in ("all_pairs", "masked_blocks"):
        yield f"{name}/{loss}/{setting}", _call(reduced, {}, setting, _LABELS)


GROUPS = (*LOSSES, "distances", "miners", "reducers")


def compute(group: str, everything: bool = True, jit: Callable = jax.jit) -> dict[str, np.ndarray]:
  """Returns {"group/case/what": array} of a loss, or of all distances, miners or reducers."""
  others = {"distances": distance_values, "miners": miner_values, "reducers": reducer_values}
  cases = others[group]() if group in others else loss_values(group, everything)
  found = {}
  with jax.enable_x64(True):
    # A program of many cases compiles in more than their number's time, one of each in more yet.
    while some := list(itertools.islice(cases, 5)):
      results = jax.device_get(jit(lambda some=some: {case: call() for case, call in some})())
      for case, arrays in results.items():
        found |= {f"{group}/{case}/{what}": np.asarray(array) for what, array in arrays.items()}
  return found


def check(computed: dict[str, np.ndarray], saved: dict[str, np.ndarray]) -> None:
  """Compares by element: within 1e-6 of what was saved, and 1e-12 where that is about 0.

  In float32, where the order of a sum shows, within 1e-5 of the largest element of the array.

  Raises:
    AssertionError: naming the first case that differs.
  """
  for name, array in computed.items():
    single, largest = "/float32/" in name, np.max(np.abs(saved[name]), initial=0.0)
    tolerance = {"rtol": 0.0, "atol": 1e-5 * largest} if single else {"rtol": 1e-6, "atol": 1e-12}
    np.testing.assert_allclose(array, saved[name], **tolerance, err_msg=name)


def main(arguments: list[str] | None = None) -> None:
  """Writes the file, gradients rounded to float32, which halves it; or compares with it."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--check", action="store_true", help="compare with the file, write nothing")
  parser.add_argument("--file", type=pathlib.Path, default=FILE, help="default: %(default)s")
  options = parser.parse_args(arguments)
  computed = {}
  for group in GROUPS:
    computed.update(compute(group))
    print(f"{group}: {len(computed)} arrays in all", flush=True)
  if options.check:
    with np.load(options.file) as saved:
      saved = dict(saved)
      assert set(saved) == set(computed), sorted(set(saved) ^ set(computed))
      check(computed, saved)
    print(f"all {len(computed)} arrays are as they were saved")
    return
  scalar = lambda name, array: name.endswith("/value") and array.size == 1
  kept = {name: a if scalar(name, a) else np.float32(a) for name, a in computed.items()}
  np.savez_compressed(options.file, **kept)
  print(f"{options.file}: {len(kept)} arrays, {options.file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
  main()
