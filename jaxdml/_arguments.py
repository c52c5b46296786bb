"""Arrays, keys and functions that callers pass: checked, and however they are sharded."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdml._labels import UNKNOWN, as_given
from jaxdml.types import Array, PyTree, Refs

P = ParamSpec("P")
R = TypeVar("R")


def array(name: str, x: Any) -> Array | None:
  """Returns x as an array of JAX; None stays None.

  Raises:
    TypeError: it holds no numbers.
    ValueError: whole numbers that JAX would cut to their lower 32 bits.

  >>> array("labels", ["cat", "dog"])
  Traceback (most recent call last):
  TypeError: labels must be numbers; got <U3. np.unique(labels, return_inverse=True)[1] numbers them
  """
  if x is None or isinstance(x, jax.Array):
    return x
  held = np.asarray(x)
  if held.dtype.kind in "OSUMm":
    raise TypeError(
      f"{name} must be numbers; got {held.dtype}. np.unique({name}, return_inverse=True)[1] "
      "numbers them"
    )
  if held.dtype.kind in "iu" and held.size:
    limits = jnp.iinfo(jax.dtypes.canonicalize_dtype(held.dtype))
    if wide := [x for x in (held.min(), held.max()) if not limits.min <= x <= limits.max]:
      raise ValueError(
        f"{name} holds {wide[0]}, of which JAX would keep the lower {limits.bits} bits alone: "
        f"np.unique({name}, return_inverse=True)[1] numbers them from 0, or set jax_enable_x64"
      )
  return jnp.asarray(held)


def labels_of(name: str, x: Any) -> Array:
  """`array`, of labels; ValueError for numbers that JAX would round to another."""
  if isinstance(x, jax.Array):
    return x
  kept, held = array(name, x), as_given(x)
  pairs = zip(held.ravel(), np.asarray(x).astype(kept.dtype).ravel().tolist(), strict=True)
  if held.dtype.kind in "fO" and (wrong := [a for a, b in pairs if a != b and a == a]):
    raise ValueError(
      f"{name} holds {wrong[0]}, which JAX would round to another number: "
      f"np.unique({name}, return_inverse=True)[1] numbers them from 0, or set jax_enable_x64"
    )
  return kept


def known(*columns: Array) -> list[Array | None]:
  """Tells which labels of each are known, not -1 or NaN; None where the type holds neither."""
  result = []
  for labels in columns:
    if jnp.issubdtype(labels.dtype, jnp.floating):
      result.append((labels == labels) & (labels != UNKNOWN))
    else:
      signed = jnp.issubdtype(labels.dtype, jnp.signedinteger)
      result.append(labels != UNKNOWN if signed else None)
  return result


def equal(x: Array, y: Array) -> Array:
  """x == y of labels, or ids, of two types: JAX would round one of int32 and float32."""
  common = jax.dtypes.canonicalize_dtype(jnp.promote_types(x.dtype, y.dtype))
  # Of int32 and uint32 the common type may be int32, where 2^32 - 1 is -1.
  same = (x.astype(common) == y.astype(common)) & ((x < 0) == (y < 0))
  for a in (x, y) if jnp.issubdtype(common, jnp.floating) else ():
    if jnp.issubdtype(a.dtype, jnp.integer):
      rounded = a.astype(common)
      end = float(jnp.iinfo(a.dtype).max) + 1.0
      same = same & (rounded < end) & (rounded.astype(a.dtype) == a)
  return same


def integers(name: str, x: Any) -> Array | None:
  """`array`, of whole numbers; TypeError for others."""
  x = array(name, x)
  if x is not None and not jnp.issubdtype(x.dtype, jnp.integer):
    raise TypeError(f"{name} must be integers; got {x.dtype}")
  return x


def mask(name: str, x: Any) -> Array | None:
  """`array`, of booleans; TypeError for numbers, where 1 could mean an index as well."""
  x = array(name, x)
  if x is not None and x.dtype != bool:
    raise TypeError(
      f"{name} must be bool, True where it is there; got {x.dtype}: compare with != 0"
    )
  return x


def check_arrays(embeddings, labels, refs, ids, where, weights) -> tuple:
  """Returns the arrays of a loss's call; refuses what docs/conventions.md lists as errors."""
  # Most calls pass arrays of JAX and leave the rest out: what is as it should be needs no look.
  if not (isinstance(embeddings, jax.Array) and isinstance(labels, jax.Array)):
    embeddings, labels = array("embeddings", embeddings), labels_of("labels", labels)
  ids = None if ids is None else integers("ids", ids)
  where = None if where is None else mask("where", where)
  weights = None if weights is None else array("weights", weights)
  if embeddings.ndim != 2:
    raise ValueError(f"embeddings must be [n, d]; got shape {embeddings.shape}; use vmap for more")
  if not jnp.issubdtype(embeddings.dtype, jnp.floating):
    raise TypeError(f"embeddings must be floating point; got {embeddings.dtype}")
  n = embeddings.shape[0]
  if not n:
    raise ValueError(f"embeddings must hold at least one; got shape {embeddings.shape}")
  for name, x in (("labels", labels), ("ids", ids), ("where", where), ("weights", weights)):
    if x is not None and x.shape != (n,):
      raise ValueError(f"{name} must be [{n}], one for each embedding; got shape {x.shape}")
  if refs is not None:
    refs = _references(refs, n, embeddings.shape[1])
    if refs.ids is not None and ids is None:
      raise ValueError(
        "refs.ids is given without ids: say which example each anchor is, or drop it"
      )
  return embeddings, labels, refs, ids, where, weights


