"""HDML on tiny networks, jaxdml's side: parameters, pure networks in the input's dtype, cases."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, hdml, losses, mining, refs
from jaxdml.losses import reducers
from jaxdml.training import variants

X, Y, Z, HIDDEN, CLASSES = 4, 5, 3, 6, 8
DECAY = 0.02
DIALS = {"alpha": 0.9, "beta": 0.5}
CHOICES = {"reconstruction_weight": 0.7, "soft_weight": 3.0, "sum_reconstruction": True}

# Tiny programs: XLA's optimisations cost more than they give.
QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
  QUICK["xla_cpu_use_fusion_emitters"] = False  # a third of the time to compile; gone since

LOSSES = {
  "npair": (losses.npair_loss, distances.dot, reducers.mean),
  "triplet": (losses.triplet_loss, distances.squared_euclidean, reducers.sum),
  "contrastive": (losses.contrastive_loss, distances.normalized_euclidean, reducers.mean_nonzero),
  "margin": (losses.margin_loss, distances.normalized_euclidean, reducers.mean_nonzero),
  "multi_similarity": (losses.multi_similarity_loss, distances.cosine, reducers.mean),
}


class Case(NamedTuple):
  """A batch's layout and labels, a loss with its options, and HDML's choices by name."""

  layout: str
  loss: str
  labels: tuple[int, ...]
  miners: tuple[str, ...] = ()
  slots: int | None = None
  loss_options: Mapping[str, Any] = {}
  choices: Mapping[str, Any] = CHOICES
  decay: float = DECAY
  synthetic_bn: str = "own"

  def reference(self):
    """The reference's arguments."""
    names = ("layout", "loss", "miners", "slots", "loss_options", "decay", "synthetic_bn")
    choices = {k: v for k, v in self.choices.items() if k != "weighted_average"}
    return {name: getattr(self, name) for name in names} | choices


PAIRS = (0, 0, 1, 1, 2, 2, 3, 3)
TRIPLETS = (0, 0, 1, 2, 2, 0, 3, 3, 4)
ALL = (0, 1, 0, 2, 1, 0, 2, 3, 0)  # class 3 has one example only
LABELS = {"npair": PAIRS, "triplet": TRIPLETS, "all_pairs": ALL}
EPS = ("nearest_positive",)
OPTIONS = {"npair": {"l2_reg": 0.3}, "triplet": {"margin": 4.0}}


def of_variant(variant, loss, layout, miners=()):
  """A loss as the paper or the authors' code has it around HDML."""
  table = variants.VARIANTS[variant]
  value = lambda v: v[layout] if isinstance(v, Mapping) else v
  hdml_keys = {key.removeprefix("hdml."): value(v) for key, v in table.items()}
  choices = {k: v for k, v in hdml_keys.items() if k in hdml.HdmlConfig._fields and k != "window"}
  options = dict(OPTIONS.get(loss, {}))
  if loss == "npair":
    options["l2_over"] = table["loss.options.l2_over"]
  return Case(
    layout, loss, LABELS[layout], miners, loss_options=options, choices=choices,
    decay=DECAY if table["optimizer.weight_decay_in_loss"] else 0.0,
    synthetic_bn=table["hdml.synthetic_bn"],
  )  # fmt: skip


def _cases():
  """Both variants of both forms, with and without EPS; then one choice after another."""
  for variant in ("paper", "code"):
    for loss in ("npair", "triplet"):
      yield f"{variant}_{loss}", of_variant(variant, loss, loss)
      yield f"{variant}_{loss}_eps", of_variant(variant, loss, "all_pairs", EPS)
  npair = Case("npair", "npair", PAIRS, loss_options=OPTIONS["npair"])
  triplet = Case("all_pairs", "triplet", ALL, EPS, loss_options=OPTIONS["triplet"])
  choose = lambda case, **choices: case._replace(choices={**CHOICES, **choices})
  yield "means", choose(npair, sum_reconstruction=False, joint_soft=True, weighted_average=False)
  for detach in ("distances", "anchors", "generated"):
    yield f"detach_{detach}", choose(npair, detach=detach)
  yield "negatives", choose(npair, synthetic_members="negatives")
  yield "negatives_eps", choose(triplet, synthetic_members="negatives", joint_soft=True)
  yield "real_bn", npair._replace(synthetic_bn="real")
  yield "slots", npair._replace(labels=(0, 0, 1, 1, 0, 0, 4, 4, 2, 2), slots=3)
  yield "slots_eps", triplet._replace(slots=4)
  yield "slots_hardest", triplet._replace(miners=(*EPS, "hardest_negative"), slots=2)


