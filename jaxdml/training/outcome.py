"""Floors that a run must beat, and the words of its end: the final table and remarks."""

import math
import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxdml import evaluation
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.checkpoints import Progress
from jaxdml.training.metrics_log import read_metrics
from jaxdml.training.program import TrainState
from jaxdml.training.runs import Evaluator
from jaxdml.training.setup import Setup

Rows = Mapping[str, Mapping[str, float]]
"""Row of the table -> metrics."""

_LITTLE = 0.1  # Weight of synthetic tuples below which HDML has hardly been tried.


def floors(run: Setup, evaluator: Evaluator, state: TrainState) -> dict[str, dict[str, float]]:
  """Measures the rows that need no training, as `config.eval` asks.

  Raw pixels, and the encoder as it starts: with weights of `encoder.init` by its own pooling, for
  the head is random.
  """
  keys, rows = run.config.eval, {}
  if keys.raw_pixels:
    rows["raw pixels"] = evaluator.score(evaluator.pixels(), cosine=True)
  if keys.untrained and run.config.encoder.init:
    features = evaluator.embed(state, run.program.features)
    rows[workdir_lib.FROZEN] = evaluator.score(features, cosine=True)
  elif keys.untrained:
    rows["untrained encoder"] = evaluator.score(evaluator.embed(state))
  return rows


def table(run: Setup, progress: Progress, rows: Rows) -> str:
  """The final table, under a line on the images and on the checkpoint that was chosen."""
  config, trained = run.config, rows[workdir_lib.TRAINED]
  counts = {k: int(v) for k, v in trained.items() if k.startswith("num_")}
  name = f"{run.measured.name} {run.measured.split}"
  selecting = f"{run.selecting.name} {run.selecting.split}"
  if config.eval.select_by == "last":
    how = "the last one, nothing selected"
  else:
    how = f"the best {config.eval.select_by} on {selecting}"
    if run.selecting is run.measured:
      split = "test" if config.eval.test else "validation"
      how += f" (the {split} split itself: optimistic)"
  if not progress.best_step:
    how += "; training never beat its start"
  bad = counts["num_undecodable"]
  return (
    f"\n{name}, by {config.data.eval_label or config.data.label}: {counts['num_queries']} queries, "
    f"{counts['num_without_match']} without a match left out"
    f"{f', {bad} images that cannot be decoded left out' if bad else ''}. Trained model: step "
    f"{progress.best_step} of {run.total_steps}, {how}.\n{evaluation.format_table(rows)}"
  )


def remarks(run: Setup, workdir: pathlib.Path) -> list[str]:
  """Sentences that belong beside a run's results; of a run that has finished."""
  found = (smaller_selection(run), synthetic_share(run.config, workdir))
  return [remark for remark in found if remark]


def smaller_selection(run: Setup) -> str | None:
  """Tells that validation is the easier search, where it has fewer images or classes than test."""
  if run.selecting is run.measured or run.config.eval.select_by == "last":
    return None
  label = run.config.data.eval_label or run.config.data.label
  (few, classes), (many, others) = [
    (len(split), len(split.classes(label))) for split in (run.selecting, run.measured)
  ]
  if few >= many and classes >= others:
    return None
  return (
    f"validation has {few} images of {classes} classes, test {many} of {others}: the same model "
    "scores higher where there is less to confuse, so that a higher score on validation is no sign "
    "of overfitting"
  )


def synthetic_share(config: ConfigDict, workdir: pathlib.Path) -> str | None:
  """Tells what HDML's synthetic tuples weighed on average, and what to change if it was little."""
  steps, trust = read_metrics(workdir).get("hdml/trust_in_real", (None, np.array([math.nan])))
  if not config.hdml.enabled or steps is None:
    return None
  share = float(1 - np.nanmean(trust))
  said = f"HDML's synthetic tuples had {share:.0%} of the loss's weight on average"
  if share >= _LITTLE:
    return said
  if config.hdml.beta != "auto":
    return f"{said}: hardly tried; set hdml.beta=auto, or hdml.beta below {config.hdml.beta:g}"
  return (
    f"{said}, as its generator stayed poor, or as the means it goes by are of whole windows of "
    f"{config.hdml.window}: train longer, shorten hdml.window, or raise "
    "optimizer.head_learning_rate and optimizer.generator_learning_rate"
  )
