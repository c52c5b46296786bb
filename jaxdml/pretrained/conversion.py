"""From a published file's names and layouts to an encoder's, every name and shape checked."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxdml._version import __version__
from jaxdml.models.base import Encoder, Published, State, create, published_encoders
from jaxdml.pretrained import files, pixels
from jaxdml.pretrained.files import Card, ConvertError

Weights = dict[str, Any]
"""{"params": tree, "batch_stats": tree, "classifier": {"kernel", "bias"} or {}}, Flax's layouts."""

_LISTED = 10


def convert(arch: str, source: Path, *, model_config: Path | None = None) -> tuple[Weights, Card]:
  """Returns a published file as the weights of `arch`, in memory, and their card.

  Args:
    arch: one of `models.published_encoders()`.
    source: the file, as `files.read` takes it.
    model_config: one of `pixels.FILES`, which says how the model's pixels were prepared; by default
      the one beside the file, if there is one.

  Raises:
    ConvertError: the file cannot be read, or is not that of `arch`.
  """
  published = published_encoders()[arch]
  usual = published.preprocessing
  found = pixels.read(model_config, usual) if model_config else pixels.beside(source, usual)
  if model_config and found is None:
    raise ConvertError(
      f"{model_config}: expected timm's config.json with pretrained_cfg, or transformers' "
      "preprocessor_config.json"
    )
  state = files.read(source)
  try:
    weights = rename(create(arch), published, state)
  except ConvertError as error:
    if other := looks_like(state, besides=arch):
      raise ConvertError(
        f"{source} is not of {arch}: this looks like {other}; use --arch {other}, or "
        f"encoder.name={other}"
      ) from error
    raise ConvertError(
      f"{source} is not what {arch} is made from ({published.file}): {error}"
    ) from error
  classifier = weights["classifier"]
  classes = len(classifier["bias"]) if classifier else 0
  digest = files.digest(source)
  return weights, Card(arch, source.name, digest, __version__, classes, found or usual)


def looks_like(state: State, besides: str = "") -> str:
  """Returns the first encoder whose file this may be, or ""."""
  return next(lookalikes(state, besides), "")


def lookalikes(state: State, besides: str = "") -> Iterator[str]:
  """Yields the encoders whose names and shapes a file has; of one shape may be several families."""
  # Names first: tracing an encoder for its shapes takes a second, and there are dozens.
  tidied = {None: state}
  encoders = sorted(published_encoders().items(), key=lambda item: item[1].fits is None)
  for arch, published in encoders:
    if published.tidied not in tidied:
      tidied[published.tidied] = published.tidied(state)
    arrays = tidied[published.tidied]
    if arch != besides and (published.fits is None or published.fits(arrays)):
      try:
        rename(create(arch), published, arrays)
      except ConvertError:
        continue
      yield arch


def rename(encoder: Encoder, published: Published, state: State) -> Weights:
  """Returns an encoder's variables, and the classifier's, from a file's arrays.

  The encoder is as the file's authors built it: with the pooling that it has by default.

  Raises:
    ConvertError: listing names that are missing, left over or of another shape, and arrays with
      NaN or infinite values.
  """
  if published.tidied:
    state = published.tidied(state)
  expected = leaves(encoder)
  weight, bias = published.classifier
  names = {path: published.name_of(path) for path in expected}
  shapes = {names[path]: source_shape(path, leaf.shape) for path, leaf in expected.items()}
  wrong = [
    f"{name} (expected {list(shape)}, found {list(state[name].shape)})"
    for name, shape in shapes.items()
    if name in state and state[name].shape != shape
  ]
  missing = [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in state]
  if (weight in state) != (bias in state):
    missing.append(weight if bias in state else bias)
  elif weight in state and state[weight].shape != (*state[bias].shape, encoder.feature_dim):
    wrong.append(
      f"{weight} (expected [classes, {encoder.feature_dim}], found {list(state[weight].shape)})"
    )
  known = shapes.keys() | {weight, bias}
  ignored = re.compile(published.ignore).fullmatch
  left = [f"{n} {list(a.shape)}" for n, a in state.items() if n not in known and not ignored(n)]
  used = [name for name in state if name in known]
  odd = [name for name in used if not np.isfinite(np.asarray(state[name], np.float32)).all()]
  refuse({"missing": missing, "left over": left, "wrong shape": wrong, "NaN or infinite": odd})

  tree = traverse_util.unflatten_dict(
    {path: _to_flax(path, state[name]) for path, name in names.items()}
  )
  head = {}
  if weight in state:
    head = {"kernel": _contiguous(state[weight].T), "bias": _contiguous(state[bias])}
  return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {}), "classifier": head}


def abstract(encoder: Encoder) -> Any:
  """Returns shapes and dtypes of an encoder's variables; nothing is computed."""
  side, multiple = encoder.sides
  side = -(-side // multiple) * multiple
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  init = functools.partial(encoder.init, train=False)
  return jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images)


@functools.lru_cache
def leaves(encoder: Encoder) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
  """Returns `abstract` by path, kept: tracing takes a second, and `looks_like` asks for all."""
  return traverse_util.flatten_dict(dict(abstract(encoder)))


def refuse(problems: Mapping[str, list[str]]) -> None:
  """Raises ConvertError with the first ten of each kind of problem, if there is any."""
  lines = []
  for kind, items in problems.items():
    if items:
      more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
      lines.append(f"{kind} ({len(items)}): {', '.join(items[:_LISTED])}{more}")
  if lines:
    raise ConvertError("\n  ".join(["names or shapes differ", *lines]))


def source_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns PyTorch's shape of what has `shape` here."""
  if path[-1] == "kernel":
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
  return shape


def _to_flax(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
  """PyTorch's array in our layout: kernels [height, width, in, out], dense ones [in, out]."""
  if path[-1] == "kernel":
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  return _contiguous(array)


def _contiguous(array: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(array, np.float32)
