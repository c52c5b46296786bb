"""Signals while a run trains."""

import signal

import pytest

from jaxdml.training.interrupt import Interrupt


def test_the_first_is_a_flag_and_a_second_ctrl_c_ends_at_once():
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
