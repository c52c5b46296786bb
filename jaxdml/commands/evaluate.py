"""`jaxdml evaluate`: all metrics of a trained model on its test split, or on other data."""

import argparse
import os
import pathlib
from typing import Any

from jaxdml import _files
from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, note


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir", required=True)
  _options.add(parser, "dataset", "split", "label", "data_dir")
  _options.add(parser, "out", help="JSON file for all metrics and how they came")
  parser.epilog = (
    "Without --dataset and --label, on those of the run. docs/evaluation.md says more."
  )


def _run(args: argparse.Namespace) -> None:
  if args.out is not None:  # Before the work begins.
    _options.check_file("out", args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
  from jaxdml import evaluation

  result = evaluate(
    args.workdir, dataset=args.dataset, split=args.split, label=args.label, data_dir=args.data_dir
  )
  if args.out is not None:
    _files.write_json(args.out, result)
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
  if args.out is not None:
    print(f"wrote {args.out}")


def evaluate(
  workdir: str | os.PathLike[str], *, dataset: str | None = None, split: str = "test",
  label: str | None = None, data_dir: str | None = None,
) -> dict[str, Any]:  # fmt: skip
  """Measures the best model of a run with all metrics of `jaxdml.evaluation`.

  By default on the run's own data; `label` is the column that says what matches, by default the
  run's `eval_label` or `label`, of another data set its own.

  Returns:
    "metrics": {"trained model": {name: value}}, with the floors of results.json where they are of
    the same images and labels (a line on stderr tells of images that changed); and "workdir",
    "step", "fingerprint", "dataset", "split", "label".

  Raises:
    CheckpointError, ConfigError, DatasetNotPreparedError, ValueError, ImageDecodeError: as
      `inference.load`, `data.load` and the decoding of too many damaged images.
  """
  from ml_collections import ConfigDict

  from jaxdml import data, inference
  from jaxdml.training import workdir as workdir_lib
  from jaxdml.training.runs import Evaluator

  trained = inference.load(workdir, data_dir=data_dir)
  note(*trained.remarks)
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
  folder, same = pathlib.Path(workdir), own and split == "test" and used == matched
  if same and config.eval.test and (folder / "results.json").is_file():
    if changed := workdir_lib.changed_data(folder, {split: images}, keys.label):
      note(f"{changed}. The floors of results.json are left out")
    else:
      metrics = {**(workdir_lib.read_results(folder) or {}), **metrics}
  return {
    "workdir": os.fspath(workdir), "step": trained.step, "fingerprint": trained.fingerprint,
    "dataset": images.name, "split": split, "label": used,
    "metrics": {name: {k: _number(v) for k, v in row.items()} for name, row in metrics.items()},
  }  # fmt: skip


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


COMMAND = Command(
  "Measures a trained model: retrieval, clustering, class collapse", _add_options, _run
)
