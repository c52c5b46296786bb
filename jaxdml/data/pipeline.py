"""Batches of images with Grain: the same stream for any number of workers, resumable by step.

A batch is a pure function of (seed, step): the sampler names the records, and the augmentation of
each slot draws from its own generator, keyed by (seed, step, slot).
"""

from __future__ import annotations

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

from jaxdml.data.datasets import Dataset
from jaxdml.data.preprocess import ImageDecodeError
from jaxdml.data.sampling import Sampler

PreprocessFn = Callable[[bytes, np.random.Generator], np.ndarray]
"""Encoded image and generator -> uint8 [h, w, c]."""

CACHE_BYTES = 256 * 2**20
"""Decoded images are kept in memory if the whole data set fits in this many bytes, per process."""

_STREAM = 0xA06  # Keeps the augmentation's random numbers apart from those of the sampler.
_AHEAD = 4
_WORKER_AHEAD = 2
_ENDLESS = 2**40


def augmentation_rng(seed: int, step: int, slot: int) -> np.random.Generator:
  """Returns the generator that augments one slot of one global batch."""
  return next(_augmentation_rngs(seed, step, [slot]))


def _augmentation_rngs(seed: int, step: int, slots: list[int]) -> Iterator[np.random.Generator]:
  """Yields one generator object again and again, set to the start of each slot's own stream.

  Setting the counter costs a fifth of making a generator. Use each before asking for the next.
  """
  key = np.array([seed & (2**64 - 1), _STREAM], np.uint64)
  bits = np.random.Philox(key=key)
  rng = np.random.Generator(bits)
  state = bits.state  # Its buffer is empty: nothing was drawn.
  for slot in slots:
    state["state"]["counter"][:] = (0, slot, step, 0)
    bits.state = state
    yield rng


class Batches(Iterator[dict[str, np.ndarray]]):
  """An iterator over batches that owns threads or processes: a context manager, with `close`."""

  def __init__(self, steps: grain.IterDataset, has_workers: bool):
    self._iterator = iter(steps)
    self._has_workers = has_workers
    self._closed = False

  def __next__(self) -> dict[str, np.ndarray]:
    if self._closed:
      raise StopIteration
    try:
      batch = next(self._iterator, None)
    except BaseException:
      # An error or Ctrl-C: whichever it is, no worker may outlive it.
      self.close()
      raise
    if batch is None:
      self.close()
      raise StopIteration
    return batch

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

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


class _Images:
  """Reads and preprocesses records; keeps decoded images of small data sets in memory."""

  def __init__(self, dataset: Dataset, preprocess_fn: PreprocessFn):
    self._dataset = dataset
    self._load = getattr(preprocess_fn, "load", None)
    self._transform = getattr(preprocess_fn, "transform", None)
    self._preprocess = preprocess_fn
    self._kept: dict[int, np.ndarray] = {}
    self._keep: bool | None = None if self._load is not None else False

  def __getstate__(self) -> dict[str, Any]:
    # Decoded images are not sent to the workers, which keep their own.
    return {**self.__dict__, "_kept": {}}

  def _named(self, index: int, error: ImageDecodeError) -> ImageDecodeError:
    data = self._dataset
    return ImageDecodeError(
      f"record {index} of data set {data.name!r}, split {data.split!r} "
      f"(record {int(data.rows[index])} of {data.tfds_split!r} in {data.directory}): {error}"
    )

  def __call__(self, indices: np.ndarray, rngs: Iterator[np.random.Generator]) -> np.ndarray:
    """Returns the images of the records, uint8 [n, h, w, c]."""
    wanted = indices.tolist()
    missing = [i for i in dict.fromkeys(wanted) if i not in self._kept]
    encoded = dict(zip(missing, self._dataset.read(missing), strict=True))
    images = []
    for index, rng in zip(wanted, rngs, strict=False):
      try:
        if self._load is None:
          images.append(self._preprocess(encoded[index], rng))
          continue
        image = self._kept.get(index)
        if image is None:
          image = self._load(encoded[index])
          if self._keep is None:
            self._keep = image.nbytes * len(self._dataset) <= CACHE_BYTES
          if self._keep:
            self._kept[index] = image
        images.append(self._transform(image, rng))
      except ImageDecodeError as error:
        raise self._named(index, error) from error
    return np.stack(images)


class _TrainStep:
  """Step number -> this shard's part of the batch."""

  def __init__(
    self,
    images: _Images,
    sampler: Sampler,
    labels: np.ndarray,
    seed: int,
    shard_index: int,
    shard_count: int,
  ):
    self._images, self._sampler, self._labels, self._seed = images, sampler, labels, seed
    size = sampler.batch_size // shard_count
    self._slots = np.arange(shard_index * size, (shard_index + 1) * size, dtype=np.int32)

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    step = int(step)
    indices = self._sampler(step)[self._slots]
    rngs = _augmentation_rngs(self._seed, step, self._slots.tolist())
    return {
      "image": self._images(indices, rngs),
      "label": self._labels[indices],
      "index": indices.astype(np.int32),
      "id": self._slots,
    }


class _EvalStep:
  """Batch number -> the records of that batch, padded."""

  def __init__(self, images: _Images, total: int, batch_size: int):
    self._images, self._total, self._size = images, total, batch_size

  def __call__(self, number: int) -> dict[str, np.ndarray]:
    first = int(number) * self._size
    indices = np.arange(first, min(first + self._size, self._total))
    rngs = _augmentation_rngs(0, int(number), list(range(len(indices))))
    image = self._images(indices, rngs)
    padding = self._size - len(indices)
    return {
      "image": np.pad(image, [(0, padding), (0, 0), (0, 0), (0, 0)]),
      "index": np.pad(indices, (0, padding), mode="edge").astype(np.int32),
      "mask": np.arange(self._size) < len(indices),
    }


