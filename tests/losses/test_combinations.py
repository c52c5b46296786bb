"""Random combinations of all that a loss takes: finite for finite input, in blocks as at once.

A few in the tests; 300, in some minutes:

  python -m tests.losses.test_combinations
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from jaxdml import distances, losses, mining, refs
from jaxdml.losses import reducers
from tests.losses.names import PARAMETRIC, TUPLE

N, D, CLASSES = 9, 4, 5
MINERS = (
  "all_positives", "nearest_positive", "nearest_positive+semihard_negative",
  "hardest_positive+hardest_negative", "random_positive+random_negative",
  "multi_similarity_filter", "expand_positives+semihard_negative", "hardest_negatives",
  "distance_weighted_negative",
)  # fmt: skip
OPTIONS = {"hardest_negatives": {"k": 2}, "distance_weighted_negative": {"dim": D}}
LABELS = {
  "pairs": np.arange(N) // 2,
  "one class": np.zeros(N, int),
  "all distinct": np.arange(N),
  "many": np.array([0, 0, 0, 1, 1, 2, 3, 3, 3]),
  "unknown": np.array([0, -1, 0, 1, 1, -1, 2, 2, -1]),
  "all unknown": np.full(N, -1),
}
SCALES = (1e-20, 1e-19, 1e-13, 1e-5, 1.0, 1e4, 1e10, 1e19, 1e20)


def draw(seed):
  """What one combination is, in words."""
  rng = np.random.default_rng(seed)
  pick = lambda choices: choices[rng.integers(len(choices))]
  name = pick((*TUPLE, *PARAMETRIC))
  labels = pick([k for k in LABELS if name in TUPLE or k in ("pairs", "one class", "many")])
  return {
    "loss": name,
    "miner": pick((None, *MINERS)),
    "distance": pick((None, *distances.NAMES)),
    "reducer": pick((None, *reducers.REDUCERS)),
    "layout": pick(("all_pairs", "npair", "triplet", "memory")) if name in TUPLE else None,
    "labels": labels,
    "dtype": pick(("float32", "float32", "bfloat16")),
    "scale": pick(SCALES),
    "masked": bool(rng.integers(3) == 0),
  }


def value_fn(case, seed, block_size):
  """The function of (embeddings, parameters) that a combination is, and where to look at it."""
  rng = np.random.default_rng(1000 + seed)
  n = {"npair": 8}.get(case["layout"], N)
  x = jnp.asarray(case["scale"] * rng.normal(size=(n, D)), case["dtype"])
  x = x.at[1].set(x[0])  # a duplicate; and a zero vector
  x = x.at[3].set(0.0)
  labels = jnp.asarray(LABELS[case["labels"]][:n], jnp.int32)
  options = {"key": jax.random.key(seed), "block_size": block_size}
  if case["miner"]:
    options["mining_fn"] = mining.create(case["miner"], **OPTIONS.get(case["miner"], {}))
  if case["distance"]:
    options["distance_fn"] = distances.create(case["distance"])
  if case["reducer"]:
    options["reduce_fn"] = reducers.create(case["reducer"])
  params = losses.init(case["loss"], jax.random.key(1), CLASSES, D)
  where = jnp.arange(n) != 4

  def fn(x, params):
    anchors, anchor_labels, own = x, labels, {}
    if case["layout"]:
      layout = refs.create("all_pairs" if case["layout"] == "memory" else case["layout"])
      anchors, anchor_labels, ids, given = layout(x, labels)
      if case["layout"] == "memory":
        queue = refs.memory.enqueue(refs.memory.init(4, D), x[:3] * 0.5, labels[:3])
        given = refs.memory.extend(given, queue)
      own = {"refs": given, "ids": ids}
    elif params:
      own["params"] = params
    if case["masked"] and len(anchors) == n:
      own["where"] = where
    value = losses.create(case["loss"], **options)(anchors, anchor_labels, **own)
    return jnp.sum(value)

  return fn, (x, params)


def check(seed):
  case = draw(seed)
  results = []
  for block_size in (None, 3):
    fn, operands = value_fn(case, seed, block_size)
    results.append(jax.value_and_grad(fn, argnums=(0, 1))(*operands))
  for result in results:
    for leaf in jax.tree.leaves(result):
      assert np.all(np.isfinite(np.asarray(leaf, np.float32))), case
  # A kink or a tie within rounding may fall on either side: a hundredth of the largest entry, or
  # rounding of a gradient that is about value / scale.
  tolerance = 5e-2 if case["dtype"] == "bfloat16" else 1e-2
  if case["miner"] == "multi_similarity_filter" and case["scale"] > 1e4:
    return  # its slack is below the last digit of such distances: whom it keeps is rounding
  value = abs(float(results[0][0]))
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    rounding = 1e-5 * max(value, 1.0) / case["scale"] if a.ndim else 1e-5
    atol = tolerance * np.abs(a).max() + rounding
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=str(case))


@pytest.mark.parametrize(
  "first", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 24, 3))]
)
def test_combinations(first):
  for seed in range(first, first + 3):
    check(seed)


if __name__ == "__main__":
  for number in tqdm(range(300), unit="combination"):
    check(number)
  print("300 combinations, 0 differences")
