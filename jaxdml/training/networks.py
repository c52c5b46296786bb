"""The networks of a config: encoder and embedding, batches encoded in chunks, layers for HDML.

What is left when training is over is an `Embedder`: from uint8 images to embeddings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdml import models
from jaxdml.data import preprocess
from jaxdml.data.normalize import Normalize
from jaxdml.hdml._layers import Dense, Layers, Norm
from jaxdml.models import Embedding, Generator
from jaxdml.training import lora as lora_lib
from jaxdml.training import optimizers
from jaxdml.training.config import Config, ConfigError
from jaxdml.types import Array, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
  """The two networks that images pass through, and what comes before them."""

  encoder: Any  # images to features
  embedding: models.Embedding  # features to embeddings
  normalize: Normalize  # 8-bit pixels to what the encoder takes
  image_shape: tuple[int, int, int]  # [h, w, c] of an image in evaluation
  lora: lora_lib.Lora | None = None  # adapters of the encoder, which then learns by them alone

  def init(self, keys: dict[str, Array]) -> dict[str, PyTree]:
    """Returns the variables before training of "encoder" and "embedding", each by its key.

    With adapters also theirs, as "lora". Raises ConfigError: features of another shape than the
    encoder says.
    """
    images, size = jnp.zeros((1, *self.image_shape)), self.encoder.feature_dim
    features, encoder = self.encoder.init_with_output(keys["encoder"], images, train=False)
    got = getattr(features, "shape", type(features).__name__)
    if got != (1, size):
      raise ConfigError(
        f"config.encoder.name: expected features [n, feature_dim], {(1, size)} of one image; the "
        f"encoder gives {got}"
      )
    embedding = self.embedding.init(keys["embedding"], jnp.zeros((1, size)), train=False)
    variables = {"encoder": encoder, "embedding": embedding}
    if self.lora:
      key = jax.random.fold_in(keys["encoder"], 1)
      variables["lora"] = {"params": self.lora.init(key, encoder["params"])}
    return variables

  def abstract(self) -> dict[str, PyTree]:
    """Returns {"params", "batch_stats"}, each a dict by network, as shapes and dtypes."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: self.init({"encoder": key, "embedding": key}))
    return {
      kind: {name: v[kind] for name, v in variables.items() if kind in v}
      for kind in ("params", "batch_stats")
    }

  def embed(self, variables: PyTree, images: Array) -> Array:
    """Returns embeddings [b, d] float32 of images [b, h, w, c], uint8 or floats of the same range.

    `variables` are {"params", "batch_stats"}, each a dict by network.
    """
    y = self.features(variables, images)
    return self.embedding.apply(_of("embedding", variables), y, train=False)

  def features(self, variables: PyTree, images: Array) -> Array:
    """Returns the features [b, f] that the encoder pools itself; arguments as of `embed`."""
    return self.encoder.apply(_of("encoder", variables), self.normalize(images), train=False)


def _of(name: str, variables: PyTree) -> PyTree:
  return {kind: tree[name] for kind, tree in variables.items() if name in tree}


def build(config: Config, axis_name: str | None = None) -> Embedder:
  """The networks of a config; in training BatchNorm is synchronised over `axis_name`.

  Raises ValueError: unknown names or options.
  """
  keys, head = config.encoder, config.embedding
  common = {"axis_name": axis_name, "frozen_bn": keys.frozen_bn, "dtype": jnp.dtype(keys.dtype)}
  encoder = models.create(keys.name, **common, **keys.options)
  lora = None
  if keys.lora.rank:
    starts = optimizers.unfreezing(config, encoder, 1)
    moves = lambda path: starts[encoder.stage_of(path)] is not None
    lora = lora_lib.Lora(keys.lora.rank, keys.lora.targets, moves)
  options = {name: head[name] for name in ("hidden", "norm", "unit_norm", "kernel_scale")}
  options["momentum"] = head.bn_momentum
  embedding = models.Embedding(head.dim, axis_name=axis_name, **options)
  size = config.eval.image_size
  pixels = preprocess.from_config(config.data, train=False, image_size=size)
  return Embedder(encoder, embedding, pixels.normalize, pixels.shape, lora)


def frozen(config: Config) -> tuple[str, ...]:
  """The networks that never learn."""
  keys = config.encoder
  return ("encoder",) if keys.lora.rank or keys.cache_features else ()


def averaged(config: Config, params: dict[str, PyTree], batch_stats: dict[str, PyTree]) -> PyTree:
  """The part of parameters and statistics that `train.ema_decay` averages; () without it."""
  if not config.train.ema_decay:
    return ()
  names = {"encoder", "lora", "embedding"}
  still = set(frozen(config))
  return {
    "params": {name: tree for name, tree in params.items() if name in names - still},
    "batch_stats": {name: tree for name, tree in batch_stats.items() if name in names},
  }


def merged(config: Config, params: dict[str, PyTree]) -> dict[str, PyTree]:
  """Parameters by network with the adapters, if there are any, in the encoder's own."""
  if "lora" not in params:
    return params
  keys, rest = config.encoder.lora, {n: tree for n, tree in params.items() if n != "lora"}
  encoder = lora_lib.merge(params["encoder"], params["lora"], keys.alpha / keys.rank)
  return {**rest, "encoder": encoder}


