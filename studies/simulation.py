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
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from jaxdml import commands, losses, mining
from jaxdml.distances import l2_normalize
from jaxdml.losses import reducers
from jaxdml.types import Array, PyTree
from studies import table, two_modes

__all__ = [
  "ARMS",
  "GRID",
  "MODELS",
  "NOISES",
  "PER_MODE",
  "Outcome",
  "draw",
  "rows",
  "run",
  "save",
  "simulate",
]


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
  """The end of training; leading axes [noises, seeds].

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
  tuple_losses = [name for name, record in losses.LOSSES.items() if record.parameter is None]
  for name, value, valid in (
    ("loss", loss, tuple_losses), ("arm", arm, ARMS), ("model", model, MODELS),
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


_SHOWN = (0.0, 0.02, 0.05, 0.1, 0.2)  # noise rates of the landscapes
_ARMS = {"plain": ("#c0392b", "all positives"), "EPS": ("#1f6fb4", "nearest positive (EPS)")}
_CLASSES = ("#d1641c", "#3b3b98")


def draw(outcomes: Mapping[tuple[str, str, str], Outcome]) -> Figure:
  """Three lines of panels: expected loss, mode distance after training, embeddings.

  Args:
    outcomes: (loss, model, arm) -> what `simulate` found; all of `GRID`.
  """
  figure = Figure(figsize=(12.5, 9.6), dpi=100, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(3, 4)
  for column, (loss, arm) in enumerate(itertools.product(("triplet", "margin"), _ARMS)):
    _landscapes(axes[0, column], loss, arm)
  for column, loss in enumerate(("triplet", "margin", "contrastive", "multi_similarity")):
    _distances(axes[1, column], loss, outcomes)
  for column, (arm, noise) in enumerate(itertools.product(_ARMS, (0.0, 0.05))):
    _embeddings(axes[2, column], outcomes["triplet", "network", arm], arm, noise)
  axes[0, 0].set_ylabel("expected loss above its minimum")
  axes[1, 0].set_ylabel("distance between the modes")
  axes[0, 0].legend(title="label noise", fontsize=8, title_fontsize=8)
  # Where there is room.
  handles, names = axes[1, 1].get_legend_handles_labels()
  axes[1, 2].legend(handles, names, fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.42))
  axes[2, 0].legend(fontsize=7, loc="upper center", ncols=2, columnspacing=0.8)
  figure.get_layout_engine().set(h_pad=0.08, hspace=0.03)
  return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
  """Writes a PNG of 128 colours, a third of the size of one with all."""
  figure.canvas.draw()
  pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
  Image.fromarray(np.ascontiguousarray(pixels)).quantize(128).save(path, optimize=True)


def _landscapes(axis: Axes, loss: str, arm: str) -> None:
  """Expected loss above its minimum; below zero a dot, or a bar, where the minimum lies."""
  colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(_SHOWN)))
  top = {"triplet": {"plain": 4.0, "EPS": 0.5}, "margin": {"plain": 3.0, "EPS": 1.5}}[loss][arm]
  for i, (noise, colour) in enumerate(zip(_SHOWN, colours, strict=True)):
    easy = arm == "EPS"
    land = two_modes.landscape(loss, noise=noise, per_mode=PER_MODE, easy=easy)
    above = land.value - land.value.min()
    axis.plot(land.mode_distance, above, color=colour, label=f"{noise:g}", linewidth=1.4)
    # A line for each rate, so that none hides another.
    axis.plot(land.minima(), [-0.05 * top * (i + 1)] * 2, color=colour, linewidth=2.5,
              marker="o", markersize=4)  # fmt: skip
  axis.set_yticks(np.linspace(0.0, top, 6))
  axis.axhline(0.0, color="#888888", linewidth=0.6)
  axis.set(
    title=f"{loss}, {_ARMS[arm][1]}", xlim=(-0.05, 1.85), ylim=(-0.32 * top, top),
    xlabel="distance between the modes\n(below 0: where the minima are)",
  )  # fmt: skip


def _distances(axis: Axes, loss: str, outcomes) -> None:
  """Median and 10th to 90th percentile of the final mode distance over the starts."""
  place = np.arange(len(NOISES))
  for arm, (colour, name) in _ARMS.items():
    for model, style in (("free vectors", "-"), ("network", ":")):
      if (loss, model, arm) not in outcomes:
        continue
      found = outcomes[loss, model, arm].mode_distance
      low, median, high = np.quantile(found, [0.1, 0.5, 0.9], axis=1)
      axis.plot(place, median, style, color=colour, marker="o", markersize=3,
                label=f"{name}, {model}")  # fmt: skip
      axis.fill_between(place, low, high, color=colour, alpha=0.15, linewidth=0)
  axis.set(
    title=f"{loss}: after training", xlabel="label noise",
    ylim=(-0.05, 2.0), xticks=place, xticklabels=[f"{noise:g}" for noise in NOISES],
  )  # fmt: skip


def _embeddings(axis: Axes, outcome, arm: str, noise: float) -> None:
  """The first start's embeddings on their first two principal axes."""
  z = outcome.embeddings[NOISES.index(noise), 0]
  flat = z.reshape(-1, z.shape[-1])
  flat = flat - flat.mean(0)
  _, _, axes = np.linalg.svd(flat, full_matrices=False)
  points = (flat @ axes[:2].T).reshape(*z.shape[:2], 2)
  for mode, (x, y) in enumerate(points.transpose(0, 2, 1)):
    klass = CLASSES[mode]
    axis.scatter(x, y, s=22, color=_CLASSES[klass], marker="ox"[mode % 2], linewidth=1,
                 alpha=0.8, label=f"class {klass}, mode {mode % 2}")  # fmt: skip
  axis.set(
    title=f"triplet, {_ARMS[arm][1]},\nnoise {noise:g} (network)", xlim=(-1.4, 1.4),
    ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[],
  )  # fmt: skip


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
  since, out = time.perf_counter(), pathlib.Path(args.out)
  try:
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run(args.seeds, args.steps)
    table.write(rows(outcomes), out / "theory.csv")
    save(draw(outcomes), out / "theory.png")
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  seconds = time.perf_counter() - since
  print(f"wrote {out / 'theory.csv'} and {out / 'theory.png'} after {seconds:.0f} s")
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
