"""The report of a training run: what its workdir holds, and its model looked at."""

import datetime
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

import jaxdml
from jaxdml import _files, data, evaluation, training
from jaxdml.report import _advice, _page
from jaxdml.report._sections import Curve, Setting
from jaxdml.training import defaults, machine, outcome
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.config import flatten
from jaxdml.training.runs import Restored

_EVALUATED = re.compile(r"eval/(?P<split>.+?)/(?P<metric>(?:collapse/(?:within/)?|macro/)?[^/]+)")
# "pretrained encoder": of runs that measured it through their random head.
_FLOORS = (
  "raw pixels", workdir_lib.FROZEN, "pretrained encoder", "untrained encoder", "plain form",
)  # fmt: skip
_SAME = 5e-4  # Curves that are no further apart look alike, and their numbers too.


def of_run(
  run: Restored, *, workdir: str | os.PathLike[str],
  embedded: evaluation.Embedded | None = None, queries: int = 8, k: int = 8,
  max_points: int = 2000, seed: int = 0,
) -> str:  # fmt: skip
  """The page of a run, finished or stopped: see `build`.

  Args:
    run: of `training.restore`.
    workdir: of the run.
    embedded: the split it is measured on, embedded by its best checkpoint, if that is there.
    queries, k, max_points, seed: as of `build`.

  Raises:
    ConfigError, ValueError: results.json or metrics.jsonl is damaged; or as `build`.
  """
  workdir = pathlib.Path(workdir)
  config = run.setup.config
  dataset, evaluator = run.setup.measured, run.evaluator
  if embedded is None:
    embedded = evaluator.embed(run.state)
  rows = embedded.columns["index"]
  results, notices = workdir_lib.read_results(workdir), []
  finished = results is not None
  if results is None:
    results = {**run.progress.floors, workdir_lib.TRAINED: evaluator.score(embedded)}
    notices.append(
      f"This run has not finished: it is to take {run.setup.total_steps:,} steps. Shown is its "
      f"best checkpoint so far, of step {run.progress.best_step:,}, measured for this page."
    )
  shortfalls = workdir_lib.shortfalls(results, config.eval.select_by)
  # That validation is the easier search stands beside its curves.
  share = outcome.synthetic_share(config, workdir)
  notices += [f"{text[0].upper()}{text[1:]}." for text in (*shortfalls, share) if text]
  notices += _advice.warnings(dataset)
  matched = config.data.eval_label or config.data.label
  named = {name: _named(dataset, name, rows) for name in dataset.labels}
  stored = dataset.column(data.GALLERY)[rows] if data.GALLERY in dataset.labels else None
  others = {k: v for k, v in named.items() if k not in (matched, data.GALLERY)}
  preprocess, rng = evaluator.preprocess, np.random.default_rng(0)  # Nothing is drawn.
  paths = dataset.path(0) is not None

  def images(places: np.ndarray) -> np.ndarray:
    return np.stack([preprocess(encoded, rng) for encoded in dataset.read(rows[places])])

  def record(place: int) -> str:
    return (dataset.path(int(rows[place])) if paths else None) or f"record {rows[place]}"

  return _page.build(
    embedded.embeddings, named[matched], images, title=workdir.resolve().name,
    about=_about(config, evaluator.name, matched), notices=notices, columns=others,
    label_name=matched, record=record, gallery=stored, metrics=results,
    distance_fn=evaluator.distance_fn,
    curves=curves(
      training.read_metrics(workdir), results, evaluator.name,
      classes=len(run.setup.train.classes(config.data.label)),
    ),
    curves_note=_advice.about_selection(run),
    next_steps=_advice.next_steps(run, workdir, finished=finished),
    settings=_settings(config), facts=_facts(run, workdir), queries=queries, k=k,
    max_points=max_points, seed=seed,
  )  # fmt: skip


