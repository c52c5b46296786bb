"""The runs of a suite: which there are, where each one's folder is, what it gave."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdml import _files
from jaxdml.training import defaults
from jaxdml.training.config import flatten
from studies import table
from studies.suites import SUITES, Arm, Suite

__all__ = [
  "FLOORS",
  "TUNING_SEED",
  "Cell",
  "choose",
  "config_of",
  "result_cells",
  "rows_of",
  "tuning_cells",
]

TUNING_SEED = 1000  # no result uses it
FLOORS = (
  "raw pixels", "untrained encoder", "pretrained encoder", "frozen pretrained encoder",
)  # fmt: skip


class Cell(NamedTuple):
  """One run.

  Attributes:
    suite: its name.
    arm: index into the suite's arms.
    seed: of the run.
    overrides: the candidate, dotted keys.
    tuning: it is compared on the validation part, and never sees the test split.
    floors: it measures the floors too, for all arms of its task and seed.
    folder: its workdir.
  """

  suite: str
  arm: int
  seed: int
  overrides: Mapping[str, Any]
  tuning: bool
  floors: bool
  folder: pathlib.Path

  def results(self) -> dict[str, dict[str, float]] | None:
    """Metrics by model; None if it has not finished."""
    path = self.folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None

  def current(self) -> bool:
    """True if what the folder holds is of the config that this code gives the cell.

    A key that did not exist then counts as its default: new keys leave what there was as it was.
    """
    path = self.folder / "cell.json"
    if not path.exists():
      return False
    then, now = flatten(json.loads(path.read_text())), flatten(as_json(config_of(self)))
    return flatten(as_json(defaults.get_config())) | then == now

  def seconds(self) -> float:
    """It took, over all its starts."""
    path = self.folder / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else 0.0


def write_count(cell: Cell, parameters: int) -> None:
  """Keeps how many parameters learnt."""
  _files.write_json(cell.folder / "learning.json", parameters)


def config_of(cell: Cell) -> ConfigDict:
  """The config of a cell."""
  config = SUITES[cell.suite].arms[cell.arm].make()
  config.update_from_flattened_dict(dict(cell.overrides))
  config.seed = cell.seed
  config.eval.test = not cell.tuning
  config.eval.raw_pixels = config.eval.untrained = cell.floors
  if cell.tuning:
    config.eval.clustering = config.eval.diagnostics = False
  return config


def as_json(config: ConfigDict) -> dict[str, Any]:
  """As JSON gives it back."""
  return json.loads(json.dumps(config.to_dict()))


def _slug(text: str) -> str:
  return "".join(c if c.isalnum() or c in "+." else "-" for c in text).strip("-")


def _folder(out: pathlib.Path, suite: Suite, arm: Arm) -> pathlib.Path:
  return out / suite.name / _slug(arm.task) / f"{arm.loss}-{_slug(arm.method)}"


def tuning_cells(suite: Suite, out: pathlib.Path) -> dict[int, list[Cell]]:
  """Cells of each arm that has something to tune."""
  return {
    index: [
      Cell(
        suite=suite.name,
        arm=index,
        seed=TUNING_SEED,
        overrides=overrides,
        tuning=True,
        floors=False,
        folder=_folder(out, suite, arm) / f"candidate-{number}",
      )
      for number, overrides in enumerate(arm.candidates)
    ]
    for index, arm in enumerate(suite.arms)
    if len(arm.candidates) > 1
  }


def choose(suite: Suite, tuned: Mapping[int, Sequence[Cell]]) -> dict[int, Mapping[str, Any]]:
  """The candidate of each arm: the best by the suite's first metric on the validation classes."""
  metric = suite.metrics[0]
  chosen = {
    index: arm.candidates[0] for index, arm in enumerate(suite.arms) if len(arm.candidates) == 1
  }
  for index, cells in tuned.items():
    scored = [(cell.results(), cell) for cell in cells]
    finished = [(rows["trained model"][metric], cell) for rows, cell in scored if rows is not None]
    if finished:
      chosen[index] = max(finished, key=lambda pair: pair[0])[1].overrides
  return chosen


def result_cells(
  suite: Suite, out: pathlib.Path, chosen: Mapping[int, Mapping[str, Any]], seeds: int
) -> list[Cell]:
  """Cells of the results: all arms of seed 0, then of seed 1, ..."""
  first = {}
  for index in chosen:
    first.setdefault(suite.arms[index].task, index)
  return [
    Cell(
      suite=suite.name,
      arm=index,
      seed=seed,
      overrides=overrides,
      tuning=False,
      floors=first[suite.arms[index].task] == index,
      folder=_folder(out, suite, suite.arms[index]) / f"seed-{seed}",
    )
    for seed in range(seeds)
    for index, overrides in chosen.items()
  ]


def rows_of(cells: Sequence[Cell]) -> list[table.Row]:
  """The tidy rows of the cells that have finished."""
  rows = []
  for cell in cells:
    arm = SUITES[cell.suite].arms[cell.arm]
    for model, metrics in (cell.results() or {}).items():
      floor = model in FLOORS
      place = (cell.suite, arm.task, "" if floor else arm.loss, model if floor else arm.method)
      values = {k: v for k, v in metrics.items() if not k.startswith("num_")}
      learning = cell.folder / "learning.json"
      if not floor and SUITES[cell.suite].costs and learning.exists():
        count = json.loads(learning.read_text())
        values |= {table.MILLIONS: count / 1e6, table.MINUTES: cell.seconds() / 60}
      rows += [
        table.Row(*place, cell.seed, "test", metric, value) for metric, value in values.items()
      ]
  return rows
