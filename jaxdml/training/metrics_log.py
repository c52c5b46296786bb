"""The metrics of a run, as metrics.jsonl and TensorBoard event files; and their reader."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxdml import _files

__all__ = ["NAME", "MetricsWriter", "read_metrics"]

NAME = "metrics.jsonl"
"""The file in the workdir."""


class MetricsWriter:
  """Appends one JSON line a step to workdir/metrics.jsonl, and the same scalars to events files.

  On resuming, lines beyond `start_step` are dropped: those steps are about to be run again. Of
  several hosts only the first writes.
  """

  def __init__(self, workdir: pathlib.Path, start_step: int):
    # Here, so that reading metrics waits for neither.
    import jax
    from tensorboardX import SummaryWriter

    self._file = self._events = None
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / NAME
    lines = path.read_text().splitlines() if path.exists() else []
    # A line cut off by a kill is the last one, and belongs to a step that runs again.
    kept = [line for line in lines if _is_of(line, start_step)]
    _files.write_text(path, "".join(f"{line}\n" for line in kept))
    self._file = path.open("a")
    self._events = SummaryWriter(str(workdir), purge_step=start_step + 1 if start_step else None)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the scalars of one step."""
    if self._file is None:
      return
    scalars = {name: float(value) for name, value in metrics.items()}
    self._file.write(json.dumps({"step": step, **scalars}) + "\n")
    self._file.flush()
    for name, value in scalars.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes and closes both."""
    if self._file is not None:
      self._file.close()
      self._events.close()

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    try:
      self.close()
    except OSError:
      if kind is None:  # Else that is the error to tell: most likely the same full disk.
        raise


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Every metric that a run has logged: name -> (steps [t], values [t]).

  The run may still be training: a line that is not whole is passed over. Without the file there are
  none.

  Raises:
    ValueError: a line that no run writes.
  """
  path = pathlib.Path(workdir) / NAME
  if not path.is_file():
    return {}
  found: dict[str, dict[float, float]] = {}
  for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
    if not line.endswith("}"):
      continue
    try:
      step, metrics = _parse(line)
      for name, value in metrics.items():
        found.setdefault(name, {})[step] = float(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"{path}, line {number}: expected metrics of a step as JSON: {error}") from (
        error
      )
  return {
    name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
    for name, points in found.items()
  }


def _parse(line: str) -> tuple[float, dict[str, float]]:
  """(step, metrics) of a line; what is no such line raises."""
  logged = json.loads(line)
  return float(logged.pop("step")), logged


def _is_of(line: str, last_step: int) -> bool:
  """Tells whether a line is whole and of a step up to the last one."""
  try:
    return _parse(line)[0] <= last_step
  except (ValueError, KeyError, TypeError, AttributeError):
    return False
