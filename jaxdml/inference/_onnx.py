"""From a JAX function to an ONNX graph: the operations that encoders are made of, and no others.

The function is traced to a jaxpr and each operation written as ONNX's by its rule in `RULES`. What
depends on constants alone is computed now; of code chosen by platform the plain form is taken, not
the one for CPUs. jax2onnx is no way out yet: docs/export.md says what it cannot.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from jaxdml.errors import JaxdmlError
from jaxdml.inference._onnx_graph import Graph, Value, order_of

OPSET, IR_VERSION = 18, 10  # of 2023, which every current runtime reads
_END = np.iinfo(np.int64).max
_CALLS = {
  "jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2",
}  # fmt: skip


class UnsupportedError(JaxdmlError, ValueError):
  """The function has an operation that is not written as ONNX; the message names it."""


def convert(
  function: Callable[[Any], Any], shape: tuple[int | None, ...], dtype: Any, *, name: str
) -> Any:
  """Returns function(x) as an `onnx.ModelProto` with the input "images", the output "embeddings".

  `shape` and `dtype` are the input's; None as its first size leaves the batch open.

  Raises:
    UnsupportedError: an operation that this does not know.
    ImportError: the package onnx is not installed.
  """
  from onnx import checker, helper

  first = jax.export.symbolic_shape("batch")[0] if shape[0] is None else shape[0]
  spec = jax.ShapeDtypeStruct((first, *shape[1:]), dtype)
  closed = jax.make_jaxpr(function)(spec)
  graph = Graph()
  (result,) = _run(graph, closed.jaxpr, closed.consts, [Value("images", spec.shape)])
  graph.node("Identity", graph.full(result, closed.out_avals[0].shape), output="embeddings")
  nodes, constants = graph.protos()
  names = lambda sizes: [s if isinstance(s, int) else "batch" for s in sizes]
  info = lambda name, aval: helper.make_tensor_value_info(
    name, helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype)), names(aval.shape)
  )
  ends = [info("images", spec)], [info("embeddings", closed.out_avals[0])]
  model = helper.make_model(
    helper.make_graph(nodes, name, *ends, constants), ir_version=IR_VERSION,
    opset_imports=[helper.make_opsetid("", OPSET)], producer_name="jaxdml",
  )  # fmt: skip
  checker.check_model(model, full_check=True)
  return model


def _run(g: Graph, jaxpr: Any, consts: Any, arguments: list[Any]) -> list[Any]:
  """Writes a jaxpr and those that it calls; returns its results."""
  known = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
  known |= dict(zip(jaxpr.invars, arguments, strict=True))
  read = lambda v: np.asarray(v.val, v.aval.dtype) if isinstance(v, jex.Literal) else known[v]
  for equation in jaxpr.eqns:
    outs = _equation(g, equation, [read(v) for v in equation.invars])
    known |= dict(zip(equation.outvars, outs, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _equation(g: Graph, equation: Any, ins: list[Any]) -> list[Any]:
  name, params = equation.primitive.name, equation.params
  if name == "platform_index":
    # The branch for no platform in particular.
    return [np.asarray([p is None for p in params["platforms"]].index(True))]
  if name == "cond" and isinstance(ins[0], np.ndarray):
    branch = params["branches"][int(ins[0])]
    return _run(g, branch.jaxpr, branch.consts, ins[1:])
  if name in _CALLS:
    inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    return _run(g, jaxpr, consts, ins)
  out = equation.outvars[0].aval
  fixed = all(isinstance(size, int) for size in out.shape)
  if fixed and all(isinstance(x, np.ndarray) for x in ins):
    results = equation.primitive.bind(*ins, **params)
    results = results if equation.primitive.multiple_results else [results]
    return [np.asarray(x) for x in results]
  if name in ELEMENTWISE:
    return [g.elementwise(ELEMENTWISE[name], *ins)]
  if name not in RULES:
    raise UnsupportedError(f"ONNX: there is no rule for JAX's {name!r}")
  full = [g.full(x, v.aval.shape) for x, v in zip(ins, equation.invars, strict=True)]
  return [RULES[name](g, *full, out=out, **params)]


ELEMENTWISE = {
  "abs": "Abs", "add": "Add", "and": "And", "ceil": "Ceil", "div": "Div", "eq": "Equal",
  "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
  "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "mul": "Mul",
  "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sqrt": "Sqrt",
  "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
"""JAX's name -> ONNX's, of what broadcasts and has no attributes."""


# Rules: (graph, operands, out = the result's shape and dtype, the operation's parameters) -> value.


def _reshape(g: Graph, x: Any, *, out: Any, **_: Any) -> Any:
  if isinstance(x, np.ndarray):
    return x.reshape(out.shape)
  sizes = [size if isinstance(size, int) else -1 for size in out.shape]
  return g.node("Reshape", x, np.int64(sizes), shape=out.shape)


def _broadcast_in_dim(g: Graph, x: Any, *, out: Any, broadcast_dimensions: Any, **_: Any) -> Any:
  sizes = [1] * len(out.shape)
  for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
    sizes[axis] = size
  if tuple(sizes) == tuple(x.shape):
    return x
  return _reshape(g, x, out=jax.ShapeDtypeStruct(tuple(sizes), out.dtype))


def _convert_element_type(g: Graph, x: Any, *, out: Any, **_: Any) -> Any:
  from onnx import helper

  if np.dtype(out.dtype).name == "bfloat16":
    raise UnsupportedError("ONNX: bfloat16, which its CPU runtimes do not compute in")
  return g.elementwise("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)))


def _slice(
  g: Graph, x: Any, *, out: Any, start_indices: Any, limit_indices: Any, strides: Any
) -> Any:
  ends = [limit if isinstance(limit, int) else _END for limit in limit_indices]
  steps = strides or [1] * len(ends)
  columns = map(np.int64, (start_indices, ends, order_of(x), steps))
  return g.resized("Slice", x, *columns, shape=out.shape)


def _gather(
  g: Graph, x: Any, indices: Any, *, out: Any, dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Any:
  """Indexing by constants where the batch is open: x[:, 0], x[:, 1:, 0], x[..., ::-1]."""
  axes, extra = dimension_numbers.start_index_map, len(indices.shape) - 1
  collapsed, offsets = dimension_numbers.collapsed_slice_dims, dimension_numbers.offset_dims
  sizes = list(enumerate(zip(slice_sizes, x.shape, strict=True)))
  whole = all(n == m for i, (n, m) in sizes if i not in axes)
  rest = [i for i in range(len(out.shape)) if not axes[0] <= i < axes[0] + extra]
  if whole and isinstance(indices, np.ndarray) and list(offsets) == rest:
    if extra == 0:
      ends = indices + [slice_sizes[axis] for axis in axes]
      shape = [n if i in axes else m for i, (n, m) in sizes]
      columns = map(np.int64, (indices, ends, np.take(order_of(x), axes)))
      x = g.resized("Slice", x, *columns, shape=shape)
      return _reshape(g, x, out=out) if collapsed else x
    if axes == collapsed and len(axes) == 1:
      return g.node("Gather", x, np.int64(indices[..., 0]), shape=out.shape, axis=axes[0])
  raise UnsupportedError("ONNX: there is no rule for indexing by several arrays, or unknown ones")


def _rev(g: Graph, x: Any, *, out: Any, dimensions: Any) -> Any:
  back, before_first = np.full(len(dimensions), -1), np.full(len(dimensions), -_END)
  return g.node("Slice", x, back, before_first, np.int64(dimensions), back, shape=out.shape)


def _pad(g: Graph, x: Any, value: Any, *, out: Any, padding_config: Any) -> Any:
  low, high, interior = zip(*padding_config, strict=True)
  if any(interior):
    raise UnsupportedError("ONNX: there is no rule for padding between elements")
  back = np.argsort(order_of(x))
  pads = np.int64([*np.take(low, back), *np.take(high, back)])
  return g.resized("Pad", x, pads, value, shape=out.shape)


def _reduced(op: str) -> Callable[..., Any]:
  return lambda g, x, *, out, axes, **_: g.along(op, x, axes, shape=out.shape, keepdims=0)


def _dot_general(g: Graph, x: Any, y: Any, *, out: Any, dimension_numbers: Any, **_: Any) -> Any:
  (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
  if (tuple(x_sum), tuple(y_sum)) == ((len(x.shape) - 1,), (0,)) and len(y.shape) == 2:
    return g.node("MatMul", x, y, shape=out.shape)
  letters = iter("abcdefghijklmnopqrstuvwxyz")
  ours, theirs = [next(letters) for _ in x.shape], [next(letters) for _ in y.shape]
  for i, j in zip((*x_sum, *x_batch), (*y_sum, *y_batch), strict=True):
    theirs[j] = ours[i]
  result = [ours[i] for i in x_batch]
  result += [a for i, a in enumerate(ours) if i not in (*x_sum, *x_batch)]
  result += [a for j, a in enumerate(theirs) if j not in (*y_sum, *y_batch)]
  equation = f"{''.join(ours)},{''.join(theirs)}->{''.join(result)}"
  return g.node("Einsum", x, y, shape=out.shape, equation=equation)


def _conv_general_dilated(
  g: Graph, x: Any, kernel: Any, *, out: Any, window_strides: Any, padding: Any, lhs_dilation: Any,
  rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int,
  **_: Any,
) -> Any:  # fmt: skip
  if batch_group_count != 1 or any(d != 1 for d in lhs_dilation):
    raise UnsupportedError("ONNX: there is no rule for transposed or batch-grouped convolutions")
  order = dimension_numbers.out_spec
  x = g.permuted(x, dimension_numbers.lhs_spec)
  kernel = g.permuted(kernel, dimension_numbers.rhs_spec)
  y = g.node(
    "Conv", x, kernel, shape=[out.shape[axis] for axis in order], strides=list(window_strides),
    pads=[low for low, _ in padding] + [high for _, high in padding],
    dilations=list(rhs_dilation), group=feature_group_count,
  )  # fmt: skip
  return g.permuted(y, np.argsort(order))


def _pooled(g: Graph, op: str, x: Any, params: dict[str, Any], out: Any, **attributes: Any) -> Any:
  """Pooling of a 4-D x over any two of its axes: ONNX knows the last two."""
  window, strides = params["window_dimensions"], params["window_strides"]
  low, high = zip(*params["padding"], strict=True)
  plain = (
    w == s == 1 and p == (0, 0) for w, s, p in zip(window, strides, params["padding"], strict=True)
  )
  # The axes that nothing happens to come first.
  order = sorted(range(len(window)), key=lambda axis, idle=list(plain): not idle[axis])
  dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
  if len(window) != 4 or any(window[axis] != 1 for axis in order[:2]) or dilated:
    raise UnsupportedError("ONNX: there is no rule for windows over more than two axes of four")
  y = g.node(
    op, g.permuted(x, order), shape=[out.shape[axis] for axis in order],
    kernel_shape=[window[axis] for axis in order[2:]],
    strides=[strides[axis] for axis in order[2:]],
    pads=[side[axis] for side in (low, high) for axis in order[2:]], **attributes,
  )  # fmt: skip
  return g.permuted(y, np.argsort(order))


def _reduce_window_sum(g: Graph, x: Any, *, out: Any, **params: Any) -> Any:
  mean = _pooled(g, "AveragePool", x, params, out, count_include_pad=1)
  return g.elementwise("Mul", mean, np.asarray(np.prod(params["window_dimensions"]), out.dtype))


def _bound(*ins: Any) -> tuple[Any, Any]:
  """(x, a number) of two operands one of which is one number in every place; else (None, None)."""
  for x, bound in (ins, ins[::-1]):
    if isinstance(bound, np.ndarray) and bound.dtype.kind == "f" and np.unique(bound).size == 1:
      return x, bound.reshape(-1)[:1].reshape(())
  return None, None


def _max(g: Graph, *ins: Any, **_: Any) -> Any:
  x, low = _bound(*ins)
  return g.elementwise("Relu", x) if low == 0 else g.elementwise("Max", *ins)


def _min(g: Graph, *ins: Any, **_: Any) -> Any:
  """Min, or with a bound from below just before it one Clip, as of ReLU6."""
  x, high = _bound(*ins)
  inner = g.nodes.get(x.name) if isinstance(x, Value) else None
  below, low = None, None
  if inner and inner.op == "Relu":
    below, low = inner.ins[0], np.zeros_like(high)
  elif inner and inner.op == "Max":
    below, low = _bound(*inner.ins)
  if not isinstance(below, Value):
    return g.elementwise("Min", *ins)
  return g.permuted(g.node("Clip", below, low, high), order_of(x))


RULES: dict[str, Callable[..., Any]] = {
  "broadcast_in_dim": _broadcast_in_dim,
  "clamp": lambda g, low, x, high, **_: _min(g, _max(g, x, low), high),
  "concatenate": lambda g, *parts, out, dimension, **_: g.concatenated(parts, dimension, out.shape),
  "conv_general_dilated": _conv_general_dilated,
  "convert_element_type": _convert_element_type,
  "dot_general": _dot_general,
  "erfc": lambda g, x, *, out, **_: g.elementwise(
    "Sub", np.asarray(1, out.dtype), g.elementwise("Erf", x)
  ),
  "gather": _gather,
  "integer_pow": lambda g, x, *, out, y, **_: g.elementwise("Pow", x, np.asarray(y, out.dtype)),
  **{"max": _max, "min": _min},
  "ne": lambda g, x, y, **_: g.elementwise("Not", g.elementwise("Equal", x, y)),
  "pad": _pad,
  "reduce_max": _reduced("ReduceMax"),
  "reduce_sum": _reduced("ReduceSum"),
  "reduce_window_max": lambda g, x, *, out, **params: _pooled(g, "MaxPool", x, params, out),
  "reduce_window_sum": _reduce_window_sum,
  "rev": _rev,
  "rsqrt": lambda g, x, **_: g.elementwise("Reciprocal", g.elementwise("Sqrt", x)),
  "select_n": lambda g, which, if_false, if_true, **_: g.elementwise(
    "Where", which, if_true, if_false
  ),
  "slice": _slice,
  "square": lambda g, x, **_: g.elementwise("Mul", x, x),
  "transpose": lambda g, x, *, permutation, **_: g.permuted(x, permutation),
  **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
  # Labels for checkpointing and gradients, which say nothing of the value.
  **dict.fromkeys(("copy", "stop_gradient", "name"), lambda g, x, **_: x),
}
"""JAX's name of an operation -> how it is written."""
