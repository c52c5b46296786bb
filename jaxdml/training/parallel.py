"""Data parallelism: the only file that knows pmap and shard_map.

A step is a plain per-device function with collectives over AXIS. Here it is compiled for all
devices, the state replicated, the batch split in contiguous slices.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml.types import PyTree

AXIS = "batch"


WAYS = ("pmap", "shard_map")
"""What `compile_step` may compile a step by."""


def compile_step(step: Callable[[Any, Any], Any], way: str = "pmap") -> Callable[[Any, Any], Any]:
  """step(state, batch) -> (state, metrics) on all devices; the old state's memory is reused.

  Both ways take and give arrays [devices, ...]; "shard_map" those of one host.
  """
  if way == "pmap":
    return jax.pmap(step, axis_name=AXIS, donate_argnums=0)

  def of_a_device(state: Any, batch: Any) -> Any:
    results = step(*jax.tree.map(lambda x: x[0], (state, batch)))
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), results)

  spec = jax.sharding.PartitionSpec(AXIS)
  # Without the check, gradients are each device's own until the step sums them, as under pmap.
  mapped = jax.shard_map(
    of_a_device, mesh=_local_mesh(), in_specs=spec, out_specs=spec, check_vma=False
  )
  return jax.jit(mapped, donate_argnums=0)


def trace_step(step: Callable[[Any, Any], Any], state: PyTree, batch: PyTree) -> PyTree:
  """Traces what `compile_step` compiles, without compiling it.

  Takes shapes and dtypes of one device, gives those of (state, metrics) with the devices in front.
  """
  count = jax.local_device_count()
  stack = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
  return jax.eval_shape(jax.pmap(step, axis_name=AXIS), *jax.tree.map(stack, (state, batch)))


def compile_embed(embed: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
  """pmap of embed(replicated variables, images) -> embeddings."""
  return jax.pmap(embed, axis_name=AXIS)


def compile_local(embed: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
  """embed(variables, images) over the devices of this host alone, whatever other hosts do.

  It takes variables as `replicate_local` puts them, and images [n, ...], n a multiple of the local
  devices; without collectives.
  """
  mesh = _local_mesh()
  whole, sliced = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
  mapped = jax.shard_map(
    embed, mesh=mesh, in_specs=(whole, sliced), out_specs=sliced, check_vma=False
  )
  return jax.jit(mapped)


def replicate_local(tree: PyTree) -> PyTree:
  """The tree on each local device, as `compile_local` takes it."""
  whole = jax.sharding.PartitionSpec()
  return jax.device_put(tree, jax.sharding.NamedSharding(_local_mesh(), whole))


def replicate(tree: PyTree) -> PyTree:
  """A copy of the tree on each local device, stacked on a new leading axis."""
  count = jax.local_device_count()
  sharding = _one_slice_a_device()

  def copy(x):
    x = np.asarray(x)
    return jax.device_put(np.broadcast_to(x, (count, *x.shape)), sharding)

  return jax.tree.map(copy, tree)


def _one_slice_a_device() -> jax.sharding.NamedSharding:
  """Placement of arrays [local devices, ...], as pmap takes them."""
  return jax.sharding.NamedSharding(_local_mesh(), jax.sharding.PartitionSpec(AXIS))


def _local_mesh() -> jax.sharding.Mesh:
  return jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))


def prefetch(batches: Iterable[PyTree], size: int = 2) -> Iterator[PyTree]:
  """Yields batches [n, ...] of this host split over its devices, where they are put ahead of time.

  While the step that got one batch runs, the next is on the devices already and the one after it is
  being copied: at most `size` wait there. What the source raises is raised after the batches before
  it.
  """
  sharding, source = _one_slice_a_device(), iter(batches)
  ready: collections.deque[PyTree] = collections.deque()
  error: Exception | None = None
  while True:
    while error is None and len(ready) < size:
      try:
        ready.append(jax.device_put(split(next(source)), sharding))
      except Exception as e:  # StopIteration, too.
        error = e
    if ready:
      yield ready.popleft()
    elif isinstance(error, StopIteration):
      return
    else:
      raise error


def unreplicate(tree: PyTree) -> PyTree:
  """The first device's copy, as NumPy arrays on the host."""
  return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def split(batch: PyTree) -> PyTree:
  """[n, ...] arrays of this host as [devices, n / devices, ...]."""
  count = jax.local_device_count()
  return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
