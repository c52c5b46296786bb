"""Easy positive sampling's theory as a simulation: where do a class's two modes end up?

python -m studies.simulation --out=runs/theory

Two classes of two modes each are embedded on the unit sphere by minimising a loss of jaxdml from
many starts, with all positives and with `mining.nearest_positive`, while every label is flipped
with some probability, afresh in each batch. What minimises the expected loss of such batches is
known exactly (`two_modes`); here it is searched for, with free vectors (one a mode) and with a
small network on points of the plane. The claim (arXiv 2006.05162): without noise many embeddings
are optimal, with noise only those whose modes collapse, unless positives are easy.

What it shows with the losses' defaults: the claim holds for the triplet loss, whatever the noise,
only that the pull is in proportion to it. The margin loss does not collapse: noise drives modes to
the distance beta - margin, below which positives no longer pull. Contrastive and multi-similarity
loss collapse without noise already. With EPS modes stay apart under all four; but noise then brings
a mode close to one of the other class, and spreads the network's modes.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdml import commands, losses, mining
from jaxdml.distances import l2_normalize
from jaxdml.losses import reducers
from jaxdml.types import Array, PyTree
from studies import table, two_modes

__all__ = ["ARMS", "GRID", "MODELS", "NOISES", "PER_MODE", "Outcome", "rows", "run", "simulate"]

ARMS: dict[str, Callable | None] = {"plain": None, "EPS": mining.nearest_positive}
NOISES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
CLASSES = np.array([0, 0, 1, 1])  # of the four modes
PER_MODE = 6  # examples of a mode in a batch
_DIM = 4  # of the embedding: room for every pair of distances
# The modes of a class lie across from each other: no straight line separates the classes.
_CENTERS = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
_SPREAD = 0.25  # of a mode in the plane


class _Model(NamedTuple):
  """A way to embed.

  Attributes:
    init: key -> parameters.
    embed: (parameters, mode [n], position in the plane [n, 2]) -> [n, 4].
    learning_rate: of Adam, at the start.
  """

  init: Callable[[Array], PyTree]
  embed: Callable[[PyTree, Array, Array], Array]
  learning_rate: float


def _init_network(key: Array, hidden: int = 32) -> PyTree:
  sizes = (2, hidden, hidden, _DIM)
  keys = jax.random.split(key, len(sizes) - 1)
  draw = lambda k, i, o: jax.random.normal(k, (i, o)) * np.sqrt(2.0 / i)
  layers = zip(keys, sizes[:-1], sizes[1:], strict=True)
  return [{"kernel": draw(k, i, o), "bias": jnp.zeros(o)} for k, i, o in layers]


def _apply_network(params: PyTree, mode: Array, points: Array) -> Array:
  del mode
  x = points
  for i, layer in enumerate(params):
    x = jax.nn.relu(x) if i else x
    x = x @ layer["kernel"] + layer["bias"]
  return x


MODELS = {
  "free vectors": _Model(
    lambda key: jax.random.normal(key, (len(CLASSES), _DIM)),
    lambda params, mode, points: params[mode],
    0.03,
  ),
  "network": _Model(_init_network, _apply_network, 0.01),
}


class Outcome(NamedTuple):
  """Where training ended; leading axes [noises, seeds].

  Attributes:
    mode_distance: between the mean embeddings of a class's two modes, the mean of both classes.
    class_distance: between mean embeddings of modes of different classes, the mean of all four.
    nearest_class_distance: the smallest of those four.
    spread: root mean square distance of an example to the mean embedding of its mode.
    embeddings: [..., 4, examples, 4] unit vectors of fresh examples of each mode.
  """

  mode_distance: np.ndarray
  class_distance: np.ndarray
  nearest_class_distance: np.ndarray
  spread: np.ndarray
  embeddings: np.ndarray


def _draw_points(key: Array, mode: Array) -> Array:
  return jnp.asarray(_CENTERS)[mode] + _SPREAD * jax.random.normal(key, (len(mode), 2))


def _train(model: _Model, loss_fn: Callable, steps: int, key: Array, noise: Array) -> Outcome:
  """One run from a random start."""
  start, draw, test = jax.random.split(key, 3)
  optimizer = optax.adam(optax.cosine_decay_schedule(model.learning_rate, steps))
  mode = jnp.repeat(jnp.arange(len(CLASSES)), PER_MODE)
  params = model.init(start)

  def cost(params, key):
    flips, positions = jax.random.split(key)
    labels = jnp.asarray(CLASSES)[mode] ^ jax.random.bernoulli(flips, noise, mode.shape)
    return loss_fn(model.embed(params, mode, _draw_points(positions, mode)), labels)

  def step(carry, i):
    params, state = carry
    gradient = jax.grad(cost)(params, jax.random.fold_in(draw, i))
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
  mode = jnp.repeat(jnp.arange(len(CLASSES)), 16)
  z = l2_normalize(model.embed(params, mode, _draw_points(test, mode)))
  z = z.reshape(len(CLASSES), -1, _DIM)
  means = z.mean(1)
  distance = jnp.sqrt(jnp.sum(jnp.square(means[:, None] - means[None]), axis=-1))
  return Outcome(
    mode_distance=(distance[0, 1] + distance[2, 3]) / 2,
    class_distance=distance[:2, 2:].mean(),
    nearest_class_distance=distance[:2, 2:].min(),
    spread=jnp.sqrt(jnp.mean(jnp.sum(jnp.square(z - means[:, None]), axis=-1))),
    embeddings=z,
  )


def simulate(
  loss: str,
  arm: str = "plain",
  model: str = "free vectors",
  *,
  noises: Sequence[float] = NOISES,
  seeds: int = 16,
  steps: int = 1000,
) -> Outcome:
  """Trains from `seeds` random starts at every noise rate, all at once.

  Tuples are summed, not averaged, as in the expected loss of `two_modes`.

  Args:
    loss: name of a tuple loss, with its default hyperparameters and distance.
    arm: "plain" (all positives) or "EPS".
    model: "free vectors" (one a mode) or "network" (of points in the plane).
    noises: probabilities that a label is flipped.
    seeds: starts; the same for every noise and arm.
    steps: of Adam, with a cosine schedule.

  Raises:
    ValueError: an unknown loss, arm or model, a noise that is no probability, no seeds or steps.
  """
  for name, value, valid in (
    ("loss", loss, losses.LOSSES), ("arm", arm, ARMS), ("model", model, MODELS),
  ):  # fmt: skip
    if value not in valid:
      raise ValueError(f"{name}: expected one of {', '.join(valid)}; got {value!r}")
  if not all(0.0 <= noise <= 1.0 for noise in noises) or not noises:
    raise ValueError(f"noises: expected probabilities; got {noises}")
  for name, count in (("seeds", seeds), ("steps", steps)):
    if count < 1:
      raise ValueError(f"{name}: expected at least 1; got {count}")
  loss_fn = losses.create(loss, reduce_fn=reducers.sum, mining_fn=ARMS[arm])
  train = functools.partial(_train, MODELS[model], loss_fn, steps)
  keys = jax.random.split(jax.random.key(0), seeds)
  grid = jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))
  return jax.tree.map(np.asarray, grid(keys, jnp.asarray(noises, jnp.float32)))


GRID = (
  *[(loss, "free vectors") for loss in ("triplet", "margin", "contrastive", "multi_similarity")],
  *[(loss, "network") for loss in ("triplet", "margin")],
)
"""(loss, model) of the suite "theory"; each runs with both arms."""

Outcomes = dict[tuple[str, str, str], Outcome]


def run(seeds: int = 16, steps: int = 1000, say: Callable[[str], None] = print) -> Outcomes:
  """Simulates every (loss, model) of `GRID` with both arms: (loss, model, arm) -> Outcome."""
  outcomes: Outcomes = {}
  for loss, model in GRID:
    for arm in ARMS:
      outcome = simulate(loss, arm, model, seeds=seeds, steps=steps)
      outcomes[loss, model, arm] = outcome
      medians = ", ".join(f"{x:.2f}" for x in np.median(outcome.mode_distance, axis=1))
      say(f"{loss} ({arm}), {model}: modes apart {medians} at noise {', '.join(map(str, NOISES))}")
  return outcomes


def rows(outcomes: Outcomes) -> list[table.Row]:
  """Tidy rows of the suite "theory": measured ones ("train") and the exact minima ("expected").

  Measured tasks are named "MODEL, noise RATE", with the metrics mode_distance,
  nearest_class_distance and, for the network, spread; exact ones "noise RATE", with lowest and
  highest: the ends of the mode distances at which the expected loss is smallest.
  """
  result = []
  for (loss, model, arm), outcome in outcomes.items():
    metrics = ("mode_distance", "nearest_class_distance", "spread")
    for metric in metrics if model == "network" else metrics[:2]:
      for (i, seed), value in np.ndenumerate(getattr(outcome, metric)):
        task = f"{model}, noise {NOISES[i]:g}"
        result.append(table.Row("theory", task, loss, arm, seed, "train", metric, float(value)))
  for loss in two_modes.LOSSES:
    for arm in ARMS:
      for noise in NOISES:
        found = two_modes.landscape(loss, noise=noise, per_mode=PER_MODE, easy=arm == "EPS")
        for metric, value in zip(("lowest", "highest"), found.minima(), strict=True):
          key = ("theory", f"noise {noise:g}", loss, arm, 0, "expected", metric)
          result.append(table.Row(*key, value))
  return result


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the simulation, writes theory.csv and theory.png; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.simulation",
    description="Where two modes of a class end up under label noise, with and without EPS.",
  )
  parser.add_argument("--out", required=True, help="directory for theory.csv and theory.png")
  parser.add_argument("--seeds", type=int, default=16, help="random starts (16)")
  parser.add_argument("--steps", type=int, default=1000, help="of training each (1000)")
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for matplotlib.
  from studies import two_modes_figure

  since, out = time.perf_counter(), pathlib.Path(args.out)
  try:
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run(args.seeds, args.steps)
    table.write(rows(outcomes), out / "theory.csv")
    two_modes_figure.save(two_modes_figure.draw(outcomes), out / "theory.png")
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  seconds = time.perf_counter() - since
  print(f"wrote {out / 'theory.csv'} and {out / 'theory.png'} after {seconds:.0f} s")
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
