"""A model measured on a split, and a finished run to look at: `restore("runs/glyphs").embed()`."""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import data, evaluation
from jaxdml.training import networks, parallel
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.checkpoints import Progress, open_best
from jaxdml.training.config import ConfigError, replace
from jaxdml.training.metric_loss import ranking_of
from jaxdml.training.program import TrainState
from jaxdml.training.setup import Setup, prepare
from jaxdml.types import Array, DistanceFn, PyTree


def _logged(name: str) -> bool:
  """Leaves out Recall@1 under its other name, and all but two of the means over classes."""
  return name != "precision@1" and (
    not name.startswith("macro/") or name in ("macro/recall@1", "macro/map@r")
  )


def batch_size(config: ConfigDict) -> int:
  """Images embedded at a time: `eval.batch_size`, rounded up to whole devices."""
  devices = jax.local_device_count()
  return -(-config.eval.batch_size // devices) * devices


class Evaluator:
  """Embeds one split of unseen images on all devices, and scores models on it.

  Images are ranked among themselves; a data set with a `gallery` column (0 query, 1 gallery) ranks
  its gallery for each query. Clustering (`eval.clustering`) and the diagnostics of class collapse
  (`eval.diagnostics`, named collapse/...) take all images.

  Args:
    config: the run's.
    dataset: the images; `eval_label` (or `label`) says what counts as a match.
    embed_fn: ({"params", "batch_stats"}, images) -> embeddings, per device.
    shared: all hosts evaluate alike, and each reads and embeds its part of the images; else this
      host does all of them.
  """

  def __init__(
    self,
    config: ConfigDict,
    dataset: data.Dataset,
    embed_fn: Callable[..., Array],
    *,
    shared: bool = False,
  ):
    keys = config.data
    self._batch_size = batch_size(config)
    self._config, self._dataset = config, dataset
    self.distance_fn = ranking_of(config)
    self._classes = dataset.column(keys.label)
    self._labels = dataset.column(keys.eval_label or keys.label)
    self._embed = parallel.compile_embed(embed_fn)
    self._bad_images = data.BadImages(dataset, keys.max_bad_images)
    self._part = (jax.process_index(), jax.process_count()) if shared else (0, 1)
    self.preprocess = data.preprocess.from_config(
      keys, train=False, cache=keys.cache, image_size=config.eval.image_size
    )

  @property
  def name(self) -> str:
    """The data set's split, for messages."""
    return f"{self._dataset.name} {self._dataset.split}"

  def _batches(self, part: tuple[int, int]) -> data.Batches:
    size, workers = self._batch_size, self._config.data.num_workers
    return data.eval_batches(
      self._dataset, self.preprocess, size, workers, self._bad_images, part=part
    )

  def _total(self, part: tuple[int, int]) -> int:
    """Batches of a part, or one more."""
    batches = -(-len(self._dataset) // self._batch_size)
    return -(-batches // part[1])

  def _embedded(self, embed: Callable[[Iterable[Any]], evaluation.Embedded]) -> evaluation.Embedded:
    """Embeds this host's part of the batches, and gathers those of all hosts."""
    with self._batches(self._part) as batches:
      if self._part[1] == 1:
        return embed(batches)
      iterator = iter(batches)
      first = next(iterator, None)
      if first is None:
        embedded = evaluation.Embedded(
          np.empty((0, 0), np.float32), {"index": np.empty(0, np.int32)}
        )
      else:
        embedded = embed(itertools.chain([first], iterator))
    rows = {name: parallel.gather_hosts(column) for name, column in embedded.columns.items()}
    embedded = evaluation.Embedded(parallel.gather_hosts(embedded.embeddings), rows)
    self._bad_images.check(len(self._dataset) - len(embedded.embeddings))
    return embedded

  def score(self, embedded: evaluation.Embedded, *, cosine: bool = False) -> dict[str, float]:
    """Metrics of what `embed` or `pixels` returned, ranked as the config says, or by cosine.

    Pixels and an encoder's own features know nothing of a loss's distance: `cosine` is for them.
    """
    rows, x = embedded.columns["index"], embedded.embeddings
    labels, ks, seed = self._labels[rows], self._config.eval.ks, self._config.seed
    queries, gallery = np.ones(len(rows), bool), {}
    if data.GALLERY in self._dataset.labels:
      queries = self._dataset.column(data.GALLERY)[rows] != 1
      gallery = {"gallery": x[~queries], "gallery_labels": labels[~queries]}
    metrics = evaluation.retrieval_metrics(
      x[queries], labels[queries], ks=ks, macro=True, **gallery,
      distance_fn=None if cosine else self.distance_fn,
    )  # fmt: skip
    metrics = {name: value for name, value in metrics.items() if _logged(name)}
    if self._config.eval.clustering:
      metrics |= evaluation.clustering_metrics(x, labels, seed=seed)
    if self._config.eval.diagnostics:
      # Where classes are not split by a finer label, what measures their modes is left out.
      collapse = evaluation.collapse_metrics(x, self._classes[rows], labels, seed=seed)
      metrics |= {f"collapse/{name}": value for name, value in collapse.items()}
    return {**metrics, "num_undecodable": len(self._dataset) - len(rows)}

  def embed(
    self, state: TrainState, embed_fn: Callable[..., Array] | None = None
  ) -> evaluation.Embedded:
    """Embeds every image that can be decoded with a model on the host, in the data set's order.

    `embed_fn` takes the place of the evaluator's own.
    """
    variables = networks.deployed(self._config, state._asdict())
    return self.embed_variables(variables, embed_fn)

  def embed_variables(
    self, variables: PyTree, embed_fn: Callable[..., Array] | None = None
  ) -> evaluation.Embedded:
    """Likewise, with {"params", "batch_stats"} on the host."""
    return self.embed_with(self._applied(variables, embed_fn))

  def _applied(
    self, variables: PyTree, embed_fn: Callable[..., Array] | None = None
  ) -> Callable[[np.ndarray], Any]:
    compiled = parallel.compile_embed(embed_fn) if embed_fn else self._embed
    variables = parallel.replicate(variables)
    return lambda images: compiled(variables, parallel.split(images)).reshape(len(images), -1)

  def part_embedder(self, variables: PyTree) -> Callable[[tuple[int, int]], evaluation.Embedded]:
    """Returns what embeds part (i, n) of the images on this host; the weights are placed once."""
    apply = self._applied(variables)

    def embed(part: tuple[int, int]) -> evaluation.Embedded:
      with self._batches(part) as batches:
        return evaluation.embed_batches(
          apply, batches, total=self._total(part),
          description=f"features of {self.name}, {part[0] + 1} of {part[1]}",
        )  # fmt: skip

    return embed

  def embed_with(self, apply: Callable[[np.ndarray], Any]) -> evaluation.Embedded:
    """Likewise, with any function of uint8 images [b, h, w, c] that gives [b, d]."""
    return self._embedded(
      lambda batches: evaluation.embed_batches(
        apply, batches, total=self._total(self._part), description=f"embed {self.name}"
      )
    )

  def pixels(self) -> evaluation.Embedded:
    """The flattened, centred pixels that the network receives: the embedding of no model."""

    def embed(batches: Iterable[Any]) -> evaluation.Embedded:
      normalized = ({**b, "image": self.preprocess.normalize(b["image"])} for b in batches)
      return evaluation.raw_pixels(normalized, center=True, total=self._total(self._part))

    return self._embedded(embed)


@dataclasses.dataclass(frozen=True)
class Restored:
  """A run's model and the unseen images it is measured on."""

  setup: Setup  # the run's config, data and program; "test split" below is its `measured`
  state: TrainState  # of the best checkpoint, on the host
  progress: Progress  # of the loop when it saved that
  evaluator: Evaluator  # of the test split

  @functools.cached_property
  def untrained(self) -> TrainState:
    """The state that training started from; ConfigError if weights of `encoder.init` are gone."""
    return self.setup.initial_state()

  def before(self) -> tuple[str, np.ndarray, DistanceFn | None]:
    """(row of the encoder that training started from, the test split by it, its distance).

    Weights of `encoder.init` are shown by their own pooling, a random encoder as the run embeds.
    """
    if not self.setup.config.encoder.init:
      return "untrained encoder", self.embed(self.untrained), self.evaluator.distance_fn
    features = self.evaluator.embed(self.untrained, self.setup.program.features)
    return workdir_lib.FROZEN, self._whole(features), None

  @property
  def labels(self) -> np.ndarray:
    """Labels that count as a match on the test split, int32 [n]."""
    return self.setup.measured.column(self._matched)

  @property
  def disjoint(self) -> bool:
    """Tells whether no class of the test split was in training."""
    classes = [part.classes(self._matched) for part in (self.setup.measured, self.setup.train)]
    return not np.isin(*classes).any()

  @property
  def _matched(self) -> str:
    return self.setup.config.data.eval_label or self.setup.config.data.label

  def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The test images `indices` [m] as preprocessed for the network: uint8 [m, h, w, c]."""
    preprocess, rng = self.evaluator.preprocess, np.random.default_rng(0)  # Nothing is drawn.
    return np.stack([preprocess(encoded, rng) for encoded in self.setup.measured.read(indices)])

  def embed(self, state: TrainState | None = None) -> np.ndarray:
    """Embeds the test split on all devices: float32 [n, d], in the order of `labels`.

    `state` is the trained model's by default, `self.untrained` for comparison. ImageDecodeError: an
    image cannot be decoded, and the rows would not be those of `labels`.
    """
    return self._whole(self.evaluator.embed(self.state if state is None else state))

  def raw_pixels(self) -> np.ndarray:
    """The test split's centred pixels, float32 [n, h * w * c]: the embedding of no model."""
    return self._whole(self.evaluator.pixels())

  def _whole(self, embedded: evaluation.Embedded) -> np.ndarray:
    if missing := len(self.setup.measured) - len(embedded.embeddings):
      raise data.ImageDecodeError(
        f"{missing} images of {self.evaluator.name} cannot be decoded, and the rows would not be "
        "those of the labels; set config.data.max_bad_images=0 to see which, and mend them"
      )
    return embedded.embeddings


def restore(workdir: str | os.PathLike[str], *, data_dir: str | None = None) -> Restored:
  """Loads what `train_and_evaluate` left in `workdir`: config, best model, test split.

  The run may still be training: nothing is written.

  Args:
    workdir: of a run, finished or stopped.
    data_dir: the TFDS data directory; by default the run's own.

  Raises:
    CheckpointError: no run there, no checkpoint yet, or one that cannot be read.
    ConfigError: its config.json is damaged or has keys that this version does not know, or the data
      set is no longer what it was trained on.
    DatasetNotPreparedError: the data set is not there.
  """
  workdir = pathlib.Path(os.path.expanduser(workdir))
  config = workdir_lib.read_config(workdir, data_dir)
  if not pathlib.Path(config.data.cache).expanduser().is_dir():
    # On another machine; there it is not for us to make.
    config = replace(config, {"data.cache": ""})
  run = prepare(config)
  if changed := workdir_lib.changed_data(workdir, run.splits, config.data.label):
    raise ConfigError(f"{changed}; jaxdml evaluate measures the model as they are")
  with open_best(workdir) as manager:
    state, progress = manager.restore("best", run.abstract_state())
  return Restored(run, state, progress, Evaluator(config, run.measured, run.program.embed))
