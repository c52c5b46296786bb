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
from jax.experimental import multihost_utils

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
  return jax.jit(_mapped(step, _local_mesh()), donate_argnums=0)


def _mapped(step: Callable[[Any, Any], Any], mesh: jax.sharding.Mesh) -> Callable[[Any, Any], Any]:
  """step(state, batch) on each device of a mesh, of arrays [devices, ...]."""

  def of_a_device(state: Any, batch: Any) -> Any:
    results = step(*jax.tree.map(lambda x: x[0], (state, batch)))
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), results)

  spec = jax.sharding.PartitionSpec(AXIS)
  # Without the check, gradients are each device's own until the step sums them, as under pmap.
  return jax.shard_map(of_a_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def trace_step(step: Callable[[Any, Any], Any], state: PyTree, batch: PyTree) -> PyTree:
  """Traces what `compile_step` compiles, without compiling it.

  Takes shapes and dtypes of one device, gives those of (state, metrics) with the devices in front.
  """
  count = jax.local_device_count()
  stack = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
  return jax.eval_shape(jax.pmap(step, axis_name=AXIS), *jax.tree.map(stack, (state, batch)))


def trace_step_for(
  step: Callable[[Any, Any], Any], state: PyTree, batch: PyTree, mesh: jax.sharding.Mesh
) -> jax.stages.Traced:
  """Traces what `compile_step` compiles for the devices of a mesh, which need not be here.

  Takes shapes and dtypes of one device.
  """
  mapped = jax.jit(_mapped(step, mesh), donate_argnums=0)
  return mapped.trace(*_stacked_on(mesh, (state, batch)))


def trace_embed_for(
  embed: Callable[[Any, Any], Any], variables: PyTree, images: PyTree, mesh: jax.sharding.Mesh
) -> jax.stages.Traced:
  """Traces `compile_local`'s function for the devices of a mesh, with `images` of one device."""
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  copied = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), variables)
  sliced = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
  total = jax.ShapeDtypeStruct(
    (mesh.size * images.shape[0], *images.shape[1:]), images.dtype, sharding=sliced
  )
  return jax.jit(_local(embed, mesh)).trace(copied, total)


def _stacked_on(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
  """Shapes and dtypes of one device as those of all on a mesh."""
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
  stack = lambda x: jax.ShapeDtypeStruct((mesh.size, *x.shape), x.dtype, sharding=sharding)
  return jax.tree.map(stack, tree)


def compile_embed(embed: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
  """pmap of embed(replicated variables, images) -> embeddings, over this host's devices."""
  return jax.pmap(embed, axis_name=AXIS, devices=jax.local_devices())


def gather_hosts(rows: np.ndarray) -> np.ndarray:
  """Rows [n, ...] of all hosts, in their order, on each: n is any number, also 0.

  All hosts call it alike. Other sides of a host without rows may be 0, too.
  """
  if jax.process_count() == 1:
    return rows
  shapes = multihost_utils.process_allgather(np.int32(rows.shape))
  most = shapes.max(axis=0)
  padded = np.zeros(most, rows.dtype)
  if len(rows):
    padded[: len(rows)] = rows
  gathered = multihost_utils.process_allgather(padded)
  return np.concatenate([part[:n] for part, n in zip(gathered, shapes[:, 0], strict=True)])


def compile_local(embed: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
  """embed(variables, images) over the devices of this host alone, whatever other hosts do.

  It takes variables as `replicate_local` puts them, and images [n, ...], n a multiple of the local
  devices; without collectives.
  """
  return jax.jit(_local(embed, _local_mesh()))


def _local(embed: Callable[[Any, Any], Any], mesh: jax.sharding.Mesh) -> Callable[[Any, Any], Any]:
  whole, sliced = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
  return jax.shard_map(
    embed, mesh=mesh, in_specs=(whole, sliced), out_specs=sliced, check_vma=False
  )


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
