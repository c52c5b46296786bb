"""The metrics of a run: metrics.jsonl, writers of others beside it, and the file's reader."""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from jaxdml import _files
from jaxdml.training.writers import Writers

NAME = "metrics.jsonl"
"""The file in the workdir."""
_NOT_METRICS = (ValueError, KeyError, TypeError, AttributeError)


class MetricsWriter:
  """Appends one JSON line a step to workdir/metrics.jsonl, and hands its scalars to `writers`.

  On resuming, lines beyond `start_step` are dropped: those steps are about to be run again. A new
  run (None) keeps nothing. Of several hosts only the first writes.

  `lines` were in the file when that step was saved; what is missing of them is told as `lost`, and
  the file as it was is kept beside. Then `lines` are those in the file now.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start_step: int | None,
    lines: int = 0,
    writers: Callable[[], Writers] | None = None,
  ):
    import jax  # Here, so that reading metrics does not wait for it.

    self._file = self._writers = self.lost = None
    self._start, self.lines = start_step, lines
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / NAME
    content = path.read_bytes() if path.exists() else b""
    # A line cut off by a kill is the last one, and belongs to a step that runs again.
    kept = [line for line in content.split(b"\n") if _is_of(line, start_step)]
    if len(kept) < lines:
      self.lost = f"{path}: {lines - len(kept)} of {lines} lines up to step {start_step} are lost"
      if content:
        _files.write_bytes(path.with_name(f"{NAME}.damaged"), content)
        self.lost += f" or damaged; the file as it was is {NAME}.damaged"
    _files.write_bytes(path, b"".join(line + b"\n" for line in kept))
    self.lines = len(kept)
    # What a run logs again at its start, when its best checkpoint is lost, is there already.
    self._known = {tuple(metrics) for step, metrics in map(_parse, kept) if step == start_step}
    self._file = path.open("a", encoding="utf-8")
    self._writers = writers() if writers else None

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the scalars of one step."""
    if self._file is None or (step == self._start and tuple(metrics) in self._known):
      return
    scalars = {name: float(value) for name, value in metrics.items()}
    line = _files.dump_json({"step": step, **scalars})
    self._file.write(f'{line[:-1]},"crc":{zlib.crc32(line.encode())}}}\n')
    self._file.flush()
    self.lines += 1
    if self._writers is not None:
      self._writers.write(step, scalars)

  def close(self) -> None:
    """Flushes and closes the file, then the writers."""
    if self._file is not None:
      self._file.close()
    if self._writers is not None:
      self._writers.close()

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    try:
      self.close()
    except OSError:
      if kind is None:  # Else that is the error to tell: most likely the same full disk.
        raise


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Every metric that a run has logged: name -> (steps [t], values [t]), NaN where there is none.

  The run may still be training: what follows the last line end is passed over unless it is whole.
  Without the file there are none.

  Raises:
    ValueError: a line that no run writes.
  """
  path = pathlib.Path(workdir) / NAME
  if not path.is_file():
    return {}
  found: dict[str, dict[float, float]] = {}
  lines = path.read_bytes().split(b"\n")
  for number, line in enumerate(lines, 1):
    try:
      step, metrics = _parse(line)
    except _NOT_METRICS as error:
      if number == len(lines):
        continue
      raise ValueError(
        f"{path}, line {number}: expected metrics of a step as JSON: {error}; the command that "
        "trained it leaves damaged lines out when it is given again"
      ) from error
    for name, value in metrics.items():
      found.setdefault(name, {})[step] = value
  return {
    name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
    for name, points in found.items()
  }


def _parse(line: bytes) -> tuple[float, dict[str, float]]:
  """(step, metrics) of a line; what is no such line, or not what was written, raises."""
  logged = json.loads(line.decode())
  without = line.rpartition(b',"crc":')[0] + b"}"
  if logged.pop("crc", None) not in (None, zlib.crc32(without)):
    raise ValueError("it is not what was written")
  step = float(logged.pop("step"))
  return step, {k: float("nan") if v is None else float(v) for k, v in logged.items()}


def _is_of(line: bytes, last_step: int | None) -> bool:
  """Tells whether a line is whole and of a step up to the last one."""
  try:
    return last_step is not None and _parse(line)[0] <= last_step
  except _NOT_METRICS:
    return False
