"""SIGTERM as a flag."""

from __future__ import annotations

import signal
import threading

__all__ = ["Interrupt"]


class Interrupt:
  """Turns SIGTERM into a flag while it is active, so that the loop can save first."""

  def __enter__(self):
    self.requested = False
    self._previous = None
    if threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def _handle(self, signum, frame):
    del signum, frame
    self.requested = True

  def __exit__(self, *_):
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
