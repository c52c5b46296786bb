"""Measures a trained model on its test split, or on any other prepared data set.

jaxdml evaluate --workdir=runs/glyphs --dataset=digits
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxdml.commands import errors as command


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the metrics; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="jaxdml evaluate",
    description="Measures a trained model: retrieval, clustering, collapse (docs/evaluation.md).",
  )
  parser.add_argument("--workdir", required=True, help="of a run of python -m jaxdml.main")
  parser.add_argument("--dataset", default=None, help="glyphs, tfds:NAME, ...; default: the run's")
  parser.add_argument("--split", default="test", help="of the data set (test)")
  parser.add_argument(
    "--label", default=None,
    help="column that says what matches; default: the run's, of another data set its own",
  )  # fmt: skip
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--out", default=None, help="JSON file for all metrics and how they came")
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import data, evaluation
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  try:
    out = None if args.out is None else pathlib.Path(args.out).expanduser()
    if out is not None:  # Before the work begins.
      if out.is_dir():
        raise ValueError(f"--out={out} is a folder; expected the name of a file")
      out.parent.mkdir(parents=True, exist_ok=True)
    result = evaluate(
      args.workdir,
      dataset=args.dataset,
      split=args.split,
      label=args.label,
      data_dir=args.data_dir,
    )
    if out is not None:
      out.write_text(json.dumps(result, indent=2) + "\n")
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, data.DatasetNotPreparedError,
    data.ImageDecodeError, data.WorkerError, OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  rows = result["metrics"]
  trained = rows["trained model"]
  print(
    f"{result['dataset']} {result['split']}, by {result['label']}: {trained['num_queries']} "
    f"queries, {trained['num_without_match']} without a match left out, "
    f"{trained['num_undecodable']} unreadable images. Model: {result['workdir']}, step "
    f"{result['step']}.\n{evaluation.format_table(rows)}"
  )
  diagnostics = {k: v for k, v in trained.items() if k.startswith("collapse/")}
  width = max(map(len, diagnostics), default=0)
  for name, value in diagnostics.items():
    print(f"{name:<{width}}  {value:.3f}")
  if out is not None:
    print(f"wrote {out}")
  return 0


def evaluate(
  workdir: str | os.PathLike[str],
  *,
  dataset: str | None = None,
  split: str = "test",
  label: str | None = None,
  data_dir: str | None = None,
) -> dict[str, Any]:
  """Measures the best model of a run with all metrics of `jaxdml.evaluation`.

  Args:
    workdir: of the run.
    dataset: as `data.load` takes it; by default the run's.
    split: likewise.
    label: the column that says what matches; by default the run's `eval_label` or `label`, of
      another data set its own.
    data_dir: the TFDS data directory; by default the run's.

  Returns:
    "metrics": {"trained model": {name: value}}, with the floors of results.json where they are of
    the same images and labels (a line on stderr tells of images that changed); and "workdir",
    "step", "fingerprint", "dataset", "split", "label".

  Raises:
    CheckpointError, ConfigError: as `inference.load`.
    DatasetNotPreparedError: the data set is not there.
    ValueError: no such data set, split or column.
    ImageDecodeError: too many of its images cannot be decoded.
  """
  from ml_collections import ConfigDict

  from jaxdml import data, inference
  from jaxdml.training.evaluator import Evaluator
  from jaxdml.training.workdir import changed_data

  trained = inference.load(workdir, data_dir=data_dir)
  for remark in trained.remarks:
    print(f"note: {remark}", file=sys.stderr)
  config = ConfigDict(trained.config)
  keys = config.data
  own = dataset in (None, keys.dataset)
  images = data.load(dataset or keys.dataset, split, data_dir=keys.data_dir or None)
  for column in (label or "", *((keys.label, keys.eval_label) if own else ())):
    images = data.with_groups(images, column)
  matched = keys.eval_label or keys.label
  if not own:
    keys.label, keys.eval_label = _column(images, label), ""
  elif label is not None:
    keys.eval_label = label
  config.eval.clustering = config.eval.diagnostics = True
  evaluator = Evaluator(config, images, trained.embed)
  metrics = {"trained model": evaluator.score(evaluator.embed_with(trained.embed_batch))}
  used = keys.eval_label or keys.label
  floors = pathlib.Path(workdir) / "results.json"
  if own and split == "test" and used == matched and config.eval.test and floors.is_file():
    if changed := changed_data(pathlib.Path(workdir), {split: images}, keys.label):
      print(f"note: {changed}. The floors of results.json are left out", file=sys.stderr)
    else:
      metrics = {**json.loads(floors.read_text()), **metrics}
  return {
    "workdir": os.fspath(workdir),
    "step": trained.step,
    "fingerprint": trained.fingerprint,
    "dataset": images.name,
    "split": split,
    "label": used,
    "metrics": {name: {k: _number(v) for k, v in row.items()} for name, row in metrics.items()},
  }


def _column(images: Any, label: str | None) -> str:
  """The column of another data set that says what matches."""
  label = label or images.default_label
  if label is None:
    raise ValueError(
      f"--label: data set {images.name!r} does not say which of its columns is the class; expected "
      f"one of {', '.join(sorted(images.labels)) or 'none: it has no labels'}"
    )
  images.column(label)
  return label


def _number(value: Any) -> float | int:
  return int(value) if float(value).is_integer() else float(value)


if __name__ == "__main__":
  sys.exit(command.run(main))
