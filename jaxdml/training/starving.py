"""How long the devices had nothing to do because the next batch was not there yet."""

from __future__ import annotations

import time
from concurrent import futures
from typing import Any

import jax

from jaxdml.data import workers

TOO_LONG = 0.25
"""Share of the time from which on a user should be told."""


def _when_done(output: Any) -> float:
  jax.block_until_ready(output)
  return time.perf_counter()


class Starving:
  """Adds up the time from the end of one step to the arrival of the next step's batch.

  Steps are dispatched and not waited for, so what the host waits for a batch says little: the
  devices may be at work meanwhile. A thread of its own waits for each step's output.
  """

  def __init__(self):
    self._seconds, self._advised = 0.0, False
    self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="step-ends")
    self._done: futures.Future[float] | None = None

  def started(self, output: Any) -> None:
    """A step was dispatched; it has ended when `output` is there."""
    self._done = self._pool.submit(_when_done, output)

  def arrived(self) -> None:
    """The next batch is there."""
    if self._done is not None and self._done.done() and self._done.exception() is None:
      self._seconds += time.perf_counter() - self._done.result()

  def pause(self) -> None:
    """Something else was done since the last step: the time to the next batch does not count."""
    self._done = None

  def share(self, seconds: float) -> float:
    """What part of the last `seconds` the devices waited; begins to count anew."""
    waited, self._seconds = self._seconds, 0.0
    return waited / seconds

  def advice(self, share: float, num_workers: int, cache: str) -> str | None:
    """One line on what to do if they waited too long, the first time; then None."""
    if share <= TOO_LONG or self._advised:
      return None
    self._advised = True
    cores = workers.cores()
    # More workers than cores are not started.
    ways = [f"raise data.num_workers ({num_workers}; there are {cores} cores)"]
    ways = ways if num_workers < cores else []
    ways += [] if cache else ["keep decoded pictures with data.cache=DIR"]
    return (
      f"the devices waited for images {100 * share:.0f} % of the time: "
      f"{', '.join([*ways, 'or ' * bool(ways) + 'prepare smaller photos'])} "
      "(docs/data.md, When decoding is too slow)"
    )

  def __enter__(self) -> Starving:
    return self

  def __exit__(self, *_: object) -> None:
    self._pool.shutdown(wait=False)
