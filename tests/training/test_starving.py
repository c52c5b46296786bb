"""Time that the devices wait for images, with steps and batches of known length."""

import threading
import time

from jaxdml.data import workers
from jaxdml.training import starving


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
  with starving.Starving() as measured:
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
  with starving.Starving() as measured:
    for _ in range(2):
      output = Output()
      measured.started(output)
      _end(measured, output)
      time.sleep(0.02)
      measured.arrived()
    assert measured.share(0.01) >= 4


def test_pauses_do_not_count():
  with starving.Starving() as measured:
    output = Output()
    measured.started(output)
    _end(measured, output)
    measured.pause()
    measured.arrived()
    assert measured.share(1.0) == 0


def test_a_step_that_fails_is_for_others_to_tell():
  with starving.Starving() as measured:
    output = Output()
    measured.started(output)
    _end(measured, output, RuntimeError("device lost"))
    measured.arrived()
    assert measured.share(1.0) == 0


def test_leaving_does_not_wait_for_a_step():
  output = Output()
  since = time.perf_counter()
  with starving.Starving() as measured:
    measured.started(output)
  assert time.perf_counter() - since < 5
  output.arrive()


def test_advice_is_given_once_and_names_what_to_change(monkeypatch):
  monkeypatch.setattr(workers, "cores", lambda: 4)
  with starving.Starving() as measured:
    assert measured.advice(starving.TOO_LONG, 3, "") is None
    text = measured.advice(0.5, 3, "")
    for part in ("50 %", "data.num_workers (3;", "data.cache", "docs/data.md"):
      assert part in text
    assert measured.advice(0.9, 3, "") is None
  with starving.Starving() as measured:
    assert "data.cache" not in measured.advice(0.5, 3, "encoding")
  with starving.Starving() as measured:  # No more workers than cores are started.
    assert "num_workers" not in measured.advice(0.5, 4, "")
  with starving.Starving() as measured:
    assert "time: prepare smaller photos (" in measured.advice(0.5, 8, "encoding")
