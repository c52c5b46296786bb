"""How JAX's operations are written as ONNX nodes, one method an operation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["ELEMENTWISE", "Rules", "UnsupportedError", "Value"]

_END = np.iinfo(np.int64).max
ELEMENTWISE = {
  "abs": "Abs", "add": "Add", "and": "And", "ceil": "Ceil", "div": "Div", "eq": "Equal",
  "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
  "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "max": "Max",
  "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow",
  "sign": "Sign", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
"""JAX's name -> ONNX's, of what broadcasts and has no attributes."""


class UnsupportedError(ValueError):
  """The function has an operation that is not written as ONNX; the message names it."""


class Value(NamedTuple):
  """A tensor of the graph.

  Attributes:
    name: in the graph.
    shape: it has. It may have 1 where JAX's value is broadcast: ONNX broadcasts by itself.
  """

  name: str
  shape: tuple[Any, ...]


class Rules:
  """Nodes and constants written so far; the method `_NAME` writes JAX's operation NAME.

  Values are NumPy arrays where they are known now, or `Value`. A rule gets its operands, `out`, the
  shape and dtype of the result, and the operation's parameters.
  """

  def __init__(self):
    self.nodes: list[Any] = []
    self.initializers: list[Any] = []

  def node(
    self, op: str, *ins: Any, output: str | None = None, shape: Any = None, **attributes: Any
  ):
    """Writes one node; without `shape` its result has the broadcast shape of `ins`."""
    from onnx import helper

    if shape is None:
      shape = _broadcast([x.shape for x in ins])
    output = output or f"v{len(self.nodes)}"
    names = [self._name(x) for x in ins]
    self.nodes.append(helper.make_node(op, names, [output], **attributes))
    return Value(output, tuple(shape))

  def _name(self, x: Any) -> str:
    from onnx import numpy_helper

    if isinstance(x, Value):
      return x.name
    name = f"c{len(self.initializers)}"
    self.initializers.append(
      numpy_helper.from_array(np.ascontiguousarray(x).reshape(x.shape), name)
    )
    return name

  def full(self, x: Any, shape: tuple[Any, ...]) -> Any:
    """x in the shape that JAX's value has."""
    if tuple(x.shape) == tuple(shape):
      return x
    if all(isinstance(size, int) for size in shape):
      sizes = np.int64(shape)
    else:
      batch = self.node("Shape", Value("images", (1,)), shape=(1,), start=0, end=1)
      parts = [np.int64([s]) if isinstance(s, int) else batch for s in shape]
      sizes = self.node("Concat", *parts, shape=(len(shape),), axis=0)
    return self.node("Expand", x, sizes, shape=shape)

  def _reshape(self, x: Any, *, out: Any, **_: Any) -> Any:
    if isinstance(x, np.ndarray):
      return x.reshape(out.shape)
    sizes = [size if isinstance(size, int) else -1 for size in out.shape]
    return self.node("Reshape", x, np.int64(sizes), shape=out.shape)

  _squeeze = _expand_dims = _reshape

  def _broadcast_in_dim(self, x: Any, *, out: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    sizes = [1] * len(out.shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
      sizes[axis] = size
    if tuple(sizes) == tuple(x.shape):
      return x
    return self._reshape(x, out=jax.ShapeDtypeStruct(tuple(sizes), out.dtype))

  def _transpose(self, x: Any, *, permutation: Any, **_: Any) -> Any:
    return self._permuted(x, permutation)

  def _permuted(self, x: Any, order: Any) -> Any:
    if isinstance(x, np.ndarray):
      return x.transpose(order)
    shape = [x.shape[axis] for axis in order]
    return self.node("Transpose", x, shape=shape, perm=[int(axis) for axis in order])

  def _convert_element_type(self, x: Any, *, out: Any, **_: Any) -> Any:
    from onnx import helper

    if np.dtype(out.dtype).name == "bfloat16":
      raise UnsupportedError("ONNX: bfloat16, which its CPU runtimes do not compute in")
    return self.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)))

  def _copy(self, x: Any, **_: Any) -> Any:
    return x

  _stop_gradient = _copy

  def _square(self, x: Any, **_: Any) -> Any:
    return self.node("Mul", x, x)

  def _integer_pow(self, x: Any, *, out: Any, y: int, **_: Any) -> Any:
    return self.node("Pow", x, np.asarray(y, out.dtype))

  def _rsqrt(self, x: Any, **_: Any) -> Any:
    return self.node("Reciprocal", self.node("Sqrt", x))

  def _erfc(self, x: Any, *, out: Any, **_: Any) -> Any:
    return self.node("Sub", np.asarray(1, out.dtype), self.node("Erf", x))

  def _ne(self, x: Any, y: Any, **_: Any) -> Any:
    return self.node("Not", self.node("Equal", x, y))

  def _clamp(self, low: Any, x: Any, high: Any, **_: Any) -> Any:
    return self.node("Min", self.node("Max", x, low), high)

  def _select_n(self, which: Any, if_false: Any, if_true: Any, **_: Any) -> Any:
    return self.node("Where", which, if_true, if_false)

  def _concatenate(self, *parts: Any, out: Any, dimension: int, **_: Any) -> Any:
    return self.node("Concat", *parts, shape=out.shape, axis=dimension)

  def _slice(
    self, x: Any, *, out: Any, start_indices: Any, limit_indices: Any, strides: Any
  ) -> Any:
    ends = [limit if isinstance(limit, int) else _END for limit in limit_indices]
    steps = strides or [1] * len(ends)
    axes = np.arange(len(ends))
    return self.node(
      "Slice", x, np.int64(start_indices), np.int64(ends), axes, np.int64(steps), shape=out.shape
    )

  def _gather(
    self, x: Any, indices: Any, *, out: Any, dimension_numbers: Any, slice_sizes: Any, **_: Any
  ) -> Any:
    """Indexing by constants where the batch is open: x[:, 0], x[:, 1:, 0], x[..., ::-1]."""
    axes, extra = dimension_numbers.start_index_map, len(indices.shape) - 1
    collapsed, offsets = dimension_numbers.collapsed_slice_dims, dimension_numbers.offset_dims
    sizes = enumerate(zip(slice_sizes, x.shape, strict=True))
    whole = all(n == m for i, (n, m) in sizes if i not in axes)
    rest = [i for i in range(len(out.shape)) if not axes[0] <= i < axes[0] + extra]
    if whole and isinstance(indices, np.ndarray) and list(offsets) == rest:
      if extra == 0:
        ends = indices + [slice_sizes[axis] for axis in axes]
        shape = [
          n if i in axes else m for i, (n, m) in enumerate(zip(slice_sizes, x.shape, strict=True))
        ]
        x = self.node("Slice", x, np.int64(indices), np.int64(ends), np.int64(axes), shape=shape)
        return self._reshape(x, out=out) if collapsed else x
      if axes == collapsed and len(axes) == 1:
        return self.node("Gather", x, np.int64(indices[..., 0]), shape=out.shape, axis=axes[0])
    raise UnsupportedError("ONNX: there is no rule for indexing by several arrays, or unknown ones")

  def _rev(self, x: Any, *, out: Any, dimensions: Any) -> Any:
    count = len(dimensions)
    last, before_first = np.full(count, -1), np.full(count, -_END)
    steps = np.full(count, -1)
    return self.node("Slice", x, last, before_first, np.int64(dimensions), steps, shape=out.shape)

  def _pad(self, x: Any, value: Any, *, out: Any, padding_config: Any) -> Any:
    low, high, interior = zip(*padding_config, strict=True)
    if any(interior):
      raise UnsupportedError("ONNX: there is no rule for padding between elements")
    return self.node("Pad", x, np.int64([*low, *high]), value, shape=out.shape)

  def _reduced(self, op: str, x: Any, out: Any, axes: Any) -> Any:
    return self.node(op, x, np.int64(axes), shape=out.shape, keepdims=0)

  def _reduce_sum(self, x: Any, *, out: Any, axes: Any, **_: Any) -> Any:
    return self._reduced("ReduceSum", x, out, axes)

  def _reduce_max(self, x: Any, *, out: Any, axes: Any, **_: Any) -> Any:
    return self._reduced("ReduceMax", x, out, axes)

  def _dot_general(self, x: Any, y: Any, *, out: Any, dimension_numbers: Any, **_: Any) -> Any:
    (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
    if (tuple(x_sum), tuple(y_sum)) == ((len(x.shape) - 1,), (0,)) and len(y.shape) == 2:
      return self.node("MatMul", x, y, shape=out.shape)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    ours, theirs = [next(letters) for _ in x.shape], [next(letters) for _ in y.shape]
    for i, j in zip((*x_sum, *x_batch), (*y_sum, *y_batch), strict=True):
      theirs[j] = ours[i]
    result = [ours[i] for i in x_batch]
    result += [a for i, a in enumerate(ours) if i not in (*x_sum, *x_batch)]
    result += [a for j, a in enumerate(theirs) if j not in (*y_sum, *y_batch)]
    equation = f"{''.join(ours)},{''.join(theirs)}->{''.join(result)}"
    return self.node("Einsum", x, y, shape=out.shape, equation=equation)

  def _conv_general_dilated(
    self, x: Any, kernel: Any, *, out: Any, window_strides: Any, padding: Any, lhs_dilation: Any,
    rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int,
    **_: Any,
  ) -> Any:  # fmt: skip
    if batch_group_count != 1 or any(d != 1 for d in lhs_dilation):
      raise UnsupportedError("ONNX: there is no rule for transposed or batch-grouped convolutions")
    order = dimension_numbers.out_spec
    y = self.node(
      "Conv",
      self._permuted(x, dimension_numbers.lhs_spec),
      self._permuted(kernel, dimension_numbers.rhs_spec),
      shape=[out.shape[axis] for axis in order],
      strides=list(window_strides),
      pads=[low for low, _ in padding] + [high for _, high in padding],
      dilations=list(rhs_dilation),
      group=feature_group_count,
    )
    return self._permuted(y, np.argsort(order))

  def _pooled(self, op: str, x: Any, params: dict[str, Any], out: Any, **attributes: Any) -> Any:
    """Pooling of a 4-D x over any two of its axes: ONNX knows the last two."""
    window, strides = params["window_dimensions"], params["window_strides"]
    low, high = zip(*params["padding"], strict=True)
    plain = (
      w == s == 1 and p == (0, 0)
      for w, s, p in zip(window, strides, params["padding"], strict=True)
    )
    # The axes that nothing happens to come first.
    order = sorted(range(len(window)), key=lambda axis, idle=list(plain): not idle[axis])
    dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    if len(window) != 4 or any(window[axis] != 1 for axis in order[:2]) or dilated:
      raise UnsupportedError("ONNX: there is no rule for windows over more than two axes of four")
    y = self.node(
      op,
      self._permuted(x, order),
      shape=[out.shape[axis] for axis in order],
      kernel_shape=[window[axis] for axis in order[2:]],
      strides=[strides[axis] for axis in order[2:]],
      pads=[side[axis] for side in (low, high) for axis in order[2:]],
      **attributes,
    )
    return self._permuted(y, np.argsort(order))

  def _reduce_window_max(self, x: Any, *, out: Any, **params: Any) -> Any:
    return self._pooled("MaxPool", x, params, out)

  def _reduce_window_sum(self, x: Any, *, out: Any, **params: Any) -> Any:
    mean = self._pooled("AveragePool", x, params, out, count_include_pad=1)
    return self.node("Mul", mean, np.asarray(np.prod(params["window_dimensions"]), out.dtype))


def _broadcast(shapes: list[tuple[Any, ...]]) -> tuple[Any, ...]:
  """NumPy's rule, for sizes that may be symbolic."""
  rank = max(map(len, shapes))
  columns = zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True)
  return tuple(
    next((s for s in sizes if not (isinstance(s, int) and s == 1)), 1) for sizes in columns
  )
