"""HDML's own dials: what a run's schedule did, and what its synthetics are.

python -m studies.dials --workdir=runs/hdml_glyphs --out=runs/dials

Writes dials.json (every number), dials.png (the schedule over training, and the synthetics of the
best checkpoint) and neighbours.png (the training images nearest to pulled and synthetic negatives).
The run may still be training.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxdml import _files, commands, training
from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
from jaxdml.training import checkpoints, read_metrics
from jaxdml.training import config as config_lib
from jaxdml.training.runs import Restored
from studies import synthetics
from studies.synthetics import KINDS, Measured

__all__ = [
  "CURVES",
  "curves",
  "draw",
  "neighbours",
]

CURVES = (
  "hdml/lambda",
  "hdml/trust_in_real",
  "hdml/reconstruction_error",
  "hdml/positive_distance",
  "hdml/negative_distance",
  "hdml/pull_ratio",
  "hdml/pull_share",
  "loss/real",
  "loss/synthetic",
  "loss/generator",
  "loss/soft",
  "loss/head",
)
"""The metrics of HDML that a run logs; those that an older run did not log are left out."""


def curves(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Reads what metrics.jsonl of a run says of HDML: name -> (steps [t], values [t]).

  Lines that hold no metric of `CURVES` (evaluations, a line that a kill cut off) are passed over.

  Raises:
    ValueError: no metrics.jsonl, or none of HDML's metrics in it.
  """
  logged = read_metrics(workdir)
  if not logged:
    raise ValueError(f"{workdir} holds no metrics.jsonl; expected the --workdir of a run with HDML")
  if "hdml/lambda" not in logged:
    raise ValueError(
      f"{workdir}: its metrics.jsonl holds no hdml/lambda: the run is one without HDML, or stopped "
      "before its first config.train.log_every"
    )
  return {name: logged[name] for name in CURVES if name in logged}


# Readable for those who cannot tell red from green.
_LABELS = {"negative": "#1f6fb4", "anchor": "#e08214", "other": "#8a8a8a"}
_TUPLES = ("tuples", "pulled", "reconstructed", "synthetic", "total")

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def draw(curves: Curves, metrics: Mapping[str, float]) -> Figure:
  """Two lines of panels: curves over training, bars of the checkpoint's synthetics.

  Args:
    curves: `curves` of the run.
    metrics: `synthetics.measure` of it.
  """
  figure = Figure(figsize=(15.0, 7.0), dpi=80, layout="constrained")
  FigureCanvasAgg(figure)
  # Each line is laid out by itself: names of bars take room that curves do not need.
  axes = np.stack([line.subplots(1, 4) for line in figure.subfigures(2, 1)])
  _lines(axes[0, 0], curves, "schedule", {
    "hdml/lambda": "lambda (1: no pull)", "hdml/trust_in_real": "weight of J_m",
    "hdml/pull_share": "share of negatives pulled", "hdml/pull_ratio": "pulled / real distance",
  })  # fmt: skip
  _lines(axes[0, 1], curves, "metric loss", {
    "loss/real": "J_m, real tuples", "loss/synthetic": "J_syn, synthetic",
  })  # fmt: skip
  _lines(axes[0, 2], curves, "generator and head", {
    "hdml/reconstruction_error": "reconstruction error / variance",
    "loss/soft": "J_soft, head on synthetics", "loss/head": "cross-entropy on real features",
  })  # fmt: skip
  axes[0, 2].set_yscale("log")
  distances = ("positive", "negative", "pulled", "reconstructed", "synthetic")
  _bars(axes[0, 3], "distance to the anchor",
        {name: metrics[f"distance/{name}"] for name in distances})  # fmt: skip

  _neighbour_shares(axes[1, 0], metrics)
  _bars(axes[1, 1], "head: right class", {
    "real image": metrics["head/real"], "reconstruction": metrics["head/reconstructed"],
    "synthetic: negative's": metrics["head/synthetic_as_negative"],
    "synthetic: anchor's": metrics["head/synthetic_as_anchor"], "chance": metrics["head/chance"],
  })  # fmt: skip
  _bars(axes[1, 2], "cosine with J_m's gradient",
        {name: metrics[f"gradient/cosine/{name}"] for name in _TUPLES})  # fmt: skip
  size = metrics["gradient/norm/real"] or 1.0
  _bars(axes[1, 3], "gradient norm / J_m's",
        {name: metrics[f"gradient/norm/{name}"] / size for name in _TUPLES})  # fmt: skip
  figure.suptitle(f"HDML's dials; bars: the best checkpoint, step {metrics['step']:.0f}")
  return figure


