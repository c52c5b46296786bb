"""A graph of ONNX nodes while it is written: lazy transposes, then constants folded into kernels.

JAX's images are [n, h, w, c] and ONNX's convolutions take [n, c, h, w]. A transpose is therefore
not written where it stands: the value remembers in which order its axes lie, elementwise operations
work in that order, and the transpose is written where an operation needs the axes as JAX has them.
Between two convolutions nothing is left of it. What frozen BatchNorm then is, a convolution's
result less a constant, times a constant, plus a constant, goes into the kernel and its bias.
"""

import collections
from typing import Any, NamedTuple

import numpy as np


class Value(NamedTuple):
  """A tensor of the graph. It may have 1 where JAX's value is broadcast: ONNX does so by itself."""

  name: str
  shape: tuple[Any, ...]  # as JAX has it
  order: tuple[int, ...] | None = None  # JAX's axis i is the tensor's axis order[i]; None: axis i


class Node(NamedTuple):
  """One operation, with constants among its `ins` as NumPy arrays."""

  op: str
  ins: list[Any]
  output: str
  attributes: dict[str, Any]


class Graph:
  """Nodes written so far, by their results' names."""

  def __init__(self):
    self.nodes: dict[str, Node] = {}
    self._plain: dict[tuple[str, Any], Value] = {}  # a tensor and an order -> in JAX's

  def node(
    self, op: str, *ins: Any, output: str | None = None, shape: Any = None, **attributes: Any
  ) -> Value:
    """Writes one node; without `shape` its result has the broadcast shape of `ins`."""
    return self._written(op, [self.plain(x) for x in ins], output, shape, attributes)

  def _written(self, op: str, ins: list[Any], output: Any, shape: Any, attributes: Any) -> Value:
    if shape is None:
      shape = _broadcast([x.shape for x in ins])
    output = output or f"v{len(self.nodes)}"
    self.nodes[output] = Node(op, ins, output, attributes)
    return Value(output, tuple(shape))

  def elementwise(self, op: str, *ins: Any, **attributes: Any) -> Value:
    """Likewise, of an operation on each element, in the order that its operands lie in.

    Where they differ, that of the first which no other operation has needed in JAX's already.
    """
    ins = tuple(map(_compact, ins))
    values = [x for x in ins if isinstance(x, Value) and x.order]
    order = next((x.order for x in values if (x.name, x.order) not in self._plain), None)
    if order is None:
      return self.node(op, *ins, **attributes)
    back = np.argsort(order)
    laid = [self.permuted(x, back) if x.shape else x for x in ins]
    return self.permuted(self.node(op, *laid, **attributes), order)

  def resized(self, op: str, x: Any, *parameters: Any, shape: Any) -> Value:
    """Writes what gives x other sizes, in the order that it lies in; so are the parameters."""
    order = order_of(x)
    back = np.argsort(order)
    sizes = [shape[axis] for axis in back]
    return self.permuted(self.node(op, self.permuted(x, back), *parameters, shape=sizes), order)

  def along(self, op: str, x: Any, axes: Any, *, shape: Any, **attributes: Any) -> Value:
    """Writes a reduction of x over `axes`, of a value in another order where these lie last."""
    order = order_of(x)
    last = sorted(order[axis] for axis in axes)
    if [a for i, a in enumerate(order) if i not in axes] + last == [*range(len(order))]:
      x, axes = self.permuted(x, np.argsort(order)), last
    return self.node(op, x, np.int64(axes), shape=shape, **attributes)

  def concatenated(self, parts: tuple[Any, ...], axis: int, shape: Any) -> Value:
    """Writes a concatenation, in the order of all its parts if they lie alike."""
    orders = {order_of(x) for x in parts}
    order = orders.pop() if len(orders) == 1 else tuple(range(len(shape)))
    back = np.argsort(order)
    parts = tuple(self.permuted(x, back) for x in parts)
    shape = [shape[axis] for axis in back]
    return self.permuted(self.node("Concat", *parts, shape=shape, axis=order[axis]), order)

  def full(self, x: Any, shape: tuple[Any, ...]) -> Any:
    """Returns x in the shape that JAX's value has."""
    if tuple(x.shape) == tuple(shape):
      return x
    if all(isinstance(size, int) for size in shape):
      sizes = np.int64(shape)
    else:
      batch = self.node("Shape", Value("images", (1,)), shape=(1,), start=0, end=1)
      parts = [np.int64([s]) if isinstance(s, int) else batch for s in shape]
      sizes = self.node("Concat", *parts, shape=(len(shape),), axis=0)
    return self.node("Expand", x, sizes, shape=shape)

  def permuted(self, x: Any, order: Any) -> Any:
    """Returns x with its axes in another order; writes nothing."""
    if isinstance(x, np.ndarray):
      return x.transpose(order)
    own = order_of(x)
    lies = tuple(int(own[axis]) for axis in order)
    lies = None if lies == tuple(range(len(lies))) else lies
    return Value(x.name, tuple(x.shape[axis] for axis in order), lies)

  def plain(self, x: Any) -> Any:
    """Returns x with its axes as JAX has them; a transpose is written once."""
    if isinstance(x, np.ndarray) or x.order is None:
      return x
    key = (x.name, x.order)
    if key not in self._plain:
      stored = x._replace(order=None)
      self._plain[key] = self._written("Transpose", [stored], None, x.shape, {"perm": x.order})
    return self._plain[key]

  def protos(self) -> tuple[list[Any], list[Any]]:
    """Returns the nodes and constants that the last node's value needs, as ONNX's."""
    from onnx import helper, numpy_helper

    nodes, constants = [], []
    for node in _folded(_live([*self.nodes.values()])):
      names = [
        x.name if isinstance(x, Value) else f"{node.output}_{i}" for i, x in enumerate(node.ins)
      ]
      for name, x in zip(names, node.ins, strict=True):
        if not isinstance(x, Value):
          constants.append(numpy_helper.from_array(np.array(x, order="C"), name))
      nodes.append(helper.make_node(node.op, names, [node.output], **node.attributes))
    return nodes, constants