def deployed(config: Config, state: Mapping[str, Any]) -> PyTree:
  """The variables that embed, {"params", "batch_stats"}, of a training state's parts by name.

  Averages where there are any, with the adapters in the encoder's kernels.
  """
  average = state.get("ema") or {}
  whole = {k: {**state.get(k, {}), **average.get(k, {})} for k in ("params", "batch_stats")}
  params, stats = merged(config, whole["params"]), whole["batch_stats"]
  pick = lambda tree: {name: tree[name] for name in ("encoder", "embedding") if name in tree}
  return {"params": pick(params), "batch_stats": pick(stats)}


def needed(config: Config, abstract: PyTree) -> PyTree:
  """The parts of a training state that `deployed` needs, of those of `Embedder.abstract`."""
  average = averaged(config, **abstract)
  if not average:
    return abstract
  kept = {name: tree for name, tree in abstract["params"].items() if name in frozen(config)}
  return {"ema": average, **({"params": kept} if kept else {})}


def encode_in_chunks(
  encode: Callable[[Array], tuple[Array, PyTree]], images: Array, chunk_size: int
) -> tuple[Array, PyTree]:
  """Encodes `chunk_size` images at a time; the backward pass encodes each chunk again.

  Only the features of the whole batch are kept, so a loss over all of them (every pair, every
  mined triplet) costs the activations of one chunk, and the gradient is that of the whole batch:
  GradCache (Gao et al., arXiv 2101.06983), here as a scan of rematerialised chunks.

  Where the encoder's BatchNorm uses the statistics of what it sees, it sees a chunk: only with
  frozen BatchNorm, or none, is the result independent of `chunk_size`. A chunk takes every
  (n / chunk_size)-th image, so that it holds as many classes as it can.

  On a CPU, XLA takes about fifty times as long for the kernel gradient of a convolution inside a
  loop (jax 0.10 and 0.12): there, use chunks with encoders made of matrix products (convnet, ViT).

  Args:
    encode: images [c, ...] -> (features [c, d], updates of the running statistics).
    images: [n, ...], n a multiple of `chunk_size`.
    chunk_size: c; 0 or n encodes all at once.

  Returns: features [n, d] in the order of the images, and the updates averaged over the chunks.
  """
  total = images.shape[0]
  if chunk_size in (0, total):
    return encode(images)
  shape = (chunk_size, total // chunk_size)
  chunks = images.reshape(*shape, *images.shape[1:]).swapaxes(0, 1)

  # Inside a scan XLA cannot merge the second encoding with the first.
  again = jax.checkpoint(encode, prevent_cse=False)
  features, updates = jax.lax.map(again, chunks)
  features = features.swapaxes(0, 1).reshape(total, *features.shape[2:])
  return features, jax.tree.map(lambda x: x.mean(0), updates)


def foldable(embedding: Embedding, generator: Generator) -> bool:
  """Tells if `read_layers` describes these modules: affine but for the ReLU, at least float32."""
  precise = all(jnp.finfo(module.dtype).bits >= 32 for module in (embedding, generator))
  plain = not embedding.hidden and not embedding.frozen_bn
  return precise and plain and embedding.norm in ("batch", "none")


def read_layers(
  embedding: Embedding,
  generator: Generator,
  params: dict[str, PyTree],
  generator_stats: PyTree,
  embedding_stats: PyTree = None,
  given: tuple[Array, Array] | None = None,
) -> Layers:
  """The modules' parameters by the roles they play; both modules are `foldable`.

  Args:
    embedding, generator: the modules.
    params: {"embedding", "generator", "head"}.
    generator_stats: its running statistics.
    embedding_stats: running statistics that synthetic features move; None: they move none.
    given: mean and variance that the embedding normalises synthetic features by; None: theirs.
  """
  of_generator, of_embedding = params["generator"], params["embedding"]
  feature_norm = None
  if embedding.norm == "batch":
    feature_norm = _norm(embedding, of_embedding["bn"], embedding_stats, given)
  return Layers(
    first=_dense(of_generator["fc1"]),
    norm=_norm(generator, of_generator["bn"], generator_stats, None),
    second=_dense(of_generator["fc2"]),
    feature_norm=feature_norm,
    last=_dense(of_embedding["fc"]),
    head=_dense(params["head"]["fc"]),
    unit_norm=embedding.unit_norm,
  )


def _dense(params: PyTree) -> Dense:
  return Dense(params["kernel"], params["bias"])


def _norm(module: Embedding | Generator, params: PyTree, stats: PyTree, given) -> Norm:
  def moved(mean: Array, var: Array) -> PyTree:
    batch = jax.lax.stop_gradient({"bn": {"mean": mean, "var": var}})
    keep = module.momentum
    return jax.tree.map(lambda running, now: keep * running + (1 - keep) * now, stats, batch)

  return Norm(
    params["scale"], params["bias"], module.epsilon, None if stats is None else moved, given
  )