def write(page: str, out: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a page whole or not at all, and its tables beside it; folders are made."""
  out = pathlib.Path(out)
  for name, table in (page.tables if isinstance(page, _page.Page) else {}).items():
    _files.write_text(out.with_name(f"{out.stem}_{name}.csv"), table)
  _files.write_text(out, page)
  return out


def _named(dataset: data.Dataset, column: str, rows: np.ndarray) -> np.ndarray:
  """The values of a label column by name, where they have names."""
  values, names = dataset.column(column)[rows], dataset.label_names(column)
  if not names:
    return values
  known = lambda value: names[value] if 0 <= value < len(names) else str(value)
  distinct, inverse = np.unique(values, return_inverse=True)
  # Two classes of one name stay two.
  said = [known(value) for value in distinct.tolist()]
  if len(set(said)) < len(said):
    said = [f"{name} ({value})" for name, value in zip(said, distinct.tolist(), strict=True)]
  return np.array(said, object)[inverse].astype(str)


def _about(config: Any, split: str, matched: str) -> str:
  parts = [f"{split}, by {matched}", f"{config.loss.name} loss"]
  if config.mining.positive == "nearest_positive":
    parts.append("easy positives (EPS)")
  if config.hdml.enabled:
    parts.append("HDML")
  return " · ".join([*parts, config.encoder.name, f"dimension {config.embedding.dim}"])


def _settings(config: Any) -> list[Setting]:
  """Every key; the defaults are those of the run's HDML variant."""
  default = defaults.get_config()
  default.hdml.variant = config.hdml.variant
  default = _flat(training.resolve(default))
  return [Setting(key, value, default.get(key)) for key, value in _flat(config).items()]


def _flat(config: Any) -> dict[str, Any]:
  return flatten(json.loads(json.dumps(config.to_dict())))


def _facts(run: Restored, workdir: pathlib.Path) -> Mapping[str, str]:
  config, progress = run.setup.config, run.progress
  facts = {}
  log = workdir / "metrics.jsonl"
  if log.is_file():
    logged = datetime.datetime.fromtimestamp(log.stat().st_mtime)
    facts["last logged"] = f"{logged:%Y-%m-%d %H:%M}"
  selected = config.eval.select_by
  how = "the last one" if selected == "last" else f"best {selected}"
  facts["model"] = f"step {progress.best_step:,} of {run.setup.total_steps:,}, {how}"
  classes = len(run.setup.train.classes(config.data.label))
  facts["trained on"] = f"{len(run.setup.train):,} images of {classes:,} classes"
  if said := _advice.prepared(run.setup.measured):
    facts["the photos"] = said
  facts["machine of this page"] = machine.describe_machine()
  facts["versions"] = f"jaxdml {jaxdml.__version__}, {machine.describe_versions('bokeh')}"
  return facts


def curves(
  history: Mapping[str, tuple[np.ndarray, np.ndarray]], results: Mapping[str, Mapping[str, float]],
  split: str, *, classes: int = 0,
) -> list[Curve]:  # fmt: skip
  """Sorts `training.read_metrics` into the groups of a page, evaluations beside their floor.

  The floors are in `results`, which are of `split`; `classes` were trained on, whose chance is
  beside HDML's head. A curve that only repeats another is left out: means over classes of one size,
  the one loss there is.
  """
  evaluated, rest = [], []
  for name, (steps, values) in history.items():
    if _repeats(history, name):
      continue
    match = _EVALUATED.fullmatch(name)
    if match and not match["metric"].startswith("num_"):
      metric, of = match["metric"], match["split"]
      described = evaluation.describe_metric(metric)
      floor_name, floor = next(
        ((f, results[f][metric]) for f in _FLOORS if metric in results.get(f, {}) and of == split),
        ("", None),
      )
      group = "diagnostics" if metric.startswith("collapse/") else "metrics"
      curve = Curve(group, described.label, steps, values, floor, floor_name, of)
      evaluated.append((described.order, curve))
    elif not match:
      said = _advice.WORDS.get(name, _advice.Word(name))
      curve = Curve(_group(name), said.name, steps, values, note=said.note)
      if name == "loss/head" and classes > 1:
        curve = curve._replace(floor=math.log(classes), floor_name=_advice.CHANCE)
      rest.append(curve)
  order = [word.name for word in _advice.WORDS.values()]
  rest.sort(key=lambda c: (order.index(c.name) if c.name in order else len(order), c.name))
  return [curve for _, curve in sorted(evaluated, key=lambda pair: pair[0])] + rest


def _repeats(history: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str) -> bool:
  """Tells whether a metric says what the one that it is a form of says."""
  of = "loss" if name == "loss/real" else name.replace("/macro/", "/")
  return of != name and of in history and all(
    a.shape == b.shape and np.allclose(a, b, rtol=0, atol=_SAME, equal_nan=True)
    for a, b in zip(history[name], history[of], strict=True)
  )  # fmt: skip


def _group(name: str) -> str:
  if name.startswith("hdml/") or name == "loss/head":
    return "dials"
  return "loss" if name.startswith("loss") else "training"
