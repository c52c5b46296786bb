"""Metrics to metrics.jsonl and to TensorBoard event files."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping

import jax
from tensorboardX import SummaryWriter

from jaxdml import _files

__all__ = ["MetricsWriter"]


class MetricsWriter:
  """Appends one JSON line a step to workdir/metrics.jsonl, and the same scalars to events files.

  On resuming, lines beyond `start_step` are dropped: those steps are about to be run again. Of
  several hosts only the first writes.
  """

  def __init__(self, workdir: pathlib.Path, start_step: int):
    self._file = self._events = None
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    # A line cut off by a kill is the last one, and belongs to a step that runs again.
    kept = [line for line in lines if _step(line) <= start_step]
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


def _step(line: str) -> float:
  """The step of a line; infinite where it is none of ours, or only a part."""
  try:
    return json.loads(line)["step"]
  except (ValueError, TypeError, KeyError):
    return math.inf
