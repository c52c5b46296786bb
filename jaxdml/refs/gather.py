"""References gathered from every device, so that mining sees the global batch."""

import jax
import jax.numpy as jnp

from jaxdml.types import Array, Refs


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
