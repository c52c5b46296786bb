"""HDML's synthetics, measured on training batches of a run's checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import hdml
from jaxdml.distances import safe_sqrt
from jaxdml.hdml.tuples import private_tuples
from jaxdml.losses._rows import make_pairs, mine
from jaxdml.training import program as program_lib
from jaxdml.training import setup as setup_lib
from jaxdml.training.runs import Evaluator, Restored
from jaxdml.types import Array, Batch, Refs

__all__ = ["KINDS", "Measured", "check", "inspector", "measure", "nearest"]

KINDS = ("negative", "pulled", "synthetic")
"""A real negative z-, the same pulled z^, and what generator and embedding make of it, z~."""


class Measured(NamedTuple):
  """The finding of `measure`.

  Attributes:
    metrics: name -> mean over the batches; docs: `measure`.
    anchors: [m] records of the training split, the anchors of m random tuples.
    negatives: [m], their negatives.
    neighbours: kind -> [m], the training example nearest to each kind of embedding.
    labels: [training split] classes.
  """

  metrics: dict[str, float]
  anchors: np.ndarray
  negatives: np.ndarray
  neighbours: dict[str, np.ndarray]
  labels: np.ndarray


def nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """[q] the row of `gallery` [n, d] with the highest cosine to each query [q, d].

  >>> nearest(np.array([[2.0, 0.1]]), np.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
  [1]
  """
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
  gallery = unit(gallery)
  blocks = np.array_split(unit(queries), max(1, len(queries) // 1024))
  return np.concatenate([np.argmax(block @ gallery.T, axis=1) for block in blocks])


def _cosine(a: Array, b: Array) -> Array:
  size = safe_sqrt(jnp.sum(a * a) * jnp.sum(b * b))
  return jnp.where(size > 0, jnp.sum(a * b) / jnp.where(size > 0, size, 1.0), 0.0)


def _to_anchor(anchors: Array, partners: Array) -> Array:
  """Euclidean [n, k]."""
  return safe_sqrt(jnp.sum(jnp.square(partners - anchors[:, None]), axis=-1))


def inspector(
  parts: program_lib.Parts, state: program_lib.TrainState, key: Array
) -> Callable[[Batch], Any]:
  """batch -> (metrics, arrays): one training batch looked into, by the state's own schedule.

  Losses and gradients with respect to z are those of the real batch ("real", J_m) and of the tuples
  that HDML makes of it: as mined ("tuples"), with negatives pulled ("pulled"), not pulled but sent
  through generator and embedding ("reconstructed"), and both ("synthetic", J_syn). "total" is
  J_metric's, which weighs J_m and J_syn by trust_in_real.
  """
  config, metric = parts.hdml, parts.metric
  lam = hdml.hardness(state.hdml.metric.mean, config.alpha, state.hdml.first)
  loss_fn = metric.bind(state.params)

  def tuples_of(z: Array, labels: Array, ids: Array):
    anchors, anchor_labels, ids, refs = metric.layout(z, labels, ids=ids)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
    pairs = make_pairs(
      anchors, anchor_labels, refs, distance_fn=metric.distance_fn, ids=ids, keys=keys
    )
    pairs = mine(pairs, metric.mining_fn)
    # The same slots once more, with each example's place in the batch for a label.
    _, anchor_slots, _, slots = metric.layout(z, jnp.arange(len(z)))
    places = private_tuples(pairs, slots, config.slots).labels
    return anchors, anchor_labels, private_tuples(pairs, refs, config.slots), anchor_slots, places

  def inspect(batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
    labels = batch["label"]
    y, z, stats = parts.forward(state.params, state, batch)
    networks = parts.networks(state, stats, y)

    def real(z: Array) -> Array:
      anchors, anchor_labels, ids, refs = metric.layout(z, labels, ids=batch["index"])
      return loss_fn(
        anchors, anchor_labels, refs=refs, ids=ids, mining_fn=metric.mining_fn, key=key,
        distance_fn=metric.distance_fn, reduce_fn=metric.reduce_fn,
      )  # fmt: skip

    def of_tuples(z: Array, lam: Array, generated: bool) -> tuple[Array, Any]:
      anchors, anchor_labels, tuples, *_ = tuples_of(z, labels, batch["index"])
      made = hdml.synthesize(
        networks, state.params, z, anchors, anchor_labels, tuples, lam,
        detach=config.detach, members=config.synthetic_members,
      )  # fmt: skip
      refs = Refs(made.pulled, tuples.labels, tuples.positive | tuples.negative)
      if generated:
        anchors, refs = made.anchors, made.refs
      value = loss_fn(
        anchors,
        anchor_labels,
        refs=refs,
        distance_fn=metric.distance_fn,
        reduce_fn=metric.reduce_fn,
      )
      return value, made if generated else None

    metrics, gradients = {}, {}
    metrics["loss/real"], gradients["real"] = jax.value_and_grad(real)(z)
    pulls = jnp.stack([jnp.ones_like(lam), lam])
    for names, generated in (("tuples", "pulled"), False), (("reconstructed", "synthetic"), True):
      fn = jax.value_and_grad(functools.partial(of_tuples, generated=generated), has_aux=True)
      (values, made), slopes = jax.vmap(fn, (None, 0))(z, pulls)
      metrics |= {f"loss/{name}": value for name, value in zip(names, values, strict=True)}
      gradients |= dict(zip(names, slopes, strict=True))
    unpulled, made = (jax.tree.map(lambda x, i=i: x[i], made) for i in range(2))
    length = lambda g: safe_sqrt(jnp.sum(jnp.square(g)))
    for name, gradient in gradients.items():
      metrics[f"gradient/norm/{name}"] = length(gradient)
      metrics[f"gradient/cosine/{name}"] = _cosine(gradient, gradients["real"])
    trust = jnp.exp(-config.beta / jnp.maximum(state.hdml.generator.mean, 1e-30))
    total = trust * gradients["real"] + (1.0 - trust) * gradients["synthetic"]
    metrics["gradient/cosine/total"] = _cosine(total, gradients["real"])
    metrics["gradient/norm/total"] = length(total)
    pair = gradients["reconstructed"], gradients["synthetic"]
    metrics["gradient/cosine/synthetic_to_reconstructed"] = _cosine(*pair)

    anchors, anchor_labels, tuples, anchor_slots, places = tuples_of(z, labels, batch["index"])
    negative = tuples.negative
    mean = lambda x: jnp.sum(jnp.where(negative, x, 0.0)) / jnp.maximum(jnp.sum(negative), 1)
    d_neg, d_pulled = _to_anchor(anchors, tuples.partners), _to_anchor(anchors, made.pulled)
    moved = negative & (d_pulled < d_neg * (1.0 - 1e-6))
    metrics |= {
      "lambda": lam,
      "trust_in_real": trust,
      "pull/share": mean(moved),
      "pull/ratio": mean(d_pulled / jnp.maximum(d_neg, 1e-12)),
      "distance/negative": mean(d_neg),
      "distance/pulled": mean(d_pulled),
      "distance/reconstructed": mean(_to_anchor(unpulled.anchors, unpulled.refs.embeddings)),
      "distance/synthetic": mean(_to_anchor(made.anchors, made.refs.embeddings)),
    }
    d_pos = hdml.tuples.synthesis_distances(anchors, tuples)
    some = jnp.isfinite(d_pos)
    count = jnp.maximum(jnp.sum(some), 1)
    metrics["distance/positive"] = jnp.sum(jnp.where(some, d_pos, 0.0)) / count

    # Do the features still say the negative's class? And do they say what they were made from?
    n, k = negative.shape
    guess = lambda features: jnp.argmax(networks.classify(state.params["head"], features), axis=-1)
    made_negatives = made.features[-n * k :].reshape(n, k, -1)
    of_negatives = guess(made_negatives)
    error = jnp.sum(jnp.square(made.reconstructed - y), axis=-1)
    spread = lambda x: jnp.mean(jnp.sum(jnp.square(x - x.mean(0)), axis=-1))
    again, _ = networks.embed(state.params["embedding"], made.reconstructed)
    metrics |= {
      "head/real": jnp.mean(guess(y) == labels),
      "head/reconstructed": jnp.mean(guess(made.reconstructed) == labels),
      "head/synthetic_as_negative": mean(of_negatives == tuples.labels),
      "head/synthetic_as_anchor": mean(of_negatives == anchor_labels[:, None]),
      "reconstruction/error": jnp.mean(error) / jnp.maximum(spread(y), 1e-12),
      "reconstruction/variance": spread(made.reconstructed) / jnp.maximum(spread(y), 1e-12),
      "reconstruction/embedding_error": jnp.mean(jnp.sum(jnp.square(again - z), axis=-1))
      / jnp.maximum(spread(z), 1e-12),
    }
    arrays = {
      "use": negative,
      "moved": moved,
      "anchor": jnp.broadcast_to(batch["index"][anchor_slots][:, None], (n, k)),
      "record": batch["index"][places],
      "negative": tuples.partners,
      "pulled": made.pulled,
      "synthetic": made.refs.embeddings,
    }
    return metrics, arrays

  return inspect


def check(run: Restored) -> None:
  """Raises a ValueError for a run without HDML."""
  if not run.setup.config.hdml.enabled:
    raise ValueError(
      "the run is one without HDML (config.hdml.enabled=False): it has no synthetics"
    )


def measure(run: Restored, *, batches: int = 4, tuples: int = 2000, seed: int = 0) -> Measured:
  """Looks into `batches` training batches that follow the run's best checkpoint.

  BatchNorm normalises by the batch as in training, synthetics as `config.hdml` has it. Neighbours
  are looked for by cosine among all training images, embedded as in evaluation; where those of the
  real negatives are not of their own class, those of the synthetics cannot be expected to be.

  Metrics, beside those of `inspector`: neighbour/KIND/{negative, anchor, other}, the share of KIND
  (`KINDS`) whose nearest training image has the negative's class, the anchor's, or another;
  neighbour/KIND/itself, the share whose nearest image is the negative itself; average_loss (J_avg),
  average_generator_loss and step, of the checkpoint.

  Args:
    run: with HDML.
    batches: how many, at least 1.
    tuples: (anchor, negative) drawn at random from each batch, those that are pulled first.
    seed: of that draw.

  Raises:
    ValueError: a run without HDML, no batches or tuples.
  """
  check(run)
  config, state, train = run.setup.config, run.state, run.setup.train
  for name, count in (("batches", batches), ("tuples", tuples)):
    if count < 1:
      raise ValueError(f"{name}: expected at least 1; got {count}")
  program = program_lib.build(
    config,
    num_classes=len(train.classes(config.data.label)),
    total_steps=run.setup.total_steps,
    steps_per_epoch=run.setup.steps_per_epoch,
  )
  step = int(state.step)
  key = jax.random.fold_in(jax.random.key(config.seed), step)
  inspect = jax.jit(inspector(program.parts, jax.tree.map(jnp.asarray, state), key))
  found, drawn = [], []
  rng = np.random.default_rng(seed)
  source = setup_lib.train_batches(
    config, train, setup_lib.sampler(config, train), start=step, stop=step + batches
  )
  with source as stream:
    for batch in stream:
      arrays = {name: jnp.asarray(batch[name]) for name in ("image", "label", "index")}
      metrics, rows = jax.tree.map(np.asarray, inspect(arrays))
      found.append(metrics)
      use = rng.permutation(np.flatnonzero(rows["use"]))
      use = use[np.argsort(~rows["moved"].reshape(-1)[use], kind="stable")][:tuples]
      drawn.append({n: a.reshape(-1, *a.shape[2:])[use] for n, a in rows.items()})
  metrics = {name: float(np.mean([m[name] for m in found])) for name in found[0]}
  rows = {name: np.concatenate([d[name] for d in drawn]) for name in drawn[0]}

  embedded = Evaluator(config, train, run.setup.program.embed).embed(state)
  gallery, records = embedded.embeddings, embedded.columns["index"]
  labels = train.dense_labels(config.data.label)
  of_anchor, of_negative = labels[rows["anchor"]], labels[rows["record"]]
  neighbours = {}
  for kind in KINDS:
    neighbours[kind] = records[nearest(rows[kind], gallery)]
    label = labels[neighbours[kind]]
    shares = {
      "negative": label == of_negative,
      "anchor": label == of_anchor,
      "other": (label != of_negative) & (label != of_anchor),
      "itself": neighbours[kind] == rows["record"],
    }
    metrics |= {f"neighbour/{kind}/{name}": float(x.mean()) for name, x in shares.items()}
  metrics |= {
    "step": step,
    "average_loss": float(state.hdml.metric.mean),
    "average_generator_loss": float(state.hdml.generator.mean),
    "head/chance": 1.0 / len(train.classes(config.data.label)),
  }
  order = rng.permutation(len(rows["anchor"]))
  return Measured(
    dict(sorted(metrics.items())),
    rows["anchor"][order],
    rows["record"][order],
    {kind: found[order] for kind, found in neighbours.items()},
    labels,
  )
