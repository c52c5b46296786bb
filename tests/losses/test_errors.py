"""Wrong input is refused with a message that names the argument, what it must be and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining
from jaxdml.losses import reducers
from jaxdml.types import Refs
from tests.losses import names
from tests.losses.table import PER_CLASS_OPTION

X, Y = jnp.ones((4, 2)), jnp.arange(4) // 2
LOSS = losses.triplet_loss
KEY = jax.random.key(0)
IDS = jnp.arange(4)

CASES = {
  "3-d embeddings": (
    lambda: LOSS(X[None], Y), ValueError,
    r"embeddings must be \[n, d\]; got shape \(1, 4, 2\); use vmap",
  ),
  "integer embeddings": (
    lambda: LOSS(X.astype(int), Y), TypeError,
    "embeddings must be floating point; got int32",
  ),
  "labels of another length": (
    lambda: LOSS(X, Y[:3]), ValueError,
    r"labels must be \[4\], one for each embedding; got shape \(3,\)",
  ),
  "one-hot labels": (lambda: LOSS(X, jnp.eye(4)), ValueError, r"labels must be \[4\].*\(4, 4\)"),
  "ids": (lambda: LOSS(X, Y, ids=IDS[:2]), ValueError, r"ids must be \[4\].*\(2,\)"),
  "where": (lambda: LOSS(X, Y, where=jnp.ones((4, 4), bool)), ValueError, r"where must be \[4\]"),
  "weights": (lambda: LOSS(X, Y, weights=1.0), ValueError, r"weights must be \[4\].*\(\)"),
  "refs of another dimension": (
    lambda: LOSS(X, Y, refs=Refs(jnp.ones((3, 5)), jnp.arange(3))), ValueError,
    r"refs.embeddings must be \[m, 2\] or.*\[4, m, 2\]; got shape \(3, 5\)",
  ),
  "private refs of another batch": (
    lambda: LOSS(X, Y, refs=Refs(jnp.ones((3, 5, 2)), jnp.ones((3, 5)))), ValueError,
    r"refs.embeddings .*got shape \(3, 5, 2\)",
  ),
  "refs.labels": (
    lambda: LOSS(X, Y, refs=Refs(jnp.ones((3, 2)), jnp.arange(4))), ValueError,
    r"refs.labels must be shaped \(3,\); got \(4,\)",
  ),
  "labels that float32 rounds": (
    lambda: LOSS(X, np.array([16777216.0, 16777217.0, 0.0, 0.0])), ValueError,
    "labels holds 16777217.0, which JAX would round to another number: np.unique",
  ),
  "labels of a list that NumPy would round": (
    lambda: LOSS(X, [2**60 + 1, 0.5, 0.0, 0.0]), ValueError, "labels holds 1152921504606846977,",
  ),
  "refs.labels that float32 rounds": (
    lambda: LOSS(X, Y, refs=Refs(X, np.full(4, 16777217.0))), ValueError,
    "refs.labels holds 16777217.0",
  ),
  "refs.ids without ids": (
    lambda: LOSS(X, Y, refs=Refs(X, Y, None, IDS)), ValueError,
    "refs.ids is given without ids",
  ),
  "block_size": (
    lambda: LOSS(X, Y, block_size=0), ValueError,
    "block_size must be at least 1 anchor, a whole number, or None; got 0",
  ),
  "half an anchor": (lambda: LOSS(X, Y, block_size=2.5), ValueError, "a whole number.*got 2.5"),
  "no embeddings": (
    lambda: LOSS(X[:0], Y[:0]), ValueError, r"embeddings must hold at least one; got .*\(0, 2\)",
  ),
  "no references": (
    lambda: LOSS(X, Y, refs=Refs(X[:0], Y[:0])), ValueError,
    r"refs.embeddings must hold at least one.*got shape \(0, 2\)",
  ),
  "integers as a mask": (
    lambda: LOSS(X, Y, where=np.array([1, 0, 1, 1])), TypeError,
    "where must be bool, True where it is there; got int32: compare with != 0",
  ),
  "integers as a mask of references": (
    lambda: LOSS(X, Y, refs=Refs(X, Y, np.array([1, 0, 1, 1]))), TypeError,
    "refs.where must be bool",
  ),
  "integers as a mask of a parametric loss": (
    lambda: losses.arcface_loss(X, Y, params={"weights": X}, where=Y), TypeError,
    "where must be bool",
  ),
  "labels beyond 32 bits": (
    lambda: LOSS(X, np.arange(4) * 2**32), ValueError,
    r"labels holds 12884901888, of which JAX would keep the lower 32 bits alone: np.unique\(l",
  ),
  "ids beyond 32 bits": (
    lambda: LOSS(X, Y, ids=np.arange(4) - 2**40), ValueError, "ids holds -1099511627776, of which",
  ),
  "labels of references beyond 32 bits": (
    lambda: LOSS(X, Y, refs=Refs(X, np.arange(4) * 2**32)), ValueError, "refs.labels holds 12884",
  ),
  "labels by name": (
    lambda: LOSS(X, ["a", "b", "a", "b"]), TypeError, r"labels must be numbers; got <U1. np.unique",
  ),
  "ids that are no integers": (
    lambda: LOSS(X, Y, ids=jnp.ones(4)), TypeError, "ids must be integers; got float32",
  ),
  "refs that are none": (
    lambda: LOSS(X, Y, refs=(X, Y)), TypeError, "refs must be a jaxdml.types.Refs.*; got tuple",
  ),
  "references of integers": (
    lambda: LOSS(X, Y, refs=Refs(X.astype(int), Y)), TypeError,
    "refs.embeddings must be floating point; got int32",
  ),
  "a miner by name": (
    lambda: LOSS(X, Y, mining_fn="nearest_positive"), TypeError,
    "mining_fn must be a function, such as mining.create.*; got 'nearest_positive'",
  ),
  "a distance by name": (
    lambda: LOSS(X, Y, distance_fn="cosine"), TypeError, "distance_fn must be a function, such as",
  ),
  "a reducer by name": (
    lambda: LOSS(X, Y, reduce_fn="mean"), TypeError, "reduce_fn must be a function, such as",
  ),
  "a seed as a key": (
    lambda: LOSS(X, Y, key=0), TypeError, r"key must be one jax.random.key\(seed\); got int",
  ),
  "several keys": (
    lambda: LOSS(X, Y, key=jax.random.split(KEY, 3)), TypeError, r"key must be one .*shape \(3,\)",
  ),
  "what makes a distance": (
    lambda: LOSS(X, Y, distance_fn=distances.hyperbolic), ValueError,
    r"distance_fn must return \[4, 4\] for x \[4, d\] and y \[4, d\]; got Distance",
  ),
  "a distance of too few rows": (
    lambda: losses.contrastive_loss(X, Y, distance_fn=lambda a, b: distances.dot(a[:1], b)),
    ValueError, r"distance_fn must return \[4, 4\] .*; got \(1, 4\)",
  ),
  "a miner that loses rows": (
    lambda: LOSS(X, Y, mining_fn=lambda p: jax.tree.map(lambda a: a[:3], p)), ValueError,
    r"mining_fn must return the 4 rows that it is given, or more.*\(3, 4\)",
  ),
  "a miner that loses columns": (
    lambda: LOSS(X, Y, mining_fn=lambda p: p._replace(negative=p.negative[:, :2])), ValueError,
    r"masks \[r, 4\], anchor \[r\]; got .*\(4, 2\)",
  ),
  "a miner that gives masks alone": (
    lambda: LOSS(X, Y, mining_fn=lambda p: (p.positive, p.negative)), TypeError,
    "mining_fn must return jaxdml.types.Pairs; got tuple",
  ),
  "a loss of its own that gives no rows": (
    lambda: losses.from_rows(
      lambda pairs, inputs: pairs.distances, X, Y, distances.dot, reducers.mean
    ), TypeError, "row_fn must return jaxdml.types.Rows; got ",
  ),
  "no positives expanded": (
    lambda: LOSS(X, Y, mining_fn=mining.create("expand_positives", max_positives=0)), ValueError,
    "max_positives must be at least 1, or None for all; got 0",
  ),
  "beta of two axes": (
    lambda: losses.margin_loss(X, Y, beta=jnp.ones((2, 2))), ValueError,
    r"beta must be a scalar or \[num_classes\]; got shape \(2, 2\)",
  ),
  "a hyperparameter of another loss": (
    lambda: LOSS(X, Y, alpha=1.0), TypeError, r"unexpected keyword argument 'alpha'",
  ),
  "random miner without key": (
    lambda: LOSS(X, Y, mining_fn=mining.random_negative), ValueError,
    r"mining with random_negative is random: pass key=jax.random.key\(\.\.\.\) to the loss",
  ),
  "distance weighted without key": (
    lambda: LOSS(X, Y, mining_fn=mining.create("distance_weighted_negative", dim=2)), ValueError,
    "distance_weighted_negative is random: pass key=",
  ),
  "cutoff": (
    lambda: LOSS(
      X, Y, key=KEY,
      mining_fn=mining.create("distance_weighted_negative", dim=2, cutoff=1.5),
    ), ValueError,
    "need 0 < cutoff < max_distance < 2; got cutoff=1.5, max_distance=1.4",
  ),
  "no nearest positives": (
    lambda: LOSS(X, Y, mining_fn=mining.create("nearest_positives", k=0)), ValueError,
    "k must be at least 1; got 0",
  ),
  "a negative number of negatives": (
    lambda: LOSS(X, Y, mining_fn=mining.create("hardest_negatives", k=-2)), ValueError,
    "k must be at least 1; got -2",
  ),
  "flat hyperbolic space": (
    lambda: distances.hyperbolic(curvature=0.0), ValueError, "curvature must be positive; got 0.0",
  ),
  "spherical hyperbolic space": (
    lambda: distances.create("hyperbolic", curvature=-1.0), ValueError,
    "curvature must be positive; got -1.0",
  ),
  "nothing within the clip radius": (
    lambda: distances.hyperbolic(clip_radius=0), ValueError, "clip_radius must be positive; got 0",
  ),
  "a curvature that is no number": (
    lambda: distances.hyperbolic(curvature=float("nan")), ValueError,
    "curvature must be positive; got nan",
  ),
  "unknown option of hyperbolic": (
    lambda: distances.create("hyperbolic", radius=2.0), ValueError,
    r"distance 'hyperbolic' has no option \['radius'\]; valid options: curvature, clip_radius",
  ),
  "option of a distance that has none": (
    lambda: distances.create("cosine", curvature=1.0), ValueError,
    r"distance 'cosine' has no option \['curvature'\]; valid options: none",
  ),
  "option of another miner": (
    lambda: mining.create("multi_similarity_filter", k=2), ValueError,
    r"none of the miners in 'multi_similarity_filter' takes the options \['k'\]",
  ),
  "unknown loss": (
    lambda: losses.create("tripplet"), ValueError,
    "unknown loss 'tripplet'; valid names: angular, arcface, circle",
  ),
  "unknown option": (
    lambda: losses.create("triplet", beta=1.0), ValueError,
    r"loss 'triplet' has no option \['beta'\]; valid options: margin, refs",
  ),
  "unknown miner": (
    lambda: mining.create("nearest_positive+hard"), ValueError,
    r"unknown miner 'hard' in 'nearest_positive\+hard'; valid names: all_positives",
  ),
  "unknown miner option": (
    lambda: mining.create("nearest_positive", dim=3), ValueError,
    r"none of the miners in 'nearest_positive' takes the options \['dim'\]",
  ),
  "traced bins": (
    lambda: jax.jit(losses.fast_ap_loss)(X, Y, bins=7), ValueError,
    "bins must be an int of at least 1, not traced; got ",
  ),
  "no bins": (
    lambda: losses.histogram_loss(X, Y, bins=0), ValueError,
    "bins must be an int of at least 1, not traced; got 0",
  ),
  "unknown distance": (
    lambda: distances.create("l2"), ValueError, "unknown distance 'l2'; valid names: cosine, dot",
  ),
  "unknown reducer": (
    lambda: reducers.create("avg"), ValueError, "unknown reducer 'avg'; valid names: mean, ",
  ),
  "distances of other dimensions": (
    lambda: distances.dot(X, jnp.ones((4, 3))), ValueError,
    r"distances need x \[n, d\] and y \[m, d\]; got x \(4, 2\) and y \(4, 3\)",
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_with_its_message(case):
  call, error, message = CASES[case]
  with pytest.raises(error, match=message):
    call()


def test_the_options_that_create_lists_are_the_losses_arguments():
  loss = losses.create("margin", margin=0.3, beta=0.9, block_size=2)
  assert loss(X, Y) == losses.margin_loss(X, Y, margin=0.3, beta=0.9)


THREE = np.ones((4, 3), np.float32)


def _refused(name):
  loss = losses.LOSSES[name].fn
  option = PER_CLASS_OPTION.get(name)
  key, shape = ("centers", (5, 2)) if option else ("proxies", (5,))
  axes = rf"\[num_classes, {option}, 3\]" if option else r"\[num_classes, 3\]"
  expected = rf"^params must be {{'{key}': floating point {axes}}}; got "
  made = r"Make them with losses.init\(NAME, key, num_classes, 3"
  good = {key: np.zeros((*shape, 3), np.float32)}
  wrong = {
    "another dimension": (
      {key: np.zeros((*shape, 4), np.float32)},
      rf"{{'{key}': float32\[5, .*4\]}}",
    ),
    "another rank": ({key: np.zeros((*shape, 1, 3))}, rf"{{'{key}': "),
    "no class": ({key: np.zeros((0, *shape[1:], 3))}, rf"{{'{key}': "),
    "integers": ({key: np.zeros((*shape, 3), int)}, rf"{{'{key}': int"),
    "another key": ({"weights": good[key]}, r"the keys \['weights'\]"),
    "one key too many": ({**good, "bias": 0.0}, rf"the keys \['bias', '{key}'\]"),
    "an array": (good[key], "ndarray"),
    "None": (None, "NoneType"),
  }  # fmt: skip
  for case, (params, came) in wrong.items():
    yield case, lambda p=params: loss(THREE, Y, params=p), ValueError, f"{expected}{came}.*{made}"
  call = lambda x, y, **options: lambda: loss(x, y, params=good, **options)
  yield "no params", lambda: loss(THREE, Y), TypeError, "params"
  yield (
    "float labels",
    call(THREE, Y + 0.5),
    TypeError,
    "labels must be integers from 0 to num_classes",
  )
  yield "3-d embeddings", call(THREE[None], Y), ValueError, r"embeddings must be \[n, d\]"
  yield "integers", call(THREE.astype(int), Y), TypeError, "embeddings must be floating point"
  yield "labels", call(THREE, Y[:3]), ValueError, r"labels must be \[4\]"
  yield "where", call(THREE, Y, where=np.ones(3, bool)), ValueError, r"where must be \[4\]"
  yield "weights", call(THREE, Y, weights=1.0), ValueError, r"weights must be \[4\]"
  yield "block_size", call(THREE, Y, block_size=0), ValueError, "block_size must be at least 1"
  yield "refs", call(THREE, Y, refs=None), TypeError, "refs"


@pytest.mark.parametrize("name", names.PARAMETRIC)
def test_parameters_are_refused_with_their_message(name):
  for case, call, error, message in _refused(name):
    with pytest.raises(error, match=message):
      call()
      pytest.fail(f"{case} was accepted")
