"""Batches of images with Grain: the same stream for any number of workers, resumable by step.

A batch is a pure function of (seed, step): the sampler names the records, and the augmentation of
each slot draws from its own generator, keyed by (seed, step, slot).
"""

import functools
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdml._text import printable
from jaxdml.data import workers
from jaxdml.data.datasets import Dataset
from jaxdml.data.loading import BadImages, Images, PreprocessFn, SlotRngs
from jaxdml.data.sampling import Sampler
from jaxdml.data.workers import Batches

_BAD = "bad"  # The entry of a batch with what could not be decoded; taken out on arrival.
_ENDLESS = 2**40


def _train_step(
  images: Images, sampler: Sampler, labels: np.ndarray, seed: int, slots: np.ndarray, step: int
) -> dict[str, Any]:
  """Returns one shard's part of the batch, the `slots` of it."""
  step = int(step)
  wanted = sampler(step)[slots]
  loaded = images(wanted, SlotRngs(seed, step), slots.tolist())
  return {
    "image": loaded.image,
    "label": labels[wanted],
    "index": loaded.index,
    "replaced": ~loaded.good,
    _BAD: tuple(loaded.reasons.items()),
  }


def _eval_step(images: Images, total: int, size: int, number: int) -> dict[str, Any]:
  """Returns a batch of `size` of `total` records, padded."""
  number = int(number)
  wanted = np.arange(number * size, min((number + 1) * size, total))
  loaded = images(wanted, SlotRngs(0, number), range(len(wanted)), size)
  padding = size - len(wanted)
  return {
    "image": loaded.image,
    "index": np.pad(loaded.index, (0, padding), mode="edge"),
    "mask": np.pad(loaded.good, (0, padding)),
    _BAD: tuple(loaded.reasons.items()),
  }


def _receive(bad: BadImages, instead: str, batch: dict[str, Any]) -> dict[str, np.ndarray]:
  """Takes the damaged images out of a batch and counts them."""
  bad.add(dict(batch.pop(_BAD)), instead)
  return batch


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
  bad_images: BadImages | None = None,
) -> Batches:
  """Iterates over the training batches of steps `start_step`, `start_step + 1`, ...

  Classes that the sampler leaves out are named on stderr, once, with their number. The stream is
  bitwise the same for any `num_workers`, and continues where it stopped if `start_step` is the
  number of steps done. Close it, or use it as a context manager.

  Where an image cannot be decoded, the next of its class that can takes the slot: the next record
  of the class, and after the last one the first, the same for every slot, seed and step. It may be
  in the batch already, as the images of small classes may; losses know by the index.

  Args:
    preprocess_fn: of a `preprocess.Preprocess` the decoded images are kept in memory where the data
      set is small (`loading.CACHE_BYTES`).
    seed: of the augmentation; the sampler has its own.
    num_steps: how many steps; None for no end.
    num_workers: processes that prepare batches, at most one a core; 0 for a thread of this one.
    shard_index: this host, of `shard_count`; it gets its contiguous part of the global batch.
    bad_images: counts those that cannot be decoded; by default a new one, which stops the iteration
      at more than `loading.MAX_BAD_IMAGES` of the data set.

  Returns:
    Dicts of `image` uint8 [n, h, w, c]; `label` int32 [n] in 0..c-1, the place of the class in
    `dataset.classes(label)`; `index` int32 [n], the record in `dataset` that is shown; `replaced`
    bool [n], the record stands in for one that cannot be decoded. n is the sampler's batch size /
    shard_count.

  While iterating, ImageDecodeError if too many images cannot be decoded, or all of a class, and
  WorkerError if a worker process died.
  """
  labels = dataset.dense_labels(label)
  if sampler.num_records != len(dataset):
    both = f"{sampler.num_records} labels and {dataset}, has {len(dataset)} records"
    raise ValueError(f"the sampler was made from {both}; make it from dataset.column({label!r})")
  if sampler.batch_size % shard_count or (sampler.batch_size // shard_count) % sampler.group:
    raise ValueError(
      f"data.batch_size ({sampler.batch_size}) must be a multiple of the number of hosts "
      f"({shard_count}) times {sampler.group}, the records that belong together in this sampler"
    )
  if not 0 <= shard_index < shard_count:
    raise ValueError(f"shard_index must be in 0..{shard_count - 1}, got {shard_index}")
  if start_step < 0:
    raise ValueError(f"start_step must be at least 0, got {start_step}")
  if sampler.left_out and not shard_index:
    said = printable(f"never drawn in training on {dataset.name!r}: {sampler.left_out}")
    tqdm.write(said, file=sys.stderr)
  size = sampler.batch_size // shard_count
  slots = np.arange(shard_index * size, (shard_index + 1) * size, dtype=np.int32)
  images = Images(dataset, preprocess_fn, labels)
  step_fn = functools.partial(_train_step, images, sampler, labels, seed, slots)
  stop = _ENDLESS if num_steps is None else start_step + num_steps
  bad = BadImages(dataset) if bad_images is None else bad_images
  receive = functools.partial(_receive, bad, "another image of its class takes its place")
  workers.tell(num_workers)
  return workers.run(start_step, stop, step_fn, num_workers, receive)


def eval_batches(
  dataset: Dataset,
  preprocess_fn: PreprocessFn,
  batch_size: int,
  num_workers: int = 0,
  bad_images: BadImages | None = None,
  *,
  part: tuple[int, int] = (0, 1),
) -> Batches:
  """Iterates once over all records in order, in batches of one size.

  Of several hosts the i-th of n gets the batches of `part` (i, n): together all, each once.

  Returns:
    Dicts of `image` uint8 [n, h, w, c]; `index` int32 [n], the record in `dataset`, for its
    labels; `mask` bool [n], false where there is no image to embed: it cannot be decoded (image 0),
    or the last batch is padded (image 0, last index repeated).

  The errors are those of `train_batches`; ValueError also if the data set is empty.
  """
  if batch_size < 1:
    raise ValueError(f"eval batch_size must be at least 1, got {batch_size}")
  if len(dataset) == 0:
    raise ValueError(f"{dataset}, has no records")
  images = Images(dataset, preprocess_fn, None)
  step_fn = functools.partial(_eval_step, images, len(dataset), batch_size)
  bad = BadImages(dataset) if bad_images is None else bad_images
  receive = functools.partial(_receive, bad, "it is left out")
  total, (host, hosts) = -(-len(dataset) // batch_size), part
  start, stop = (total * place // hosts for place in (host, host + 1))
  return workers.run(start, stop, step_fn, num_workers, receive)
