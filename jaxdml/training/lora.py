"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) as a function of the parameter tree.

A kernel W [in, out] becomes

    W' = W + (alpha / rank) A B,    A [in, rank], B [rank, out], B = 0 at first

and A and B alone learn. A convolution's kernel [h, w, in, out] counts as [h * w * in, out], as in
the authors' code. The encoder is applied with W', so it knows nothing of adapters; nor does who
reads the trained model. For the same reason there is no dropout on the adapters' input, which the
paper has as an option: it is another one for each image, and W' is one for all of them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml.training.config import ConfigError
from jaxdml.types import Array, PyTree

_SHOWN = 4  # paths in a message


@dataclasses.dataclass(frozen=True)
class Lora:
  """Adapters of the kernels that a pattern names."""

  rank: int
  targets: str  # regular expression on whole paths, "block3/qkv/kernel"
  moves: Callable[
    [Sequence[str]], bool
  ]  # tells of a path if it is to learn: its stage is not frozen

  def init(self, key: Array, params: PyTree) -> PyTree:
    """Returns adapters {"a", "b"} in a tree like that of `params`, where `targets` matches.

    A is normal with variance 1 / in.

    Raises ConfigError: nothing matches, or something does that is no kernel, or a smaller one.
    """
    leaves = {path: x for path, x in _leaves(params) if self.moves(path)}
    kernels = {path: x for path, x in leaves.items() if x.ndim in (2, 4)}
    chosen = [path for path in leaves if re.fullmatch(self.targets, "/".join(path))]
    if not chosen:
      shown = ["/".join(path) for path in kernels]
      shown = [*shown[: _SHOWN // 2], *shown[max(len(shown) - _SHOWN // 2, _SHOWN // 2) :]]
      raise ConfigError(
        f"config.encoder.lora.targets: {self.targets!r} matches the whole path of no kernel that "
        f"may learn; there are {len(kernels)}, as {', '.join(shown)}"
      )
    adapters: dict = {}
    for path, own in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
      if path not in kernels:
        raise ConfigError(
          f"config.encoder.lora.targets: expected kernels of dense layers or convolutions; "
          f"{self.targets!r} matches {'/'.join(path)}"
        )
      *outer, columns = kernels[path].shape
      rows = math.prod(outer)
      if self.rank > min(rows, columns):
        raise ConfigError(
          f"config.encoder.lora.rank: expected at most {min(rows, columns)}, as "
          f"{'/'.join(path)} is [{rows}, {columns}]; got {self.rank}"
        )
      node = adapters
      for name in path[:-1]:
        node = node.setdefault(name, {})
      a = jax.random.normal(own, (rows, self.rank)) / math.sqrt(rows)
      node[path[-1]] = {"a": a, "b": jnp.zeros((self.rank, columns))}
    return adapters


def merge(params: PyTree, adapters: PyTree, scale: float) -> PyTree:
  """Returns `params` with scale * A B added to those that have adapters; scale = alpha / rank.

  >>> params = {"fc": {"kernel": np.zeros((2, 2)), "bias": np.ones(2)}}
  >>> column, row = np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]])
  >>> merge(params, {"fc": {"kernel": {"a": column, "b": row}}}, 0.5)["fc"]["kernel"].tolist()
  [[1.5, 2.0], [3.0, 4.0]]
  """
  if not isinstance(params, Mapping):
    return params + (scale * _product(adapters["a"], adapters["b"])).reshape(params.shape)
  within = lambda name, x: merge(x, adapters[name], scale) if name in adapters else x
  return {name: within(name, x) for name, x in params.items()}


def _product(a: Array, b: Array) -> Array:
  if isinstance(a, np.ndarray):
    # A model that is read has the same bits, and so the same fingerprint, on every machine: no
    # library's order of sums.
    return sum(a[:, k, None] * b[k] for k in range(len(b)))
  return jnp.matmul(a, b, precision="highest")


def _leaves(tree: PyTree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Array]]:
  if not isinstance(tree, Mapping):
    yield path, tree
    return
  for name, value in tree.items():
    yield from _leaves(value, (*path, name))
