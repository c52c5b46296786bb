"""Signals while a run trains, and time that devices wait for images, of known length."""

import signal
import threading
import time

import pytest

from jaxdml.data import workers
from jaxdml.training import monitors
from jaxdml.training.monitors import Interrupt


class Output:
  """Is there when it is told so; stands in for a device's array."""

  def __init__(self):
    self._there = threading.Event()
    self._error = None

  def block_until_ready(self):
    assert self._there.wait(10)
    if self._error is not None:
      raise self._error
    return self

  def arrive(self, error=None):
    self._error = error
    self._there.set()


def _end(measured, output, error=None):
  output.arrive(error)
  # Waits until the thread has noted it.
  measured._done.exception(timeout=10)


def test_only_what_follows_the_end_of_a_step_counts():
  with monitors.Starving() as measured:
    measured.arrived()  # the first batch: no step before it
    output = Output()
    measured.started(output)
    time.sleep(0.05)
    measured.arrived()  # the step is still running
    assert measured.share(1.0) == 0
    _end(measured, output)
    time.sleep(0.05)
    measured.arrived()
    assert measured.share(1.0) >= 0.05
    assert measured.share(1.0) == 0


def test_steps_add_up():
  with monitors.Starving() as measured:
    for _ in range(2):
      output = Output()
      measured.started(output)
      _end(measured, output)
      time.sleep(0.02)
      measured.arrived()
    assert measured.share(0.01) >= 4


def test_pauses_do_not_count():
  with monitors.Starving() as measured:
    output = Output()
    measured.started(output)
    _end(measured, output)
    measured.pause()
    measured.arrived()
    assert measured.share(1.0) == 0


def test_a_step_that_fails_is_for_others_to_tell():
  with monitors.Starving() as measured:
    output = Output()
    measured.started(output)
    _end(measured, output, RuntimeError("device lost"))
    measured.arrived()
    assert measured.share(1.0) == 0


def test_leaving_does_not_wait_for_a_step():
  output = Output()
  since = time.perf_counter()
  with monitors.Starving() as measured:
    measured.started(output)
  assert time.perf_counter() - since < 5
  output.arrive()


def test_advice_is_given_once_and_names_what_to_change(monkeypatch):
  monkeypatch.setattr(workers, "cores", lambda: 4)
  with monitors.Starving() as measured:
    assert measured.advice(monitors.TOO_LONG, 3, "") is None
    text = measured.advice(0.5, 3, "")
    for part in ("50 %", "data.num_workers (3;", "data.cache", "docs/data.md"):
      assert part in text
    assert measured.advice(0.9, 3, "") is None
  with monitors.Starving() as measured:
    assert "data.cache" not in measured.advice(0.5, 3, "encoding")
  with monitors.Starving() as measured:  # No more workers than cores are started.
    assert "num_workers" not in measured.advice(0.5, 4, "")
  with monitors.Starving() as measured:
    assert "time: prepare smaller photos (" in measured.advice(0.5, 8, "encoding")


@pytest.fixture
def ctrl_c():
  """Ctrl-C as in a shell's foreground: in the background of one it is ignored."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, previous)


def test_the_first_is_a_flag_and_a_second_ctrl_c_ends_at_once(ctrl_c):
  before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
  with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
    assert interrupt.requested is None
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert interrupt.requested == "SIGINT"
    signal.raise_signal(signal.SIGINT)
  assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_where_ctrl_c_is_ignored_it_stays_so():
  previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with Interrupt() as interrupt:
      signal.raise_signal(signal.SIGINT)
      assert interrupt.requested is None
  finally:
    signal.signal(signal.SIGINT, previous)
