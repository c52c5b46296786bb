"""Embeds images into a store, shard by shard: killed and started again it goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from jaxdml import data
from jaxdml.search.errors import SearchError
from jaxdml.search.writer import SHARD_SIZE, Writer

__all__ = ["Model", "Summary", "describe", "embed_files", "embed_images"]


class Model(Protocol):
  """What this package needs of a model: `training.model.load` gives one."""

  workdir: Any
  config: Any
  step: int
  dimension: int
  fingerprint: str
  preprocessing: data.preprocess.Preprocess

  def embed_batch(self, images: np.ndarray) -> np.ndarray:
    """Embeddings float32 [b, d] of uint8 images [b, h, w, c]."""
    ...


class Summary(NamedTuple):
  """What `embed_images` did.

  Attributes:
    shards: how many are in the store when it is finished.
    written: those that this call wrote; the others were there, or are another host's.
    finished: whether all are there.
    skipped: (file, reason) of the images that could not be read, of the shards that are there.
  """

  shards: int
  written: int
  finished: bool
  skipped: list[list[str]]


def describe(model: Model) -> dict[str, Any]:
  """What a store says of the model that made it."""
  return {
    "fingerprint": model.fingerprint,
    "workdir": os.path.abspath(model.workdir),
    "dimension": model.dimension,
    "step": model.step,
    "normalized": bool(model.config.embedding.unit_norm),
  }


def embed_images(
  model: Model,
  source: Any,
  out: str | os.PathLike[str],
  *,
  shard_size: int = SHARD_SIZE,
  batch_size: int = 256,
  num_workers: int = 0,
  max_bad_images: float = data.images.MAX_BAD_IMAGES,
  process_index: int = 0,
  process_count: int = 1,
) -> Summary:
  """Embeds the images of a source whose shards are missing in `out`.

  Args:
    model: a trained model.
    source: a `sources.FolderImages` or `sources.DatasetImages`.
    out: the store's folder; it may be shared by several hosts.
    shard_size: images a shard: what a killed command has to do again, at most.
    batch_size: images a batch, on all devices of this host.
    num_workers: processes that decode; 0 for a thread of this one.
    max_bad_images: share of the images that may be unreadable.
    process_index: this host, of `process_count`: it writes every `process_count`-th shard.
    process_count: number of hosts.

  Raises:
    SearchError: `out` holds something else, the embeddings of another model or of other images;
      more images than `max_bad_images` cannot be read.
    WorkerError: a process that decodes died.
    ValueError: sizes below 1, embeddings that are not finite.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
  writer = Writer(
    out,
    model=describe(model),
    source=source.settings(),
    total=len(source),
    shard_size=shard_size,
  )
  missing = writer.missing()
  mine = [shard for shard in missing if shard % process_count == process_index]
  if len(missing) < writer.count:
    there = writer.count - len(missing)
    tqdm.write(f"{there} of {writer.count} shards are in {out} already", file=sys.stderr)
  bad = data.BadImages(source, max_bad_images)
  # Those of the shards that are there count too; in this run images have numbers from 0.
  bad.reasons.update({-1 - i: ": ".join(entry) for i, entry in enumerate(writer.skipped())})
  if mine:
    try:
      _embed(model, source, writer, mine, bad, batch_size, num_workers)
    except data.ImageDecodeError as error:
      raise SearchError(str(error).replace("data.max_bad_images", "max_bad_images")) from error
  return Summary(writer.count, len(mine), writer.finish(), writer.skipped())


def _embed(
  model: Model,
  source: Any,
  writer: Writer,
  shards: Sequence[int],
  bad: data.BadImages,
  batch_size: int,
  num_workers: int,
) -> None:
  """Embeds the images of some shards in one stream; each is written as its last image is done."""
  rows = np.concatenate([np.asarray(writer.rows(shard)) for shard in shards])
  ends = np.cumsum([len(writer.rows(shard)) for shard in shards]).tolist()
  chosen = source.select(rows)
  places, vectors = np.zeros(0, np.int64), np.zeros((0, model.dimension), np.float32)
  start = done = 0
  waiting = list(zip(shards, ends, strict=True))
  batches = data.eval_batches(chosen, model.preprocessing, batch_size, num_workers, bad)
  bar = tqdm(total=len(rows), desc=f"embed {source.name}", unit="image", disable=None)
  with batches, bar:
    for batch in batches:
      embedded = model.embed_batch(batch["image"])
      good = batch["mask"]
      places = np.concatenate([places, batch["index"][good]])
      vectors = np.concatenate([vectors, embedded[good]])
      done = min(done + batch_size, len(rows))
      while waiting and done >= waiting[0][1]:
        shard, end = waiting.pop(0)
        count = int((places < end).sum())
        skipped = [
          [source.file(rows[place]), bad.reasons[place].removeprefix(f"{chosen.describe(place)}: ")]
          for place in range(start, end)
          if place in bad.reasons
        ]
        writer.write(shard, vectors[:count], source.columns(rows[places[:count]]), skipped)
        places, vectors, start = places[count:], vectors[count:], end
      bar.update(done - bar.n)


def embed_files(model: Model, files: Sequence[Any], batch_size: int = 64) -> np.ndarray:
  """Embeds a few images as they are at hand, queries for one: float32 [n, d].

  Args:
    model: a trained model.
    files: of each a path, the bytes of its file, a PIL image or uint8 [h, w, 3], RGB, as
      `data.encoding.encoded` takes them.
    batch_size: images a batch, on all devices of this host.

  Raises:
    TypeError: one is none of these.
    ImageDecodeError: one cannot be decoded.
    OSError: one cannot be read.
    SearchError: the model gives NaN.
  """
  if isinstance(files, str | bytes | os.PathLike):
    raise TypeError(f"files: expected a list of images, got one {type(files).__name__}: [it]")
  rng = np.random.default_rng(0)  # Nothing is drawn.
  parts = [np.zeros((0, model.dimension), np.float32)]
  for start in range(0, len(files), batch_size):
    images = [
      model.preprocessing(data.encoding.encoded(files[i], f"files[{i}]"), rng)
      for i in range(start, min(start + batch_size, len(files)))
    ]
    parts.append(model.embed_batch(np.stack(images)))
  embeddings = np.concatenate(parts)
  if not np.isfinite(embeddings).all():
    raise SearchError(f"the model in {model.workdir} gives NaN: its training has diverged")
  return embeddings
