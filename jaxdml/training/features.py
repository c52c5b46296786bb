"""Features of an encoder that does not learn, made once and kept on disk: `encoder.cache_features`.

The embedding is then trained on them, without images: minutes on a CPU. They are those of
evaluation's view of an image, so nothing is augmented. A folder for each encoder (its weights and
the pixels it takes) and each split of a data set holds them in shards with digests, so that a run
that was killed while it made them goes on, and other runs find them.
"""

import contextlib
import hashlib
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdml import _files, data, evaluation
from jaxdml.training import networks, runs, setup, trained
from jaxdml.training.config import Config, ConfigError
from jaxdml.training.monitors import say
from jaxdml.training.program import TrainState
from jaxdml.types import Array, PyTree

_BATCHES = 64  # in a shard
_CARD = "card.json"


class Features(NamedTuple):
  """Features of those images of a data set that can be decoded."""

  index: np.ndarray  # int32 [n], which images, in their order
  values: np.ndarray  # float32 [n, f]


def load(config: Config, dataset: data.Dataset, variables: PyTree) -> Features:
  """Reads the features of all images from `encoder.cache_features`; makes those that are not there.

  Args:
    config: the run's.
    dataset: the images.
    variables: {"params", "batch_stats"} on the host, each with "encoder".

  Raises:
    ConfigError: the folder cannot be written to.
    ImageDecodeError: more than data.max_bad_images cannot be decoded.
  """
  encoder = {kind: {k: v for k, v in tree.items() if k == "encoder"}
             for kind, tree in variables.items()}  # fmt: skip
  rows = hashlib.sha256(dataset.rows.astype("<i8").tobytes()).hexdigest()
  about = {
    "encoder": trained.fingerprint(config, encoder, ["encoder"]),
    "data": {"name": dataset.name, "digest": dataset.digest, "split": dataset.split, "rows": rows},
    "batch_size": runs.batch_size(config),
  }
  key = hashlib.sha256(_files.dump_json(about).encode()).hexdigest()[:16]
  folder = pathlib.Path(config.encoder.cache_features).expanduser() / f"features-{key}"
  total = -(-len(dataset) // runs.batch_size(config))
  count = -(-total // _BATCHES)
  digests = _digests(folder, about)
  names = [f"{shard:05d}.npz" for shard in range(count)]
  missing = [name for name in names if not _whole(folder / name, digests.get(name))]
  if missing:
    images = f"{dataset.name} {dataset.split}"
    say(f"making features of {images}: {len(missing)} of {count} shards, into {folder}")
    evaluator = runs.Evaluator(config, dataset, networks.build(config).features)
    embed_part = evaluator.part_embedder(encoder)
    for name in missing:
      found = embed_part((names.index(name), count))
      try:
        with _files.replacing(folder / name) as temporary, temporary.open("wb") as file:
          np.savez(file, index=found.columns["index"], values=found.embeddings)
        digests[name] = _files.sha256(folder / name)
        _files.write_json(folder / _CARD, _files.seal({**about, "shards": digests}))
      except OSError as error:
        raise ConfigError(
          f"config.encoder.cache_features: cannot write to {folder}: {error}"
        ) from error
  shards = []
  for name in names:
    with np.load(folder / name) as shard:
      shards.append((shard["index"], shard["values"]))
  return Features(*map(np.concatenate, zip(*shards, strict=True)))


def _digests(folder: pathlib.Path, about: dict[str, Any]) -> dict[str, str]:
  """Digests of the shards that a folder's card names; of a damaged card none."""
  try:
    card = _files.read_sealed(folder / _CARD)
  except (OSError, TypeError, ValueError):
    return {}
  return dict(card["shards"]) if {k: card[k] for k in about} == about else {}


def _whole(path: pathlib.Path, digest: str | None) -> bool:
  if digest is None or not path.is_file():
    return False
  if _files.sha256(path) == digest:
    return True
  say(f"{path} is damaged, and made anew")
  return False


def source(
  run: setup.Setup,
  state: TrainState,
  draw: data.sampling.Sampler,
  *,
  start: int,
  stop: int,
  bad_images: data.BadImages,
) -> contextlib.AbstractContextManager[Iterable[dict[str, np.ndarray]]]:
  """`setup.train_batches` of a run, of features where `encoder.cache_features` asks for them."""
  config = run.config
  if not config.encoder.cache_features:
    span = {"start": start, "stop": stop}
    return setup.train_batches(config, run.train, draw, **span, bad_images=bad_images)
  kept = load(config, run.train, networks.deployed(config, state._asdict()))
  labels = run.train.dense_labels(config.data.label)
  return contextlib.nullcontext(train_batches(kept, labels, map(draw, range(start, stop))))


def train_batches(
  features: Features, labels: np.ndarray, drawn: Iterable[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of features, as "image", with labels and numbers of the images `drawn`.

  For an image that cannot be decoded the next one of its class stands in, or the last.
  """
  place = np.full(len(labels), -1)
  place[features.index] = np.arange(len(features.index))
  shown = place.copy()
  for image in np.flatnonzero(place < 0):
    same = np.flatnonzero((labels == labels[image]) & (place >= 0))
    if not len(same):
      raise data.ImageDecodeError(f"no image of class {labels[image]} can be decoded")
    shown[image] = place[same[min(np.searchsorted(same, image), len(same) - 1)]]
  for images in drawn:
    rows = shown[images]
    columns = {"label": labels[images], "index": features.index[rows]}
    yield {"image": features.values[rows], **{k: np.int32(v) for k, v in columns.items()}}


class Evaluator(runs.Evaluator):
  """`runs.Evaluator`, which with `encoder.cache_features` reads features in place of images."""

  _features: Features | None = None

  def embed(
    self, state: TrainState, embed_fn: Callable[..., Array] | None = None
  ) -> evaluation.Embedded:
    """As of `runs.Evaluator`; what is asked for by an `embed_fn` is the features."""
    if not self._config.encoder.cache_features:
      return super().embed(state, embed_fn)
    variables = networks.deployed(self._config, state._asdict())
    if self._features is None:
      self._features = load(self._config, self._dataset, variables)
      embedding = networks.build(self._config).embedding
      self._head = jax.jit(lambda v, y: embedding.apply(v, y, train=False))
    index, values = self._features
    if embed_fn is None:
      of = {kind: tree["embedding"] for kind, tree in variables.items() if "embedding" in tree}
      # One size, so that it is compiled once.
      padded = np.zeros((math.ceil(len(values) / 1024) * 1024, values.shape[1]), np.float32)
      padded[: len(values)] = values
      chunks = [self._head(of, chunk) for chunk in padded.reshape(-1, 1024, values.shape[1])]
      values = np.concatenate([np.asarray(chunk) for chunk in chunks])[: len(values)]
    return evaluation.Embedded(values, {"index": index})
