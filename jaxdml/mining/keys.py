"""Per-row randomness: each miner folds its own name into the row's key."""

from __future__ import annotations

import zlib

import jax

from jaxdml.types import Array, Pairs

__all__ = ["row_keys"]


def row_keys(pairs: Pairs, name: str) -> Array:
  """Keys [r] for the miner called `name`, so that two miners in a chain draw independently.

  Raises:
    ValueError: if the loss was called without `key`.
  """
  if pairs.keys is None:
    raise ValueError(f"mining with {name} is random: pass key=jax.random.key(...) to the loss")
  salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
  return jax.vmap(lambda k: jax.random.fold_in(k, salt))(pairs.keys)
