"""The table of losses with parameters, and the compiled programs that their laws share."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, losses, mining
from jaxdml.losses import class_vectors, proxy, reducers
from tests.losses import reference
from tests.losses.table import compiled

N, D, CLASSES, PER_CLASS = 8, 3, 5, 2

# The loss, hyperparameters off their defaults, its default distance, a learnable hyperparameter.
TABLE = {
  "proxy_nca": (
    proxy.proxy_nca_loss, {"temperature": 0.7}, "normalized_squared_euclidean", "temperature",
  ),
  "proxy_nca_pp": (
    proxy.proxy_nca_pp_loss, {"temperature": 0.3}, "normalized_squared_euclidean", "temperature",
  ),
  "proxy_anchor": (
    proxy.proxy_anchor_loss, {"margin": 0.2, "alpha": 3.0}, "cosine", "margin",
  ),
  "soft_triple": (
    proxy.soft_triple_loss, {"la": 4.0, "gamma": 0.4, "margin": 0.1, "tau": 0.3}, "cosine", "gamma",
  ),
  "normalized_softmax": (
    class_vectors.normalized_softmax_loss, {"temperature": 0.4}, "cosine", "temperature",
  ),
  "cosface": (class_vectors.cosface_loss, {"margin": 0.2, "scale": 3.0}, "cosine", "margin"),
  "arcface": (class_vectors.arcface_loss, {"margin": 0.6, "scale": 3.0}, "cosine", "margin"),
  "sub_center_arcface": (
    class_vectors.sub_center_arcface_loss, {"margin": 0.6, "scale": 3.0}, "cosine", "scale",
  ),
  "sphereface": (class_vectors.sphereface_loss, {"margin": 3, "scale": 1.5}, "cosine", "scale"),
}  # fmt: skip
LOSS = {name: row[0] for name, row in TABLE.items()}
OPTIONS = {name: row[1] for name, row in TABLE.items()}
DISTANCE = {name: row[2] for name, row in TABLE.items()}
LEARNABLE = {name: row[3] for name, row in TABLE.items()}
PER_CLASS_OPTION = {"soft_triple": "centers_per_class", "sub_center_arcface": "sub_centers"}

# Those with a reference; angles need cosines, which the others do not give.
DISTANCES = tuple(reference.DISTANCES)
ANGULAR = ("arcface", "sub_center_arcface", "sphereface")
MINERS = {"none": lambda pairs: pairs, "hardest_negative": mining.hardest_negative}
REDUCERS = ("mean", "mean_elements", "mean_nonzero", "none", "sum")


def init(name: str, seed: int = 0, classes: int = CLASSES, dim: int = D):
  option = PER_CLASS_OPTION.get(name)
  return losses.init(
    name, jax.random.key(seed), classes, dim, **({option: PER_CLASS} if option else {})
  )


def vectors(params) -> np.ndarray:
  (leaf,) = params.values()
  return np.asarray(leaf, np.float64)


def batch(name: str, seed: int = 0, dtype=np.float64) -> dict:
  """Arguments of a program: classes of 3, 2, 2, 1 and 0 examples, everything valid."""
  x = np.random.default_rng(seed).normal(size=(N, D)).astype(dtype)
  return {
    "x": x,
    "params": {k: np.asarray(v, dtype) for k, v in init(name, seed).items()},
    "y": np.array([0, 1, 2, 0, 3, 1, 0, 2]),
    "where": np.ones(N, bool),
    "weights": np.ones(N, dtype),
  }


@functools.cache
def program(name: str, block_size: int | None = None, defaults=False, names=DISTANCES):
  """(miner index, distance index, batch) -> ((value, by reducer), gradients), traces counted."""
  traces = []

  def value(learnt, miner, distance, b):
    traces.append(1)
    value, by_reducer = LOSS[name](
      learnt["x"],
      b["y"],
      params=learnt["params"],
      where=b["where"],
      weights=b["weights"],
      **({} if defaults else OPTIONS[name]),
      mining_fn=mining.switch(miner, *MINERS.values()),
      distance_fn=lambda p, q: jax.lax.switch(distance, [distances.create(n) for n in names], p, q),
      reduce_fn=lambda rows, w: (
        reducers.mean(rows, w),
        {r: reducers.create(r)(rows, w) for r in REDUCERS},
      ),
      block_size=block_size,
    )
    return value, by_reducer

  def value_and_gradient(miner, distance, b):
    learnt = {"x": jnp.asarray(b["x"]), "params": b["params"]}
    return jax.value_and_grad(value, has_aux=True)(learnt, miner, distance, b)

  fn = compiled(value_and_gradient)
  fn.over_batches = compiled(jax.vmap(value_and_gradient, in_axes=(None, None, 0)))
  fn.traces = traces
  return fn
