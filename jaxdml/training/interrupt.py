"""SIGTERM and Ctrl-C as a flag."""

from __future__ import annotations

import signal
import threading

__all__ = ["Interrupt"]


class Interrupt:
  """Turns SIGTERM and Ctrl-C into a flag while it is active, so that the loop can save first.

  Only the first Ctrl-C: a second one ends at once, as it would without this. Where Ctrl-C is
  ignored (a process in the background), it stays so.

  Attributes:
    requested: None, or the name of the signal that came first.
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