def order_of(x: Any) -> tuple[int, ...]:
  """The order that x's axes lie in."""
  return getattr(x, "order", None) or tuple(range(len(x.shape)))


def _broadcast(shapes: list[tuple[Any, ...]]) -> tuple[Any, ...]:
  """NumPy's rule, for sizes that may be symbolic."""
  rank = max(map(len, shapes))
  columns = zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True)
  return tuple(
    next((s for s in sizes if not (isinstance(s, int) and s == 1)), 1) for sizes in columns
  )


def _compact(x: Any) -> Any:
  """A constant with 1 for each axis along which nothing changes, as it was before broadcasting."""
  if isinstance(x, np.ndarray):
    for axis in range(x.ndim if x.size else 0):
      first = x.take([0], axis)
      x = first if (x == first).all() else x
  return x


def _live(nodes: list[Node]) -> list[Node]:
  """Those that the last one needs."""
  kept, needed = [], {nodes[-1].output}
  for node in reversed(nodes):
    if node.output in needed:
      kept.append(node)
      needed |= {x.name for x in node.ins if isinstance(x, Value)}
  return kept[::-1]


def _folded(nodes: list[Node]) -> list[Node]:
  """Constants that a convolution's result is shifted and scaled by, as part of the convolution.

  Only where nothing else reads the result, and where they have one value or one a channel.
  """
  uses = collections.Counter(x.name for node in nodes for x in node.ins if isinstance(x, Value))
  convolutions: dict[str, Node] = {}  # by their own names
  affine: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # a convolution -> scale, shift [c]
  alias: dict[str, str] = {}
  renamed = lambda x: x._replace(name=alias.get(x.name, x.name)) if isinstance(x, Value) else x
  kept = []
  for node in nodes:
    node = node._replace(ins=[*map(renamed, node.ins)])
    names = [x.name for x in node.ins if isinstance(x, Value)]
    source = convolutions.get(names[0]) if len(names) == 1 else None
    if source and uses[names[0]] == 1 and (found := _step(node, len(source.ins[1]))):
      scale, shift = affine[source.output]
      factor, term = found
      affine[source.output] = scale * factor, shift * factor + term
      alias[node.output] = source.output
      uses[source.output] = uses[node.output]
      continue
    if node.op == "Conv" and not isinstance(node.ins[1], Value):
      channels = len(node.ins[1])
      convolutions[node.output] = node
      affine[node.output] = np.ones(channels), np.zeros(channels)
    kept.append(node)
  return [_scaled(node, *affine[node.output]) if node.output in affine else node for node in kept]


def _step(node: Node, channels: int) -> tuple[Any, Any] | None:
  """(factor, term) of a node that is x -> factor x + term for each channel; None of another."""
  if node.op not in ("Add", "Sub", "Mul", "Div"):
    return None
  (place,) = [i for i, x in enumerate(node.ins) if not isinstance(x, Value)]
  c = node.ins[place]
  if c.size != 1 and c.shape != (1, channels, 1, 1):
    return None
  c = np.float64(c).reshape(-1)
  if node.op == "Add":
    return 1.0, c
  if node.op == "Mul":
    return c, 0.0
  if node.op == "Sub":
    return (1.0, -c) if place else (-1.0, c)
  return (1 / c, 0.0) if place and (c != 0).all() else None


def _scaled(node: Node, scale: np.ndarray, shift: np.ndarray) -> Node:
  """A convolution whose result is scaled, then shifted."""
  if (scale == 1).all() and not shift.any():
    return node
  x, kernel = node.ins
  wide = np.float64(kernel) * scale.reshape(-1, *[1] * (kernel.ndim - 1))
  return node._replace(ins=[x, wide.astype(kernel.dtype), shift.astype(kernel.dtype)])