def _references(refs: Any, n: int, dim: int) -> Refs:
  """The same references, of arrays that fit n anchors of that dimension."""
  if not isinstance(refs, Refs):
    raise TypeError(
      f"refs must be a jaxdml.types.Refs(embeddings, labels); got {type(refs).__name__}"
    )
  e = array("refs.embeddings", refs.embeddings)
  if not jnp.issubdtype(e.dtype, jnp.floating):
    raise TypeError(f"refs.embeddings must be floating point; got {e.dtype}")
  labels, where = labels_of("refs.labels", refs.labels), mask("refs.where", refs.where)
  ids = integers("refs.ids", refs.ids)
  if e.ndim not in (2, 3) or e.shape[-1] != dim or (e.ndim == 3 and len(e) != n):
    raise ValueError(
      f"refs.embeddings must be [m, {dim}] or, private to each anchor, [{n}, m, {dim}]; "
      f"got shape {e.shape}"
    )
  if not e.shape[-2]:
    raise ValueError(
      f"refs.embeddings must hold at least one, which refs.where may mask; got shape {e.shape}"
    )
  for name, x in (("labels", labels), ("where", where), ("ids", ids)):
    if x is not None and x.shape != e.shape[:-1]:
      raise ValueError(f"refs.{name} must be shaped {e.shape[:-1]}; got {x.shape}")
  return Refs(e, labels, where, ids)


def check_functions(distance_fn, mining_fn, reduce_fn, key, block_size) -> None:
  """Refuses what a loss is given beside its arrays: names for functions, seeds for PRNG keys."""
  for name, fn, example in (
    ("distance_fn", distance_fn, 'distances.cosine or distances.create("cosine")'),
    ("mining_fn", mining_fn, 'mining.create("nearest_positive")'),
    ("reduce_fn", reduce_fn, 'reducers.mean or reducers.create("mean")'),
  ):
    if fn is not None and not callable(fn):
      raise TypeError(f"{name} must be a function, such as {example}; got {fn!r}")
  if key is not None:
    _check_key(key)
  if block_size is None:
    return
  if not isinstance(block_size, int | np.integer) or block_size < 1:
    raise ValueError(
      f"block_size must be at least 1 anchor, a whole number, or None; got {block_size}"
    )


def _check_key(key: Any) -> None:
  typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  raw = getattr(key, "dtype", None) == np.uint32 and key.ndim == 1
  if not (raw or (typed and key.ndim == 0)):
    shape = f" of shape {key.shape}" if typed else ""
    raise TypeError(f"key must be one jax.random.key(seed); got {type(key).__name__}{shape}")


def any_axes(fn: Callable[P, R]) -> Callable[P, R]:
  """Decorator: `fn` where axes of the arguments' mesh are Explicit, as `jax.make_mesh` makes them.

  Then XLA shards what `fn` computes, as it does under Auto axes; results are on every device, and
  gradients come back sharded like the arguments. Under `jax.shard_map` with its check all arrays
  come `together`. Other arguments go through as they are.
  """

  @functools.wraps(fn)
  def call(*args: P.args, **kwargs: P.kwargs) -> R:
    leaves, tree = jax.tree.flatten((args, kwargs))
    meshes = [
      mesh
      for x in leaves
      if isinstance(x, jax.Array)
      and ((mesh := jax.typeof(x).sharding.mesh).explicit_axes or mesh.manual_axes)
    ]
    if not meshes:
      return fn(*args, **kwargs)
    mesh = meshes[0]
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def of_arrays(*arrays: Array) -> R:
      given = list(leaves)
      for i, array in zip(at, together(arrays), strict=True):
        given[i] = array
      args, kwargs = jax.tree.unflatten(tree, given)
      return fn(*args, **kwargs)

    if not mesh.explicit_axes:
      return of_arrays(*(leaves[i] for i in at))

    with jax.sharding.use_abstract_mesh(mesh):
      automatic = jax.sharding.auto_axes(
        of_arrays, axes=mesh.explicit_axes, out_sharding=PartitionSpec()
      )
      return automatic(*(leaves[i] for i in at))

  return call


def together(tree: PyTree, *others: PyTree) -> PyTree:
  """The tree's arrays, typed as varying over all axes that any of them, or others, varies over.

  Loops and gradients written by hand need it where `jax.shard_map` checks: what is summed up then
  has one type from start to end, and what belongs to all devices is summed over them once, outside.
  """
  axes = frozenset().union(*map(axes_of, jax.tree.leaves((tree, others))))
  return jax.tree.map(lambda x: cast(x, axes), tree) if axes else tree


def are_together(tree: PyTree, like: PyTree) -> bool:
  """Tells whether `together(tree, like)` would leave the tree's arrays as they are."""
  axes = frozenset().union(*map(axes_of, jax.tree.leaves(like)))
  return all(axes <= axes_of(x) for x in jax.tree.leaves(tree))


def axes_of(x: Array) -> frozenset[str]:
  """Axes over which `jax.shard_map` knows x to vary; none where it does not check."""
  return jax.typeof(x).mat.varying


def cast(x: Array, axes: frozenset[str]) -> Array:
  """The array typed as varying over these axes too."""
  missing = tuple(axes - axes_of(x))
  return jax.lax.pcast(x, missing, to="varying") if missing else x
