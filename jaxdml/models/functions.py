"""Networks of any library as encoders: a pair of functions, (init, apply)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdml.models.base import Encoder
from jaxdml.types import Array, PyTree


class FunctionEncoder(Encoder):
  """An encoder made of two functions, which `from_functions` documents."""

  init_fn: Callable[..., Any] = None
  apply_fn: Callable[..., Any] = None
  feature_dim: int = 0
  stages: tuple[str, ...] = ("encoder",)
  sides: tuple[int, int] = (1, 1)

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage that begins the dotted path; the first one if none does."""
    dotted = ".".join(path) + "."
    return next((s for s in self.stages if dotted.startswith(s + ".")), self.stages[0])

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    self.check_images(images)
    if self.is_initializing():
      for kind, tree in self.init_fn(self.make_rng("params"), images).items():
        self._keep(kind, tree)
    # The structure, which the stored dicts of names have lost, is that of a new start.
    trees = jax.eval_shape(self.init_fn, jax.random.key(0), images)
    trees = {kind: _restored(tree, self.variables[kind]) for kind, tree in trees.items()}
    cast = lambda x: x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    inputs = {**trees, "params": jax.tree.map(cast, trees["params"])}
    moving = train and not self.frozen_bn
    result = self.apply_fn(inputs, cast(images), moving)
    features, stats = result if isinstance(result, tuple) else (result, None)
    if stats is not None and moving and self.is_mutable_collection("batch_stats"):
      old = trees.get("batch_stats")
      if jax.tree.structure(stats) != jax.tree.structure(old):
        raise ValueError(
          "apply: expected new statistics of the same structure as init's batch_stats; got "
          f"{jax.tree.structure(stats)} instead of {jax.tree.structure(old)}"
        )
      self._keep("batch_stats", jax.tree.map(self._synchronised, stats, old))
    return features.astype(jnp.float32) if hasattr(features, "astype") else features

  def _keep(self, kind: str, tree: PyTree) -> None:
    if kind not in ("params", "batch_stats"):
      raise ValueError(f"init: expected a dict of params and, if any, batch_stats; got {kind!r}")
    for name, value in unflatten_dict(_named(tree)).items():
      self.put_variable(kind, name, value)

  def _synchronised(self, new: Array, old: Array) -> Array:
    """The mean over the devices, which must all keep the same; counts are the same anyway."""
    if self.axis_name is not None and jnp.issubdtype(new.dtype, jnp.floating):
      new = jax.lax.pmean(new, self.axis_name)
    return new.astype(old.dtype)


def _named(tree: PyTree) -> dict[tuple[str, ...], Any]:
  """The leaves of any tree by their path, as strings."""
  part = lambda key: jax.tree_util.keystr((key,), simple=True)
  return {tuple(map(part, path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _restored(like: PyTree, named: Any) -> PyTree:
  """The tree of the structure `like` with the leaves that `_named` gave names."""
  flat = flatten_dict(named)
  return jax.tree.unflatten(jax.tree.structure(like), [flat[path] for path in _named(like)])


def from_functions(
  init: Callable[[Array, Array], Mapping[str, PyTree]],
  apply: Callable[[dict[str, PyTree], Array, bool], Any],
  feature_dim: int,
  *,
  stages: Sequence[str] = ("encoder",),
  sides: tuple[int, int] = (1, 1),
  **fields: Any,
) -> Encoder:
  """Makes an encoder of a network of Flax linen, nnx, Equinox or plain functions.

      init(key, images) -> {"params": tree} or {"params": tree, "batch_stats": tree}
      apply(variables, images, train) -> features, or (features, the new batch_stats)

  The trees are any pytrees of arrays, stored as dicts of their paths' names. `variables` is what
  `init` gave, images are [n, h, w, c], features [n, feature_dim]. docs/encoders.md has an example
  of each library.

  Args:
    init: pure; what it gives may not depend on the values or the number of images.
    apply: pure; it has no random numbers, so no dropout. New statistics are averaged over the
      devices, each of which normalises by its own part of the batch.
    feature_dim: size of the features.
    stages: beginnings of parameters' paths, dotted, as "layers.0", from input to output, for
      `encoder.frozen_stages` and `optimizer.layer_decay`; one stage if none is given.
    sides: smallest side in pixels, and the number that sides are multiples of.
    **fields: what training gives a factory, to be passed on: axis_name; frozen_bn, with which
      `apply` has train=False in training, too; dtype, which parameters and images are cast to.

  >>> init = lambda key, images: {"params": {"w": jax.random.normal(key, (images.shape[-1], 8))}}
  >>> apply = lambda variables, images, train: images.mean((1, 2)) @ variables["params"]["w"]
  >>> encoder = from_functions(init, apply, feature_dim=8)
  >>> images = jnp.ones((2, 4, 4, 3))
  >>> variables = encoder.init(jax.random.key(0), images, train=False)
  >>> encoder.apply(variables, images, train=False).shape
  (2, 8)
  """
  return FunctionEncoder(
    init_fn=init, apply_fn=apply, feature_dim=feature_dim, stages=tuple(stages), sides=sides,
    **fields,
  )  # fmt: skip
