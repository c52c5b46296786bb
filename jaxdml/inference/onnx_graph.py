"""From a JAX function to an ONNX graph: the operations that encoders are made of, and no others.

The function is traced to a jaxpr and each operation written as ONNX's. What depends on constants
alone is computed now; of code chosen by platform the plain form is taken, not the one for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from jaxdml.inference.onnx_rules import ELEMENTWISE, Rules, UnsupportedError, Value

__all__ = ["convert"]

OPSET, IR_VERSION = 18, 10  # of 2023, which every current runtime reads
_CALLS = {
  "jit",
  "pjit",
  "closed_call",
  "custom_jvp_call",
  "custom_vjp_call",
  "checkpoint",
  "remat2",
}


def convert(
  function: Callable[[Any], Any], shape: tuple[int | None, ...], dtype: Any, *, name: str
) -> Any:
  """Returns function(x) as an `onnx.ModelProto` with the input "images", the output "embeddings".

  Args:
    function: of one array to one array.
    shape: of the input; None as its first size leaves the batch open.
    dtype: of the input.
    name: of the graph.

  Raises:
    UnsupportedError: an operation that this does not know.
    ImportError: the package onnx is not installed.
  """
  from onnx import checker, helper

  first = jax.export.symbolic_shape("batch")[0] if shape[0] is None else shape[0]
  spec = jax.ShapeDtypeStruct((first, *shape[1:]), dtype)
  closed = jax.make_jaxpr(function)(spec)
  graph = _Graph()
  (result,) = graph.run(closed.jaxpr, closed.consts, [Value("images", spec.shape)])
  graph.node("Identity", graph.full(result, closed.out_avals[0].shape), output="embeddings")
  names = lambda sizes: [s if isinstance(s, int) else "batch" for s in sizes]
  info = lambda name, aval: helper.make_tensor_value_info(
    name, helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype)), names(aval.shape)
  )
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      name,
      [info("images", spec)],
      [info("embeddings", closed.out_avals[0])],
      graph.initializers,
    ),
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=IR_VERSION,
    producer_name="jaxdml",
  )
  checker.check_model(model, full_check=True)
  return model


class _Graph(Rules):
  """Goes through a jaxpr, and through those that it calls."""

  def run(self, jaxpr: Any, consts: Any, arguments: list[Any]) -> list[Any]:
    """Writes a jaxpr; returns its results."""
    known = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))
    read = lambda v: np.asarray(v.val) if isinstance(v, jex.Literal) else known[v]
    for equation in jaxpr.eqns:
      outs = self._equation(equation, [read(v) for v in equation.invars])
      known |= dict(zip(equation.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]

  def _equation(self, equation: Any, ins: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":
      # The branch for no platform in particular.
      return [np.asarray([p is None for p in params["platforms"]].index(True))]
    if name == "cond" and isinstance(ins[0], np.ndarray):
      branch = params["branches"][int(ins[0])]
      return self.run(branch.jaxpr, branch.consts, ins[1:])
    if name in _CALLS:
      inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
      jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
      return self.run(jaxpr, consts, ins)
    out = equation.outvars[0].aval
    fixed = all(isinstance(size, int) for size in out.shape)
    if fixed and all(isinstance(x, np.ndarray) for x in ins):
      results = equation.primitive.bind(*ins, **params)
      return [
        np.asarray(x) for x in (results if equation.primitive.multiple_results else [results])
      ]
    if name in ELEMENTWISE:
      return [self.node(ELEMENTWISE[name], *ins)]
    writer = getattr(self, f"_{name}", None)
    if writer is None:
      raise UnsupportedError(f"ONNX: there is no rule for JAX's {name!r}")
    shapes = [v.aval.shape for v in equation.invars]
    return [writer(*(self.full(x, s) for x, s in zip(ins, shapes, strict=True)), out=out, **params)]
