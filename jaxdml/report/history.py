"""What a run logged, as curves: metrics.jsonl."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from jaxdml.report import definitions
from jaxdml.report.sections import Curve

__all__ = ["curves", "read_history"]

_EVALUATED = re.compile(r"eval/(?P<split>.+?)/(?P<metric>(?:collapse/(?:within/)?|macro/)?[^/]+)")
_FLOORS = ("raw pixels", "pretrained encoder", "untrained encoder")
# In the order of the page; metrics of other names follow under their own.
_DIALS = {
  "hdml/lambda": "λ: 1 pulls nothing, 0 all the way",
  "hdml/trust_in_real": "exp(-β / J_gen): weight of J_m",
  "hdml/pull_ratio": "pulled / real negative distance",
  "hdml/pull_share": "share of negatives to pull",
  "hdml/positive_distance": "positive distance",
  "hdml/negative_distance": "negative distance",
  "hdml/reconstruction_error": "reconstruction error",
}


def read_history(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Every metric of metrics.jsonl: name -> (steps [t], values [t]); {} without the file.

  A line that a kill cut off is passed over.

  Raises:
    ValueError: a line that no run writes.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.is_file():
    return {}
  found: dict[str, dict[float, float]] = {}
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if not line.endswith("}"):
      continue
    try:
      logged = json.loads(line)
      step = float(logged.pop("step"))
      for name, value in logged.items():
        found.setdefault(name, {})[step] = float(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"{path}, line {number}: expected metrics of a step as JSON: {error}") from (
        error
      )
  return {name: _columns(points) for name, points in found.items()}


def _columns(points: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
  steps = np.array(sorted(points))
  return steps, np.array([points[step] for step in steps.tolist()])


def curves(
  history: Mapping[str, tuple[np.ndarray, np.ndarray]],
  results: Mapping[str, Mapping[str, float]],
  split: str,
) -> list[Curve]:
  """Sorts metrics into the groups of a page, evaluations beside the floor of their split.

  Args:
    history: of `read_history`.
    results: model -> metrics, with the floors.
    split: the one that `results` are of.
  """
  evaluated, rest = [], []
  for name, (steps, values) in history.items():
    match = _EVALUATED.fullmatch(name)
    if match and not match["metric"].startswith("num_"):
      metric, of = match["metric"], match["split"]
      floor_name, floor = next(
        ((f, results[f][metric]) for f in _FLOORS if metric in results.get(f, {}) and of == split),
        ("", None),
      )
      group = "diagnostics" if metric.startswith("collapse/") else "metrics"
      curve = Curve(group, definitions.short(metric), steps, values, floor, floor_name, of)
      evaluated.append((definitions.rank(metric), curve))
    elif not match:
      rest.append(Curve(_group(name), _DIALS.get(name, name), steps, values))
  dials = list(_DIALS.values())
  rest.sort(key=lambda c: (dials.index(c.name) if c.name in dials else len(dials), c.name))
  return [curve for _, curve in sorted(evaluated, key=lambda pair: pair[0])] + rest


def _group(name: str) -> str:
  if name.startswith("hdml/"):
    return "dials"
  return "loss" if name.startswith("loss") else "training"
