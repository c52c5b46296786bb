"""What a call of a loss must be: one error that names the argument that is not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxdml._arguments import array, check_function, check_key, integers, mask, references

__all__ = ["check_arrays", "check_functions"]


def check_arrays(embeddings, labels, refs, ids, where, weights) -> tuple:
  """The arrays of a loss's call as JAX has them; refuses what does not fit together.

  docs/conventions.md lists what is refused.
  """
  embeddings = array("embeddings", embeddings)
  labels, weights = array("labels", labels), array("weights", weights)
  ids, where, refs = integers("ids", ids), mask("where", where), references(refs)
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
  if refs is None:
    return embeddings, labels, refs, ids, where, weights
  e = refs.embeddings
  if e.ndim not in (2, 3) or e.shape[-1] != embeddings.shape[1] or (e.ndim == 3 and len(e) != n):
    raise ValueError(
      f"refs.embeddings must be [m, {embeddings.shape[1]}] or, private to each anchor, "
      f"[{n}, m, {embeddings.shape[1]}]; got shape {e.shape}"
    )
  if not e.shape[-2]:
    raise ValueError(
      f"refs.embeddings must hold at least one, which refs.where may mask; got shape {e.shape}"
    )
  for name, x in (("labels", refs.labels), ("where", refs.where), ("ids", refs.ids)):
    if x is not None and x.shape != e.shape[:-1]:
      raise ValueError(f"refs.{name} must be shaped {e.shape[:-1]}; got {x.shape}")
  if refs.ids is not None and ids is None:
    raise ValueError("refs.ids is given without ids: say which example each anchor is, or drop it")
  return embeddings, labels, refs, ids, where, weights


def check_functions(distance_fn, mining_fn, reduce_fn, key, block_size) -> None:
  """Refuses what a loss is given beside its arrays where that is not what it must be."""
  check_function("distance_fn", distance_fn, 'distances.cosine or distances.create("cosine")')
  check_function("mining_fn", mining_fn, 'mining.create("nearest_positive")')
  check_function("reduce_fn", reduce_fn, 'reducers.mean or reducers.create("mean")')
  check_key(key)
  if block_size is None:
    return
  if not isinstance(block_size, int | np.integer) or block_size < 1:
    raise ValueError(
      f"block_size must be at least 1 anchor, a whole number, or None; got {block_size}"
    )
