"""Worker processes that run cells, each on its own share of the cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

__all__ = ["INTERRUPTED", "Done", "run"]

INTERRUPTED = "interrupted"
"""Returned by a task when SIGTERM ended it early: its process ends too."""

_POLL_SECONDS = 0.5
_SAVE_SECONDS = 60  # what a process may take to save after SIGTERM


class Done(NamedTuple):
  """One task that ended.

  Attributes:
    index: of the task.
    seconds: it took.
    error: what went wrong, or None.
  """

  index: int
  seconds: float
  error: str | None


@contextlib.contextmanager
def _output_to(path: pathlib.Path) -> Iterator[None]:
  """Appends everything this process prints, libraries included, to a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  sys.stdout.flush()
  sys.stderr.flush()
  kept = [os.dup(1), os.dup(2)]
  with path.open("ab") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  try:
    yield
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    for number, copy in zip((1, 2), kept, strict=True):
      os.dup2(copy, number)
      os.close(copy)


def _work(function: Callable[..., Any], cores: Sequence[int], pipe: connection.Connection) -> None:
  # Ctrl-C reaches the whole group; the parent answers it with SIGTERM, on which training saves.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if cores:
    # Before JAX starts, so that its threads are as many as the cores.
    os.sched_setaffinity(0, cores)
  parent = multiprocessing.parent_process()
  while parent.is_alive():
    if not pipe.poll(_POLL_SECONDS):
      continue
    try:
      index, arguments, log = pipe.recv()
    except EOFError:  # there is nothing more to do
      return
    start, error = time.perf_counter(), None
    with _output_to(log):
      try:
        if function(*arguments) is INTERRUPTED:
          return
      except Exception as exception:  # one cell that fails must not end the others
        traceback.print_exc()
        error = f"{type(exception).__name__}: {exception}"
    pipe.send(Done(index, time.perf_counter() - start, error))


def _shares(workers: int) -> list[list[int]]:
  """The cores of each worker; [] where they cannot be divided."""
  if workers == 1 or not hasattr(os, "sched_getaffinity"):
    return [[]] * workers
  cores = sorted(os.sched_getaffinity(0))
  return [cores[worker::workers] or cores for worker in range(workers)]


def run(
  function: Callable[..., Any],
  tasks: Sequence[tuple[tuple, pathlib.Path]],
  workers: int,
) -> Iterator[Done]:
  """Calls `function(*arguments)` for each (arguments, log file), in processes of their own.

  A task that raises is reported and the others go on. A process that dies is reported with the task
  it had, and a new one takes its place. Closing the generator (or Ctrl-C) ends the processes with
  SIGTERM, on which training saves its state.

  Args:
    function: importable, for it runs in another process.
    tasks: what to call it with, and where its output goes.
    workers: processes at a time; they share the cores out.

  Yields:
    `Done` of each task, as they end.
  """
  context = multiprocessing.get_context("spawn")
  waiting = list(enumerate(tasks))[::-1]
  slots = []

  def start(cores):
    # A pipe each: a queue has a lock that all share, and that a process may die with.
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, cores, theirs), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be the end of the pipe
    return {"process": process, "pipe": pipe, "task": None, "cores": cores}

  def feed(slot):
    slot["task"] = waiting[-1][0] if waiting else None
    if waiting:
      index, (arguments, log) = waiting.pop()
      slot["since"] = time.perf_counter()
      with contextlib.suppress(ConnectionError):  # it died since: told when its end is read
        slot["pipe"].send((index, arguments, log))

  try:
    slots = [start(cores) for cores in _shares(min(workers, len(tasks) or 1))]
    for slot in slots:
      feed(slot)
    while busy := {
      slot["pipe"]: place for place, slot in enumerate(slots) if slot["task"] is not None
    }:
      for pipe in connection.wait(busy):
        place = busy[pipe]
        slot = slots[place]
        try:
          result = pipe.recv()
        except (EOFError, ConnectionError):
          slot["process"].join()
          seconds = time.perf_counter() - slot["since"]
          error = f"its process died with exit status {slot['process'].exitcode}"
          result = Done(slot["task"], seconds, error)
          slots[place] = start(slot["cores"])
        feed(slots[place])
        yield result
    for slot in slots:
      slot["pipe"].close()
    for slot in slots:
      slot["process"].join()
  finally:
    for slot in slots:
      if slot["process"].is_alive():
        slot["process"].terminate()
    for slot in slots:
      slot["process"].join(_SAVE_SECONDS)
      if slot["process"].is_alive():
        slot["process"].kill()
