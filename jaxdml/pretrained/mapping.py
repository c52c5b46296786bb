"""From a published file's names and layouts to an encoder's, every name and shape checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

State = Mapping[str, np.ndarray]
"""A file's arrays by name, in PyTorch's layouts: kernels [out, in, height, width]."""

Weights = dict[str, Any]
"""{"params": tree, "batch_stats": tree, "classifier": {"kernel", "bias"} or {}}, Flax's layouts."""

_LISTED = 10


class ConvertError(ValueError):
  """A file that cannot become the encoder's weights; the message says why and what to do."""


def abstract(encoder: nn.Module, image_size: int = 224) -> Any:
  """Shapes and dtypes of an encoder's variables; nothing is computed."""
  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  init = functools.partial(encoder.init, train=False)
  return jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images)


def rename(
  encoder: nn.Module,
  state: State,
  name_of: Callable[[tuple[str, ...]], str],
  *,
  classifier: tuple[str, str],
  feature_dim: int | None = None,
  ignore: str = r".*\.num_batches_tracked",
  image_size: int = 224,
) -> Weights:
  """Fills an encoder's variables from a file's arrays.

  Args:
    encoder: as the file's authors built it (average pooling).
    state: the file's arrays.
    name_of: path of a leaf, e.g. ("params", "layer1_0", "conv1", "kernel") -> its name in the file.
    classifier: names of the weight and the bias that make logits of features; a file may lack both.
    feature_dim: inputs of the classifier; by default the encoder's features.
    ignore: regular expression of whole names that the encoder does without.
    image_size: any side that the encoder takes.

  Raises:
    ConvertError: listing names that are missing, left over or of another shape, and arrays with
      NaN or infinite values.
  """
  expected = _leaves(encoder, image_size)
  weight, bias = classifier
  names = {path: name_of(path) for path in expected}
  shapes = {names[path]: source_shape(path, leaf.shape) for path, leaf in expected.items()}
  wrong = [
    f"{name} (expected {list(shape)}, found {list(state[name].shape)})"
    for name, shape in shapes.items()
    if name in state and state[name].shape != shape
  ]
  missing = [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in state]
  if (weight in state) != (bias in state):
    missing.append(weight if bias in state else bias)
  elif weight in state:
    classes, inputs = state[bias].shape, feature_dim or encoder.feature_dim
    if state[weight].shape != (*classes, inputs):
      wrong.append(f"{weight} (expected [classes, {inputs}], found {list(state[weight].shape)})")
  known = shapes.keys() | set(classifier)
  left = [
    f"{name} {list(array.shape)}"
    for name, array in state.items()
    if name not in known and not re.fullmatch(ignore, name)
  ]
  used = [name for name in state if name in known]
  odd = [name for name in used if not np.isfinite(np.asarray(state[name], np.float32)).all()]
  refuse({"missing": missing, "left over": left, "wrong shape": wrong, "NaN or infinite": odd})

  tree = traverse_util.unflatten_dict(
    {path: _to_flax(path, state[name]) for path, name in names.items()}
  )
  head = {}
  if weight in state:
    head = {"kernel": _contiguous(state[weight].T), "bias": _contiguous(state[bias])}
  return {
    "params": tree["params"],
    "batch_stats": tree.get("batch_stats", {}),
    "classifier": head,
  }


@functools.lru_cache
def _leaves(encoder: nn.Module, image_size: int) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
  # Tracing takes a second, and finding out whose file it is asks for every encoder.
  return traverse_util.flatten_dict(dict(abstract(encoder, image_size)))


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
  """PyTorch's shape of what has `shape` here."""
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


NORM_NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Our names of BatchNorm's arrays -> PyTorch's."""


def leaf_name(leaf: str) -> str:
  """PyTorch's name of a leaf of a convolution, a dense layer or a normalisation.

  >>> [leaf_name(leaf) for leaf in ("kernel", "bias", "scale", "var")]
  ['weight', 'bias', 'weight', 'running_var']
  """
  return "weight" if leaf == "kernel" else NORM_NAMES[leaf]


def logits(features: jax.Array, classifier: Mapping[str, jax.Array]) -> jax.Array:
  """Class logits [n, classes] of features [n, d], by the classifier that came with weights."""
  return features @ classifier["kernel"] + classifier["bias"]
