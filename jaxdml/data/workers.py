"""Batches made ahead of time with Grain, in a thread or in worker processes that always end.

From a worker, arrays come through shared memory: Grain copies them there (its process_prefetch.py,
`copy_to_shm`), except those that were made there, with `empty`, which it hands over as they are.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from absl import flags

from jaxdml.errors import JaxdmlError

_AHEAD = 4
_WORKER_AHEAD = 2
_GRACE = 10.0  # seconds that a worker outlives SIGTERM

_Receive = Callable[[dict[str, Any]], dict[str, np.ndarray]]

_in_worker = False
_told = False


class WorkerError(JaxdmlError, RuntimeError):
  """A process that prepares batches died."""

  exit_status = 1


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "process_cpu_count"):  # Python 3.13
    return os.process_cpu_count() or 1
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tell(num_workers: int) -> None:
  """Says once that fewer processes start than training was asked for: a worker a core at most."""
  global _told
  most = cores()
  if num_workers > most and not _told:
    _told = True
    what = f"{most} here, one for each core; the batches are the same"
    print(f"data.num_workers={num_workers}: {what}", file=sys.stderr, flush=True)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Makes an array to fill and return as part of a batch: in a worker, in shared memory."""
  return grain.SharedMemoryArray(shape, dtype) if _in_worker else np.empty(shape, dtype)


def discard(array: np.ndarray | None) -> None:
  """Gives back an array made with `empty` that will not be returned."""
  if isinstance(array, grain.SharedMemoryArray):
    array.unlink_on_del()


def _take(value: Any) -> Any:
  """A plain array in place of one in shared memory, without a copy.

  Its name goes at once and the memory with the last reference to it: JAX may keep an array until
  the process ends, where nobody would be left to give it back.
  """
  if not isinstance(value, grain.SharedMemoryArray):
    return value
  value.shm.unlink()
  value._unlink_on_del = False
  return np.asarray(value)


class Batches(contextlib.AbstractContextManager, Iterator[dict[str, np.ndarray]]):
  """An iterator over batches that owns threads or processes: a context manager, with `close`."""

  def __init__(self, steps: grain.IterDataset, has_workers: bool, receive: _Receive):
    self._iterator, self._has_workers, self._receive = iter(steps), has_workers, receive
    self._closed = False

  def __next__(self) -> dict[str, np.ndarray]:
    if self._closed:
      raise StopIteration
    try:
      batch = next(self._iterator, None)
      if batch is not None:
        return self._receive({name: _take(value) for name, value in batch.items()})
    except BaseException as error:
      self.close()  # An error or Ctrl-C: whichever it is, no worker may outlive it.
      if self._has_workers and isinstance(error, RuntimeError) and "exit code" in str(error):
        raise WorkerError(
          f"a data worker process died ({error}). If it was killed, memory may have run out: lower "
          "data.num_workers or data.batch_size; the same command resumes the run"
        ) from error
      raise
    self.close()
    raise StopIteration

  def close(self) -> None:
    """Stops the threads and processes; may be called twice."""
    if not self._closed:
      self._closed = True
      self._iterator.close()
      self._iterator = iter(())
      if self._has_workers:
        # Grain's queues are in reference cycles. Their semaphores go now, at a known point:
        # collected at a random one they may interrupt multiprocessing's own bookkeeping, which
        # Python 3.12 answers with a warning and a leak (gh-109629).
        gc.collect()

  def __exit__(self, *exc: object) -> None:
    self.close()


def _exit_with_parent() -> None:
  if (parent := parent_process()) is not None:
    connection.wait([parent.sentinel])
    os._exit(1)


def _keep_freed_memory() -> None:
  """Makes glibc keep freed blocks of up to this size for the next photo.

  Else it gives each back to the kernel, which clears every page of it again, for a quarter of the
  time that a photo takes. A freed block raises that size to its own (mallopt(3), M_MMAP_THRESHOLD).
  """
  np.empty(2**24, np.uint8)


def _end_later(*_: Any) -> None:
  timer = threading.Timer(_GRACE, os._exit, [1])
  timer.daemon = True
  timer.start()


def _start_worker(index: int, count: int) -> None:
  """Runs first in each worker: leaves accelerators, Ctrl-C and the other cores alone."""
  del index, count
  global _in_worker
  _in_worker = True
  os.environ["JAX_PLATFORMS"] = "cpu"
  if "jax" in sys.modules:  # Grain imports it; the variable alone comes too late then.
    sys.modules["jax"].config.update("jax_platforms", "cpu")
  cv2.setNumThreads(0)
  _keep_freed_memory()
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # SIGTERM may go to the whole group: the parent saves, and needs its workers until it closes them.
  signal.signal(signal.SIGTERM, _end_later)
  # A killed parent closes nothing; without this its workers would wait for ever.
  threading.Thread(target=_exit_with_parent, daemon=True).start()


def run(
  first: int, stop: int, step_fn: Callable[[int], dict], num_workers: int, receive: _Receive
) -> Batches:
  """Iterates over step_fn(first), ..., step_fn(stop - 1), in this order.

  `step_fn`, picklable, is called in `num_workers` processes, one a core and one a step at most, for
  each takes seconds of a core to start, and memory; or with 0 in a thread of this one. `receive` is
  applied in this process to each batch as it is asked for.
  """
  if num_workers < 0:
    raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
  num_workers = min(num_workers, cores(), stop - first)
  steps = grain.MapDataset.range(first, stop).map(step_fn)
  if num_workers == 0:
    # One thread works ahead while the device computes; OpenCV and NumPy release the lock.
    _keep_freed_memory()
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    return Batches(steps.to_iter_dataset(options), False, receive)
  if not flags.FLAGS.is_parsed():
    # Grain reads one of its flags here, which raises in a notebook or script without absl.app.
    flags.FLAGS.mark_as_parsed()
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  processes = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_WORKER_AHEAD)
  made = steps.to_iter_dataset(options).mp_prefetch(processes, worker_init_fn=_start_worker)
  return Batches(made, True, receive)
