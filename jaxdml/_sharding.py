"""Values on the devices of a mapped axis, and functions whatever mesh is set."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdml._arguments import P, R, axes_of, cast
from jaxdml.types import Array, PyTree

_NO_MESH = jax.sharding.Mesh(np.empty((), object), ())


def here(x: Array | int) -> Array | int:
  """An array that a function called by `any_axes` closes over, as that function needs it."""
  of_explicit = isinstance(x, jax.Array) and jax.typeof(x).sharding.mesh.explicit_axes
  if not of_explicit or jax.sharding.get_abstract_mesh().explicit_axes:
    return x
  return jax.sharding.reshard(x, PartitionSpec())


def own_devices(fn: Callable[P, R]) -> Callable[P, R]:
  """Decorator: `fn`, which shares out its work by itself, whatever mesh `jax.set_mesh` has set."""

  @functools.wraps(fn)
  def call(*args: P.args, **kwargs: P.kwargs) -> R:
    with jax.set_mesh(_NO_MESH):
      return fn(*args, **kwargs)

  return call


def is_checked(axis_name: str) -> bool:
  """Tells whether `jax.shard_map` checks which values vary over its axis (`check_vma`)."""
  return axis_name in axes_of(jax.lax.axis_index(axis_name))


def varying(tree: PyTree, axis_name: str) -> PyTree:
  """Arrays typed as varying over the axis, where `jax.shard_map` checks."""
  if not is_checked(axis_name):
    return tree
  return jax.tree.map(lambda x: cast(x, frozenset([axis_name])), tree)


def alike(tree: PyTree, axis_name: str | None) -> PyTree:
  """Values that are the same on all devices, typed so where `jax.shard_map` checks."""
  if axis_name is None or not is_checked(axis_name):
    return tree

  def of_one(x: Array) -> Array:
    if axis_name not in axes_of(x):
      return x
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    return (jax.lax.pmax if integer else jax.lax.pmean)(x, axis_name)

  return jax.tree.map(of_one, tree)
