"""`jaxdml evaluate`: all metrics of a trained model, or of published weights as they are."""

import argparse
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxdml import _files
from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, UsageError, note


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir")
  _options.add(parser, "dataset", "split", "label", "data_dir")
  _options.add(parser, "out", help="JSON file for all metrics and how they came")
  frozen = parser.add_argument_group("of an encoder without any training, in place of --workdir")
  frozen.add_argument("--encoder", metavar="NAME", help="as config.encoder.name; needs --dataset")
  frozen.add_argument("--init", default="", metavar="WEIGHTS",
                      help="as config.encoder.init (random weights)")  # fmt: skip
  frozen.add_argument("--image_size", type=_options.count, metavar="N",
                      help="pixels a side (that of the weights)")  # fmt: skip
  _options.add(frozen, "num_workers", help="processes that decode, 0: a thread (0)", default=0)
  parser.epilog = (
    "Without --dataset and --label, on those of the run. docs/evaluation.md says more."
  )


def _run(args: argparse.Namespace) -> None:
  if args.out is not None:  # Before the work begins.
    _options.check_file("out", args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
  if (args.workdir is None) == (args.encoder is None):
    raise UsageError(
      "one of --workdir, a run, and --encoder, weights without a run, is required; see jaxdml "
      "evaluate --help"
    )
  if args.encoder and not args.dataset:
    raise UsageError("--encoder needs --dataset: glyphs, tfds:NAME, image_folder/NAME, ...")
  if args.workdir and (args.init or args.image_size):
    raise UsageError("--init and --image_size are for --encoder; a run has its own")
  from jaxdml import evaluation

  given = {"split": args.split, "label": args.label, "data_dir": args.data_dir}
  if args.encoder:
    options = {"image_size": args.image_size or 0, "num_workers": args.num_workers}
    result = evaluate_frozen(args.encoder, args.init, args.dataset, **given, **options)
    model = f"Encoder: {result['weights']}"
  else:
    result = evaluate(args.workdir, dataset=args.dataset, **given)
    model = f"Model: {result['workdir']}, step {result['step']}"
  if args.out is not None:
    _files.write_json(args.out, result)
  rows = result["metrics"]
  trained = list(rows.values())[-1]
  print(
    f"{result['dataset']} {result['split']}, by {result['label']}: {trained['num_queries']} "
    f"queries, {trained['num_without_match']} without a match left out, "
    f"{trained['num_undecodable']} unreadable images. {model}.\n"
    f"{evaluation.format_table(rows)}"
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
  note(*workdir_lib.shortfalls(metrics, config.eval.select_by))
  return {
    "workdir": os.fspath(workdir), "step": trained.step, "fingerprint": trained.fingerprint,
    "dataset": images.name, "split": split, "label": used,
    "metrics": _numbers(metrics),
  }  # fmt: skip


def evaluate_frozen(
  encoder: str, init: str, dataset: str, *, split: str = "test", label: str | None = None,
  data_dir: str | None = None, image_size: int = 0, num_workers: int = 0,
) -> dict[str, Any]:  # fmt: skip
  """Measures an encoder without training: its features by its own pooling, and the raw pixels.

  Pixels are prepared by `data.preprocess=standard` with what the weights want, features ranked by
  cosine similarity. `image_size` 0 is that of the weights, of random ones 224.

  Args:
    encoder, init: as `config.encoder.name` and `config.encoder.init`; init "" is random weights.
    dataset, split, label, data_dir: as of `evaluate`.

  Returns:
    "metrics": {"raw pixels", "frozen pretrained encoder" (or "untrained encoder")}; and "encoder",
    "init", "weights", "dataset", "split", "label", and "data", how the pixels were prepared.

  Raises ConfigError, DatasetNotPreparedError, ValueError, ImageDecodeError: as `evaluate`.
  """
  from jaxdml import data, training
  from jaxdml.training import defaults, encoder_init, setup
  from jaxdml.training import workdir as workdir_lib
  from jaxdml.training.runs import Evaluator

  images = data.load(dataset, split, data_dir=data_dir)
  if label:
    images = data.with_groups(images, label)
  config = defaults.get_config()
  config.data.update(
    dataset=dataset, data_dir=data_dir or "", label=_column(images, label), preprocess="standard",
    channels=3, image_size=image_size or (0 if init else 224), num_workers=num_workers,
  )  # fmt: skip
  config.encoder.update(name=encoder, init=init)
  config = training.resolve(config)
  weights = encoder_init.describe(config) if init else f"{encoder}, random weights"
  with setup.building():
    embedder, variables = encoder_init.frozen(config)
  evaluator = Evaluator(config, images, embedder.features)
  row = workdir_lib.FROZEN if init else "untrained encoder"
  metrics = {
    "raw pixels": evaluator.score(evaluator.pixels(), cosine=True),
    row: evaluator.score(evaluator.embed_variables(variables), cosine=True),
  }
  used = ("preprocess", "image_size", "crop_pct", "interpolation", "normalize")
  return {
    "encoder": encoder, "init": init,
    "weights": weights,
    "dataset": images.name, "split": split, "label": config.data.label,
    "data": {key: config.data[key] for key in used}, "metrics": _numbers(metrics),
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


def _numbers(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | int]]:
  return {name: {k: _number(v) for k, v in row.items()} for name, row in rows.items()}


def _number(value: Any) -> float | int:
  return int(value) if float(value).is_integer() else float(value)


COMMAND = Command(
  "Measures a trained model, or frozen weights: retrieval, clustering, class collapse",
  _add_options,
  _run,
)