CASES = dict(_cases())


def params(seed=0):
  r = np.random.default_rng(seed)
  dense = lambda a, b: r.normal(size=(a, b)) / np.sqrt(a)
  norm = lambda c: {"scale": r.uniform(0.7, 1.3, c), "bias": 0.3 * r.normal(size=c)}
  return {
    "encoder": {"w": dense(X, Y), "b": 0.3 * r.normal(size=Y)},
    "embedding": norm(Y) | {"w": dense(Y, Z), "b": 0.3 * r.normal(size=Z)},
    "generator": norm(HIDDEN)
    | {"w1": dense(Z, HIDDEN), "b1": 0.5 * r.normal(size=HIDDEN)}
    | {"w2": dense(HIDDEN, Y), "b2": 0.3 * r.normal(size=Y)},
    "head": {"w": dense(Y, CLASSES), "b": 0.3 * r.normal(size=CLASSES)},
  }


def images(case, seed=0):
  return np.random.default_rng(1000 + seed).normal(size=(len(case.labels), X))


def decay(p, weight):
  """Weight decay inside J_m: weight / 2 (||W||^2 + ||b||^2) of encoder and embedding."""
  decayed = [p[group][key] for group in ("encoder", "embedding") for key in ("w", "b")]
  return 0.5 * weight * sum((leaf**2).sum() for leaf in decayed)


def encode(p, x):
  return jnp.tanh(x @ p["w"] + p["b"])


def _norm(p, x, like=None):
  like = x if like is None else like
  return p["scale"] * (x - like.mean(0)) / jnp.sqrt(like.var(0) + 1e-3) + p["bias"]


def embed(p, y, like=None):
  return _norm(p, y, like) @ p["w"] + p["b"]


def generate(p, z):
  hidden = jax.nn.relu(z @ p["w1"] + p["b1"])
  return _norm(p, hidden) @ p["w2"] + p["b2"], hidden.mean(0)


def networks(case, y):
  """For a batch of real features y."""
  like = y if case.synthetic_bn == "real" else None
  embed_synthetic = lambda p, y: (embed(p, y, like), y.mean(0))
  return hdml.Networks(embed_synthetic, generate, lambda p, y: y @ p["w"] + p["b"])


def bound(case, *, axis_name=None, window=2, **dials):
  """The objective's keyword arguments for a case."""
  loss_fn, distance_fn, reduce_fn = LOSSES[case.loss]
  config = hdml.HdmlConfig(window=window, slots=case.slots, **{**case.choices, **dials})
  return {
    "loss_fn": functools.partial(loss_fn, **case.loss_options),
    "reduce_fn": reduce_fn,
    "additive": True,
    "distance_fn": distance_fn,
    "layout": refs.create(case.layout),
    "config": config,
    "mining_fn": mining.create("+".join(case.miners)) if case.miners else None,
    "axis_name": axis_name,
  }


def of_embeddings(case, p, y, z, state, **dials):
  """The objective of given features and embeddings."""
  regularizer = decay(p, case.decay) if case.decay and "encoder" in p else 0.0
  labels, arguments = jnp.array(case.labels), bound(case, **DIALS | dials)
  return hdml.objective(
    networks(case, y), p, y, z, labels, state, regularizer=regularizer, **arguments
  )


@functools.cache
def program(name):
  """Jitted (params, x, state) -> ((total, (state, statistics, metrics)), gradients)."""
  case = CASES[name]

  def total(p, x, state):
    y = encode(p["encoder"], x)
    return of_embeddings(case, p, y, embed(p["embedding"], y), state)

  return jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)


def state(metric, generator):
  """Window means given by hand."""
  window = lambda mean: hdml.Window(jnp.float64(mean), jnp.float64(0.0), jnp.int32(0))
  return hdml.HdmlState(window(metric), window(generator), jnp.float32(metric))
