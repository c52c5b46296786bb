"""Watches of the loop beside its steps: signals, the time that devices wait for images, a voice."""

from __future__ import annotations

import signal
import sys
import threading
import time
from concurrent import futures
from typing import Any

import jax
from tqdm import tqdm

from jaxdml._text import printable
from jaxdml.data import workers

TOO_LONG = 0.25
"""Share of the time from which on a user should be told."""


def say(message: str) -> None:
  """One line on stderr that leaves progress bars whole; from the first host alone."""
  if not jax.process_index():
    tqdm.write(printable(message), file=sys.stderr)


class Starving:
  """Adds up the time from the end of one step to the arrival of the next step's batch.

  Steps are dispatched and not waited for, so what the host waits for a batch says little: the
  devices may be at work meanwhile. A thread of its own waits for each step's output.
  """

  def __init__(self):
    self._seconds, self._advised = 0.0, False
    self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="step-ends")
    self._done: futures.Future[tuple[Any, float]] | None = None

  def started(self, output: Any) -> None:
    """A step was dispatched; it has ended when `output` is there."""
    wait = lambda: (jax.block_until_ready(output), time.perf_counter())
    self._done = self._pool.submit(wait)

  def arrived(self) -> None:
    """The next batch is there."""
    if self._done is not None and self._done.done() and self._done.exception() is None:
      self._seconds += time.perf_counter() - self._done.result()[1]

  def pause(self) -> None:
    """Something else was done since the last step: the time to the next batch does not count."""
    self._done = None

  def share(self, seconds: float) -> float:
    """Share of the last `seconds` that the devices waited; begins to count anew."""
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


class Interrupt:
  """Turns SIGTERM and Ctrl-C into a flag while it is active, so that the loop can save first.

  Only the first Ctrl-C: a second one ends at once, as it would without this. Where Ctrl-C is
  ignored (a process in the background), it stays so.

  `requested` is None, or the name of the signal that came first.
  """

  def __enter__(self):
    self.requested: str | None = None
    self._previous = {}
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
          self._previous[number] = signal.signal(number, self._handle)
    return self

  def _handle(self, signum, frame):
    del frame
    self.requested = self.requested or signal.Signals(signum).name
    if signum == signal.SIGINT:
      signal.signal(signum, signal.default_int_handler)

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      if handler is not None:  # None: not set from Python
        signal.signal(number, handler)