def _exit_with_parent() -> None:
  parent = parent_process()
  if parent is not None:
    connection.wait([parent.sentinel])
    os._exit(1)


def _start_worker(index: int, count: int) -> None:
  """Runs first in each worker: leaves accelerators, Ctrl-C and the other cores alone."""
  del index, count
  os.environ["JAX_PLATFORMS"] = "cpu"
  if "jax" in sys.modules:  # Grain imports it; the variable alone comes too late then.
    sys.modules["jax"].config.update("jax_platforms", "cpu")
  cv2.setNumThreads(0)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # A killed parent closes nothing; without this its workers would wait for ever.
  threading.Thread(target=_exit_with_parent, daemon=True).start()


def _batches(
  first: int, stop: int, step_fn: Callable[[int], dict[str, np.ndarray]], num_workers: int
) -> Batches:
  if num_workers < 0:
    raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
  steps = grain.MapDataset.range(first, stop).map(step_fn)
  if num_workers == 0:
    # One thread works ahead while the device computes; OpenCV and NumPy release the lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    return Batches(steps.to_iter_dataset(options), has_workers=False)
  if not flags.FLAGS.is_parsed():
    # Grain reads one of its flags here, which raises in a notebook or script without absl.app.
    flags.FLAGS.mark_as_parsed()
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return Batches(
    steps.to_iter_dataset(options).mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_WORKER_AHEAD),
      worker_init_fn=_start_worker,
    ),
    has_workers=True,
  )


def train_batches(
  dataset: Dataset,
  sampler: Sampler,
  preprocess_fn: PreprocessFn,
  *,
  label: str,
  seed: int,
  start_step: int = 0,
  num_steps: int | None = None,
  num_workers: int = 0,
  shard_index: int = 0,
  shard_count: int = 1,
) -> Batches:
  """Iterates over the training batches of steps `start_step`, `start_step + 1`, ...

  The stream is bitwise the same for any `num_workers`, and continues where it stopped if
  `start_step` is the number of steps done. Close it, or use it as a context manager.

  Args:
    dataset: where the images come from.
    sampler: made from the labels of this data set.
    preprocess_fn: (bytes, generator) -> uint8 [h, w, c]; of a `preprocess.Preprocess` the decoded
      images are kept in memory where the data set is small (`CACHE_BYTES`).
    label: the label column.
    seed: of the augmentation; the sampler has its own.
    start_step: the first step.
    num_steps: how many steps; None for no end.
    num_workers: processes that prepare batches; 0 for a thread of this process.
    shard_index: this host, of `shard_count`; it gets its contiguous part of the global batch.
    shard_count: number of hosts.

  Returns:
    Dicts of `image` uint8 [n, h, w, c]; `label` int32 [n] in 0..c-1, the place of the class in
    `dataset.classes(label)`; `index` int32 [n], the record in `dataset`; `id` int32 [n], the slot
    in the global batch. n is the sampler's batch size / shard_count.

  Raises:
    ValueError: the arguments do not fit together.
    ImageDecodeError: while iterating; it names the record.
    RuntimeError: while iterating; a worker process died.
  """
  labels = dataset.dense_labels(label)
  if sampler.num_records != len(dataset):
    raise ValueError(
      f"the sampler was made from {sampler.num_records} labels and data set {dataset.name!r}, "
      f"split {dataset.split!r}, has {len(dataset)} records; make it from dataset.column({label!r})"
    )
  if sampler.batch_size % shard_count or (sampler.batch_size // shard_count) % sampler.group:
    raise ValueError(
      f"data.batch_size ({sampler.batch_size}) must be a multiple of the number of hosts "
      f"({shard_count}) times {sampler.group}, the records that belong together in this sampler"
    )
  if not 0 <= shard_index < shard_count:
    raise ValueError(f"shard_index must be in 0..{shard_count - 1}, got {shard_index}")
  if start_step < 0:
    raise ValueError(f"start_step must be at least 0, got {start_step}")
  step_fn = _TrainStep(
    _Images(dataset, preprocess_fn), sampler, labels, seed, shard_index, shard_count
  )
  stop = _ENDLESS if num_steps is None else start_step + num_steps
  return _batches(start_step, stop, step_fn, num_workers)


def eval_batches(
  dataset: Dataset, preprocess_fn: PreprocessFn, batch_size: int, num_workers: int = 0
) -> Batches:
  """Iterates once over all records in order, in batches of one size.

  Returns:
    Dicts of `image` uint8 [n, h, w, c]; `index` int32 [n], the record in `dataset`, for its
    labels; `mask` bool [n], false where the last batch is padded (image 0, last index repeated).

  Raises:
    ValueError: `batch_size` is not positive, or the data set is empty.
    ImageDecodeError: while iterating; it names the record.
    RuntimeError: while iterating; a worker process died.
  """
  if batch_size < 1:
    raise ValueError(f"eval batch_size must be at least 1, got {batch_size}")
  if len(dataset) == 0:
    raise ValueError(f"data set {dataset.name!r}, split {dataset.split!r}, has no records")
  step_fn = _EvalStep(_Images(dataset, preprocess_fn), len(dataset), batch_size)
  return _batches(0, -(-len(dataset) // batch_size), step_fn, num_workers)
