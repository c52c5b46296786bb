"""The real linen modules under the tiny parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdml import hdml, models
from tests.hdml import tiny

DENSE = {"w": "fc", "w1": "fc1", "w2": "fc2"}


def to_modules(params, dtype=jnp.float32):
  """Reference parameters under the modules' names; the encoder's stay."""

  def convert(group):
    tree = {}
    if "scale" in group:
      tree["bn"] = {"scale": group["scale"], "bias": group["bias"]}
    for name, module in DENSE.items():
      if name in group:
        tree[module] = {"kernel": group[name], "bias": group[name.replace("w", "b")]}
    return tree

  tree = {name: convert(group) for name, group in params.items() if name != "encoder"}
  return jax.tree.map(dtype, tree | {"encoder": params["encoder"]})


def objective(case, params, x, labels, state, *, axis_name=None, distance_fn=None):
  """Encoder, embedding and HDML's objective, with BatchNorm synchronised over `axis_name`."""
  embedding = models.Embedding(tiny.Z, axis_name=axis_name)
  generator = models.Generator(tiny.Y, hidden=tiny.HIDDEN, axis_name=axis_name)
  head = models.SoftmaxHead(tiny.CLASSES)
  stats = lambda size: {"bn": {"mean": jnp.zeros(size), "var": jnp.ones(size)}}

  def embed(p, y):
    variables = {"params": p, "batch_stats": stats(tiny.Y)}
    return embedding.apply(variables, y, train=True, mutable=["batch_stats"])

  def generate(p, z):
    variables = {"params": p, "batch_stats": stats(tiny.HIDDEN)}
    return generator.apply(variables, z, train=True, mutable=["batch_stats"])

  networks = hdml.Networks(embed, generate, lambda p, y: head.apply({"params": p}, y))
  y = tiny.encode(params["encoder"], x)
  decayed = [params["encoder"]["w"], params["embedding"]["fc"]["kernel"]]
  regularizer = 0.5 * case.decay * sum(jnp.sum(w**2) for w in decayed)
  bound = tiny.bound(case, axis_name=axis_name, **tiny.DIALS)
  if distance_fn is not None:
    bound["distance_fn"] = distance_fn
  z, _ = embed(params["embedding"], y)
  return hdml.objective(networks, params, y, z, labels, state, regularizer=regularizer, **bound)


def state(metric, generator):
  return hdml.HdmlState(hdml.init_window(metric), hdml.init_window(generator), jnp.float32(metric))
