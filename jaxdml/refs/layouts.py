"""Splits of a batch into anchors and references: all against all, N-pair, or sampled triplets.

A layout maps (embeddings [n, d], labels [n], axis_name) to (anchors, labels, ids, Refs), the
arguments of any loss. Under `axis_name` the references are those of every device. Anchors are
numbered by their slots, unless `ids` [n] says which examples the batch holds (a cross-batch memory
needs that to know an older embedding of the same image).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdml._arguments import any_axes
from jaxdml.types import Array, Refs

Split = tuple[Array, Array, Array, Refs]
"""(anchors, their labels, their ids, references)."""

Layout = Callable[..., Split]
"""(embeddings [n, d], labels [n], axis_name=None, *, ids=None) -> `Split`."""


def gather_ids(count: int, axis_name: str) -> Array:
  """Ids [count] of this device's examples: their slots in the global batch."""
  return jax.lax.axis_index(axis_name) * count + jnp.arange(count, dtype=jnp.int32)


def gather(
  embeddings: Array,
  labels: Array,
  axis_name: str,
  *,
  ids: Array | None = None,
  where: Array | None = None,
) -> Refs:
  """The embeddings of all devices as Refs, in device order; gradients flow back to their device.

  Call it inside pmap, shard_map or vmap with `axis_name`, pass the result as `refs` together with
  `ids` (default: `gather_ids`), reduce with the same `axis_name`, and psum the gradients of the
  parameters: then N devices with n examples each equal one device with N n.

  Args:
    embeddings: [n, d] of this device.
    labels: [n].
    axis_name: the mapped axis.
    ids: [n], equal id means the same example.
    where: [n] bool, the example exists.

  Returns:
    Refs of [N n, d].
  """
  if ids is None:
    ids = gather_ids(embeddings.shape[0], axis_name)
  here = Refs(embeddings, labels, where, ids)  # None is no leaf
  return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), here)


def all_pairs(embeddings, labels, axis_name=None, *, ids=None) -> Split:
  """Every example is an anchor, every other example a reference."""
  ids = _slots(embeddings, axis_name) if ids is None else ids
  return embeddings, labels, ids, _references(embeddings, labels, ids, axis_name)


@any_axes
def npair(embeddings, labels, axis_name=None, *, ids=None) -> Split:
  """Batches a0 p0 a1 p1 ...: first images are anchors, second ones references (Sohn, NIPS 2016).

  Raises:
    ValueError: if n is odd.
  """
  _check_multiple(embeddings, 2, "npair", "a0 p0 a1 p1 ...")
  (anchors, positives), (labels, others) = _columns(embeddings, 2), _columns(labels, 2)
  if ids is None:  # slots number the anchors alone: then no reference has an id
    refs = _references(positives, others, None, axis_name)
    return anchors, labels, _slots(anchors, axis_name), refs._replace(ids=None)
  ids, of_others = _columns(ids, 2)
  return anchors, labels, ids, _references(positives, others, of_others, axis_name)


@any_axes
def triplet(embeddings, labels, axis_name=None, *, ids=None) -> Split:
  """Batches a0 p0 n0 a1 p1 n1 ...: each anchor has its own positive and negative, [n/3, 2, d].

  Nothing crosses devices, whatever `axis_name`.

  Raises:
    ValueError: if n is not a multiple of 3.
  """
  _check_multiple(embeddings, 3, "triplet", "a0 p0 n0 a1 p1 n1 ...")
  fields = [None if x is None else _columns(x, 3) for x in (embeddings, labels, ids)]
  (anchors, labels, ids), (others, of_others, other_ids) = (
    [None if x is None else part(x) for x in fields]
    for part in (lambda x: x[0], lambda x: jnp.stack(x[1:], axis=1))
  )
  ids = _slots(anchors, axis_name) if ids is None else ids
  return anchors, labels, ids, Refs(others, of_others, None, other_ids)


def _columns(x: Array, k: int) -> list[Array]:
  """x[i::k] for each i.

  Not sliced with a stride: XLA's partitioner takes the gradient of that wrongly where a sharded
  batch becomes whole on every device (jax 0.10.2).
  """
  x = x.reshape(-1, k, *x.shape[1:])
  return [x[:, i] for i in range(k)]


def _slots(anchors: Array, axis_name: str | None) -> Array:
  """Each anchor's place among the anchors of all devices."""
  n = anchors.shape[0]
  return jnp.arange(n, dtype=jnp.int32) if axis_name is None else gather_ids(n, axis_name)


def _references(embeddings: Array, labels: Array, ids: Array | None, axis_name) -> Refs:
  """References of this device, or of all under `axis_name`."""
  if axis_name is None:
    return Refs(embeddings, labels, None, ids)
  return gather(embeddings, labels, axis_name, ids=ids)


def _check_multiple(embeddings: Array, k: int, name: str, order: str) -> None:
  if embeddings.shape[0] % k:
    raise ValueError(
      f"the {name} layout needs batches of {order}, a multiple of {k} on each device; "
      f"got {embeddings.shape[0]} embeddings"
    )


LAYOUTS: dict[str, Layout] = {fn.__name__: fn for fn in (all_pairs, npair, triplet)}
"""Name -> layout, for `create` and configs."""


def create(name: str) -> Layout:
  """The layout of that name.

  Raises:
    ValueError: for an unknown name, listing the valid ones.
  """
  if name not in LAYOUTS:
    raise ValueError(f"unknown layout {name!r}; valid names: {', '.join(LAYOUTS)}")
  return LAYOUTS[name]
