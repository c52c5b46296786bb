"""What a function closes over, made into arguments: `jax.custom_vjp` must see all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxdml.types import Array, PyTree

__all__ = ["hoist", "partition"]


def hoist(fn: Callable, *examples: PyTree) -> tuple[Callable, list[Array]]:
  """(call, captured): call(captured, *args) is fn(*args) that closes over nothing.

  Unlike jax.closure_convert it hoists integers, booleans and keys too: a backward pass traced later
  (inside scan or checkpoint) could not reach them.
  """
  closed, shape = jax.make_jaxpr(fn, return_shape=True)(*examples)
  treedef = jax.tree.structure(shape)

  def call(captured: list[Array], *args: PyTree) -> PyTree:
    run = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, captured))
    return jax.tree.unflatten(treedef, run(*jax.tree.leaves(args)))

  return call, closed.consts


def partition(tree: PyTree) -> tuple[list[Array], list[Array], Callable[[Any, Any], PyTree]]:
  """(leaves with gradients, the others, a function that puts both together again)."""
  leaves, treedef = jax.tree.flatten(tree)
  is_float = [jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves]

  def merge(floats, others) -> PyTree:
    floats, others = iter(floats), iter(others)
    return jax.tree.unflatten(treedef, [next(floats) if f else next(others) for f in is_float])

  floats = [x for x, f in zip(leaves, is_float, strict=True) if f]
  return floats, [x for x, f in zip(leaves, is_float, strict=True) if not f], merge
