"""Cross-batch memory (XBM): a first-in-first-out queue of past embeddings, as a pytree.

Embeddings drift slowly once training has settled, so those of earlier batches still serve as
references: many more negatives for the price of a matrix product (Wang et al., arXiv 1912.06798).

>>> import jax.numpy as jnp
>>> from jaxdml import refs
>>> from jaxdml.refs import memory
>>> queue = memory.init(size=4, dim=2)
>>> for step in range(3):  # in training: compare, take the gradient, then enqueue
...   x, labels = jnp.full((2, 2), float(step)), jnp.array([step, step])
...   anchors, anchor_labels, ids, given = refs.create("all_pairs")(x, labels)
...   given = memory.extend(given, queue)
...   queue = memory.enqueue(queue, x, labels)
>>> print(given.labels, given.where)
[2 2 0 0 1 1] [ True  True  True  True  True  True]
>>> print(queue.labels)
[2 2 1 1]
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml._arguments import any_axes, array, integers, mask
from jaxdml.types import Array, Refs

__all__ = ["Memory", "enqueue", "extend", "init", "refs"]


class Memory(NamedTuple):
  """A queue of M embeddings; new ones overwrite the oldest."""

  embeddings: Array  # [M, d], without gradient
  labels: Array  # [M] int32, int64 under jax_enable_x64
  ids: Array  # [M] likewise, which example a slot holds, as `Refs.ids`; -1 - slot for none given
  cursor: Array  # int32, the slot written next: the oldest once the queue is full
  filled: Array  # int32, how many slots hold something: those below it


def _integer() -> jnp.dtype:
  """The widest integer that JAX keeps as it is set up."""
  return jax.dtypes.canonicalize_dtype(jnp.int64)


def _unknown_ids(size: int) -> Array:
  """Ids that no anchor has: anchors count from 0."""
  return -1 - jnp.arange(size, dtype=_integer())


def init(size: int, dim: int, dtype: jnp.dtype = jnp.float32) -> Memory:
  """An empty queue.

  It holds `size` embeddings [M, d] in `dtype`: bfloat16 halves it, arithmetic stays float32.

  Raises:
    ValueError: `size` is not in 1..2^30 or `dim` below 1.
    TypeError: `dtype` is not floating point.
  """
  if not 1 <= size <= 2**30:  # slots are counted in int32, with room for a batch
    raise ValueError(f"size must be 1 to 2^30 embeddings; got {size}")
  if dim < 1:
    raise ValueError(f"dim must be at least 1; got {dim}")
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(f"dtype must be floating point; got {jnp.dtype(dtype)}")
  embeddings, labels = jnp.zeros((size, dim), dtype), jnp.zeros(size, _integer())
  return Memory(embeddings, labels, _unknown_ids(size), jnp.int32(0), jnp.int32(0))


def _check_batch(memory: Memory, embeddings, labels, ids, where) -> None:
  dim = memory.embeddings.shape[1]
  if embeddings.ndim != 2 or embeddings.shape[1] != dim:
    raise ValueError(
      f"embeddings must be [n, {dim}], the memory's dimension; got shape {embeddings.shape}"
    )
  n = embeddings.shape[0]
  for name, x in (("labels", labels), ("ids", ids), ("where", where)):
    if x is not None and x.shape != (n,):
      raise ValueError(f"{name} must be [{n}], one for each embedding; got shape {x.shape}")
  for name, x, kept in (("labels", labels, memory.labels), ("ids", ids, memory.ids)):
    if x is not None and not np.can_cast(x.dtype, kept.dtype):
      raise TypeError(f"{name} must be integers that {kept.dtype} holds; got {x.dtype}")


@any_axes
def enqueue(
  memory: Memory,
  embeddings: Array,
  labels: Array,
  *,
  ids: Array | None = None,
  where: Array | None = None,
  axis_name: str | None = None,
) -> Memory:
  """The memory with a batch at its end, in batch order; the oldest embeddings make room.

  Call it after the loss has read the memory, or every example meets itself. Of a batch larger than
  the memory the last `size` stay. Carries no gradient.

  Args:
    memory: the queue; donate it to `jax.jit` and the batch is written in place.
    embeddings: [n, d].
    labels: [n] int.
    ids: [n] int of at least 0: the record's number in the data set, not its slot in the batch. An
      anchor with that id is never compared with it. Without ids, an older embedding of the same
      image is a positive like any other.
    where: [n] bool; a masked example is not stored, whatever it holds.
    axis_name: mapped axis; all devices' batches are stored, in device order: all have one queue.

  Raises:
    ValueError: shapes that do not fit the memory or each other.
    TypeError: labels or ids that are not integers, or wider than the memory's; where not bool.
  """
  embeddings, labels = array("embeddings", embeddings), integers("labels", labels)
  ids, where = integers("ids", ids), mask("where", where)
  _check_batch(memory, embeddings, labels, ids, where)
  if where is None:
    where = jnp.ones(labels.shape, bool)
  batch = jax.lax.stop_gradient((embeddings, labels, ids, where))
  if axis_name is not None:
    batch = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), batch)
  embeddings, labels, ids, where = batch
  size, count = memory.labels.shape[0], jnp.sum(where, dtype=jnp.int32)
  rank = jnp.cumsum(where, dtype=jnp.int32) - 1
  slot = (memory.cursor + rank) % size
  stored = where & (rank >= count - size)
  at = jnp.where(stored, slot, size)
  write = lambda old, new: old.at[at].set(new.astype(old.dtype), mode="drop")
  return Memory(
    write(memory.embeddings, embeddings),
    write(memory.labels, labels),
    write(memory.ids, -1 - slot if ids is None else ids),
    (memory.cursor + count) % size,
    jnp.minimum(memory.filled + count, size),
  )


def refs(memory: Memory, *, enabled: Array | bool = True) -> Refs:
  """The memory as references [M, d], without gradient; empty slots are masked.

  Pass the anchors' `ids` to the loss with them. `enabled` is a bool and may be traced; False masks
  every slot (warm-up: the embeddings still drift).
  """
  where = (jnp.arange(memory.labels.shape[0], dtype=jnp.int32) < memory.filled) & enabled
  return jax.lax.stop_gradient(Refs(memory.embeddings, memory.labels, where, memory.ids))


@any_axes
def extend(given: Refs, memory: Memory, *, enabled: Array | bool = True) -> Refs:
  """References followed by the memory, [m + M, d]; gradients reach the given ones alone.

  `given` is shared [m, d], the batch on one device or gathered from all; `memory` the queue before
  this batch is enqueued; `enabled` as in `refs`. References without ids get ids that no anchor has.
  Pass the anchors' `ids` to the loss with them.

  Raises:
    ValueError: `given` is private to each anchor (the triplet layout), or of another dimension.
  """
  if given.embeddings.ndim != 2:
    raise ValueError(
      "a memory is shared by all anchors: it extends references [m, d] (the layouts all_pairs and "
      f"npair), not private ones; got shape {given.embeddings.shape}"
    )
  (m, dim), size = given.embeddings.shape, memory.labels.shape[0]
  if dim != memory.embeddings.shape[1]:
    raise ValueError(
      f"the memory holds embeddings of dimension {memory.embeddings.shape[1]}; "
      f"got references of dimension {dim}"
    )
  kept = refs(memory, enabled=enabled)
  # Spelled out: concatenate would take the memory's precision for a batch of weak type.
  dtype = jnp.promote_types(given.embeddings.dtype, kept.embeddings.dtype)
  batch = Refs(
    given.embeddings.astype(dtype),
    given.labels,
    jnp.ones(m, bool) if given.where is None else given.where,
    _unknown_ids(size + m)[size:] if given.ids is None else given.ids,
  )
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, kept)
