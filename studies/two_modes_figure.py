"""The simulation's figure: the loss over two modes' distance, where they end, how that looks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from studies import simulation, two_modes

__all__ = ["draw", "save"]

_SHOWN = (0.0, 0.02, 0.05, 0.1, 0.2)  # noise rates of the landscapes
_ARMS = {"plain": ("#c0392b", "all positives"), "EPS": ("#1f6fb4", "nearest positive (EPS)")}
_CLASSES = ("#d1641c", "#3b3b98")


def draw(outcomes: Mapping[tuple[str, str, str], simulation.Outcome]) -> Figure:
  """Three lines of panels: expected loss, mode distance after training, embeddings.

  Args:
    outcomes: (loss, model, arm) -> what `simulation.simulate` found; all of `simulation.GRID`.
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
    land = two_modes.landscape(loss, noise=noise, per_mode=simulation.PER_MODE, easy=easy)
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
  place = np.arange(len(simulation.NOISES))
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
    ylim=(-0.05, 2.0), xticks=place, xticklabels=[f"{noise:g}" for noise in simulation.NOISES],
  )  # fmt: skip


def _embeddings(axis: Axes, outcome, arm: str, noise: float) -> None:
  """The first start's embeddings on their first two principal axes."""
  z = outcome.embeddings[simulation.NOISES.index(noise), 0]
  flat = z.reshape(-1, z.shape[-1])
  flat = flat - flat.mean(0)
  _, _, axes = np.linalg.svd(flat, full_matrices=False)
  points = (flat @ axes[:2].T).reshape(*z.shape[:2], 2)
  for mode, (x, y) in enumerate(points.transpose(0, 2, 1)):
    klass = simulation.CLASSES[mode]
    axis.scatter(x, y, s=22, color=_CLASSES[klass], marker="ox"[mode % 2], linewidth=1,
                 alpha=0.8, label=f"class {klass}, mode {mode % 2}")  # fmt: skip
  axis.set(
    title=f"triplet, {_ARMS[arm][1]},\nnoise {noise:g} (network)", xlim=(-1.4, 1.4),
    ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[],
  )  # fmt: skip
