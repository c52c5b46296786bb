"""What people pass in as arrays, keys and functions: taken as it is meant, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml.types import Array, Refs

__all__ = ["array", "check_function", "check_key", "integers", "mask", "references"]


def array(name: str, x: Any) -> Array | None:
  """x as an array of JAX; None stays None.

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


def integers(name: str, x: Any) -> Array | None:
  """`array`, of whole numbers.

  Raises:
    TypeError: it holds others.
  """
  x = array(name, x)
  if x is not None and not jnp.issubdtype(x.dtype, jnp.integer):
    raise TypeError(f"{name} must be integers; got {x.dtype}")
  return x


def mask(name: str, x: Any) -> Array | None:
  """`array`, of booleans.

  Raises:
    TypeError: it holds numbers, where 1 could mean an index as well.
  """
  x = array(name, x)
  if x is not None and x.dtype != bool:
    raise TypeError(
      f"{name} must be bool, True where it is there; got {x.dtype}: compare with != 0"
    )
  return x


def references(refs: Any) -> Refs | None:
  """The same references, of arrays.

  Raises:
    TypeError: no `Refs`, or not of arrays as it says.
  """
  if refs is None:
    return None
  if not isinstance(refs, Refs):
    raise TypeError(
      f"refs must be a jaxdml.types.Refs(embeddings, labels); got {type(refs).__name__}"
    )
  embeddings = array("refs.embeddings", refs.embeddings)
  if not jnp.issubdtype(embeddings.dtype, jnp.floating):
    raise TypeError(f"refs.embeddings must be floating point; got {embeddings.dtype}")
  return Refs(
    embeddings,
    array("refs.labels", refs.labels),
    mask("refs.where", refs.where),
    integers("refs.ids", refs.ids),
  )


def check_function(name: str, fn: Callable | None, example: str) -> None:
  """Refuses what cannot be called, a name for one."""
  if fn is not None and not callable(fn):
    raise TypeError(f"{name} must be a function, such as {example}; got {fn!r}")


def check_key(key: Any) -> None:
  """Refuses what is no single PRNG key, a seed for one."""
  if key is None:
    return
  typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  raw = getattr(key, "dtype", None) == np.uint32 and key.ndim == 1
  if not (raw or (typed and key.ndim == 0)):
    shape = f" of shape {key.shape}" if typed else ""
    raise TypeError(f"key must be one jax.random.key(seed); got {type(key).__name__}{shape}")