def _lines(axis: Axes, curves: Curves, title: str, names: Mapping[str, str]) -> None:
  for name, label in names.items():
    if name in curves:
      axis.plot(*curves[name], label=label, linewidth=1.4)
  axis.set(title=title, xlabel="step")
  axis.legend(fontsize=8)


def _bars(axis: Axes, title: str, values: Mapping[str, float]) -> None:
  """Horizontal bars, the first on top, each with its number."""
  bars = axis.barh(list(values), list(values.values()), color="#5a7fa8")
  axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
  low, high = min(0.0, *values.values()), max(0.0, *values.values())
  axis.set(title=title, xlim=(1.25 * low, 1.3 * high or 1.0))
  axis.invert_yaxis()


def _neighbour_shares(axis: Axes, metrics: Mapping[str, float]) -> None:
  """Whose class the nearest training image has, for each kind of negative."""
  left = np.zeros(len(KINDS))
  for label, colour in _LABELS.items():
    values = np.array([metrics[f"neighbour/{kind}/{label}"] for kind in KINDS])
    axis.barh(KINDS, values, left=left, color=colour, label=f"{label} class")
    left = left + values
  axis.set(title="class of the nearest image", xlim=(0.0, 1.0))
  axis.invert_yaxis()
  axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3,
              columnspacing=0.8, handlelength=1.0)  # fmt: skip


def neighbours(run: Restored, measured: Measured, lines: int = 10) -> Figure:
  """Random tuples, one a line: anchor, negative, and the training images nearest to each kind.

  A frame tells whose class an image has: the negative's, the anchor's, or another.

  Args:
    run: the images come from.
    measured: what `synthetics.measure` drew.
    lines: tuples shown, at most.
  """
  lines = min(lines, len(measured.anchors))
  columns = {
    "anchor": measured.anchors[:lines],
    "negative": measured.negatives[:lines],
    **{f"nearest to\n{kind}": measured.neighbours[kind][:lines] for kind in KINDS},
  }
  figure = Figure(figsize=(1.05 * len(columns), 0.95 * lines + 0.9), dpi=100)
  FigureCanvasAgg(figure)
  axes = figure.subplots(lines, len(columns), squeeze=False)
  preprocess, rng = run.evaluator.preprocess, np.random.default_rng(0)  # Nothing is drawn.
  for column, (name, records) in enumerate(columns.items()):
    axes[0, column].set_title(name, fontsize=9)
    for line, encoded in enumerate(run.setup.train.read(records)):
      label, axis = measured.labels[records[line]], axes[line, column]
      of = {measured.labels[measured.anchors[line]]: "anchor"}
      of |= {measured.labels[measured.negatives[line]]: "negative"}
      image = preprocess(encoded, rng)
      axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
      axis.set(xticks=[], yticks=[])
      for spine in axis.spines.values():
        spine.set(color=_LABELS[of.get(label, "other")], linewidth=3)
  handles = [axes[0, 0].plot([], [], color=c, linewidth=3)[0] for c in _LABELS.values()]
  names = [f"{label} class" for label in _LABELS]
  figure.legend(handles, names, loc="lower center", ncols=3, fontsize=8, frameon=False)
  figure.subplots_adjust(
    left=0.02, right=0.98, bottom=0.4 / figure.get_figheight(), wspace=0.05, hspace=0.12,
    top=1.0 - 0.45 / figure.get_figheight(),
  )  # fmt: skip
  return figure


def main(argv: Sequence[str] | None = None) -> int:
  """Measures a run and writes dials.json, dials.png and neighbours.png; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m studies.dials",
    description="Draws HDML's schedule over a run's training, and what its synthetics are.",
  )
  parser.add_argument("--workdir", required=True, help="of a run with HDML")
  parser.add_argument("--out", required=True, help="directory for the pictures and the numbers")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--batches", type=int, default=4, help="training batches looked into (4)")
  parser.add_argument("--seed", type=int, default=0, help="draws the tuples (0)")
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out)
  try:
    run = training.restore(args.workdir, data_dir=args.data_dir)
    synthetics.check(run)
    over_training = curves(args.workdir)
    measured = synthetics.measure(run, batches=args.batches, seed=args.seed)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
      "metrics": measured.metrics,
      "curves": {
        name: {"step": steps.tolist(), "value": values.tolist()}
        for name, (steps, values) in over_training.items()
      },
    }
    _files.write_json(out / "dials.json", numbers, indent=1)
    draw(over_training, measured.metrics).savefig(out / "dials.png")
    neighbours(run, measured).savefig(out / "neighbours.png")
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, DatasetNotPreparedError, ImageDecodeError,
    OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  for name, value in measured.metrics.items():
    print(f"{name:45s} {value:.4f}")
  print(f"wrote dials.json, dials.png and neighbours.png to {out}")
  return 0


if __name__ == "__main__":
  sys.exit(commands.guard(main))
