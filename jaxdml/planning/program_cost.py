"""Bytes and operations of a compiled program, read from its text and from the traced function.

XLA's own count (`cost_analysis`) counts the body of a loop once, says nothing for a GPU, and takes
on-chip memory for the chip's; so operands are counted here, each loop as often as it runs.
"""

import collections
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "c64": 8, "c128": 16}
_MOVES_NOTHING = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
  "replica-id", "opt-barrier", "add-dependency", "iota",
}  # fmt: skip
_COLLECTIVES = (
  "all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter",
  "collective-broadcast",
)  # fmt: skip
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%(?P<name>[^ ]+) = (?P<shape>.+?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[^ ]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Cost(NamedTuple):
  """Costs of one call of a program on one device."""

  flops: dict[str, float]  # of products, by what they are made of: bfloat16, or float32's precision
  traffic: float  # bytes of operands and results in the device's memory
  collectives: dict[str, tuple[int, float]]  # kind -> how many, bytes of their results


class _Instruction(NamedTuple):
  name: str
  op: str
  shape: str
  operands: tuple[str, ...]
  rest: str  # operands and attributes
  root: bool


def cost_of(compiled: jax.stages.Compiled, traced: Any, platform: str) -> Cost:
  """The cost of a compiled program.

  Args:
    compiled: for any platform.
    traced: the ClosedJaxpr of the function, of one device.
    platform: tpu, cuda or cpu: the branch that the program takes.
  """
  text = compiled.as_text()
  traffic, collectives = traffic_of(text)
  return Cost(flops_of(traced, platform), traffic, collectives)


def traffic_of(text: str) -> tuple[float, dict[str, tuple[int, float]]]:
  """Bytes to and from memory, and collectives, of an optimised HLO module."""
  module = _read(text)
  return module.traffic(module.entry), module.collectives()


class _Module:
  """Computations of a module, and what each costs."""

  def __init__(self, computations: Mapping[str, list[_Instruction]], entry: str):
    self.computations, self.entry = computations, entry
    self.shapes = {i.name: i.shape for body in computations.values() for i in body}
    self.traffic = functools.cache(self._traffic)

  def _traffic(self, name: str) -> float:
    return sum(self._moved(instruction) for instruction in self.computations[name])

  def _moved(self, i: _Instruction) -> float:
    if i.op in _MOVES_NOTHING or i.op.endswith("-done"):
      return 0.0
    if i.op == "while":
      body = _CALLED.search(i.rest[i.rest.index("body=") :])
      return self._trips(i) * self.traffic(body[1]) if body else 0.0
    if i.op == "conditional":
      return max((self.traffic(name) for name in _branches(i.rest)), default=0.0)
    if i.op == "call":
      return sum(self.traffic(name) for name in _CALLED.findall(i.rest))
    if i.op in ("dynamic-slice", "slice", "gather"):
      return 2 * _size(i.shape)
    if i.op in ("dynamic-update-slice", "scatter"):
      return 2 * self._size_of(i.operands[-1 if i.op == "scatter" else 1])
    if i.op == "slice-start":  # Of a large operand a piece, to or from memory on the chip.
      operands = sum(_size(self.shapes.get(o, ""), any_memory=True) for o in i.operands)
      return max(0.0, _size(i.shape, any_memory=True) - operands)
    if i.op.endswith("-start"):  # Its result names its operands again.
      return self._read_by(i) + _size(i.shape) - sum(map(self._size_of, i.operands))
    if i.op == "fusion":
      return self._moved_by_fusion(i)
    return self._read_by(i) + _size(i.shape)

  def _read_by(self, i: _Instruction) -> float:
    return sum(map(self._size_of, i.operands))

  def _size_of(self, name: str) -> float:
    return _size(self.shapes.get(name, ""))

  def _moved_by_fusion(self, i: _Instruction) -> float:
    """A fusion reads of an operand only what it slices out, and writes only what it updates."""
    called = _CALLED.search(i.rest)
    body = self.computations.get(called[1] if called else "", [])
    parameters = {x.name: int(x.rest.split(")")[0]) for x in body if x.op == "parameter"}
    users: dict[str, list[_Instruction]] = collections.defaultdict(list)
    for x in body:
      for operand in x.operands:
        users[operand].append(x)
    total, updated = 0.0, set()
    for x in body:
      if x.op == "dynamic-update-slice" and x.operands[0] in parameters:
        updated.add(x.operands[0])
        total += 2 * self._size_of(x.operands[1])
    for name, index in parameters.items():
      if index >= len(i.operands) or name in updated:
        continue
      whole = self._size_of(i.operands[index])
      cuts = users[name]
      if cuts and all(u.op in ("dynamic-slice", "slice", "gather") for u in cuts):
        whole = min(whole, sum(_size(u.shape, any_memory=True) for u in cuts))
      total += whole
    return total if updated else total + _size(i.shape)

  def collectives(self) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    seen: set[str] = set()
    for name, times in self._runs().items():
      for i in self.computations[name]:
        kind = i.op.removesuffix("-start")
        if kind not in _COLLECTIVES:
          continue
        # One that overlaps with other work is written in each fusion that it passes through.
        if chain := re.search(r'chain_id="(\d+)"', i.rest):
          if chain[1] in seen:
            continue
          seen.add(chain[1])
        result = _size(i.shape, any_memory=True)
        if i.op.endswith("-start") and i.shape.startswith("("):
          result -= sum(_size(self.shapes.get(o, ""), any_memory=True) for o in i.operands)
        count, total = found.get(kind, (0, 0.0))
        found[kind] = (count + times, total + times * result)
    return found

  def _trips(self, loop: _Instruction) -> int:
    """The times that a loop runs; 1 where the program does not say."""
    if known := _TRIPS.search(loop.rest):
      return int(known[1])
    # A TPU's compiler leaves only the condition, that a counter from 0 is less than a constant.
    condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
    body = self.computations.get(condition[1] if condition else "", [])
    limits = {i.name: i.rest.partition(")")[0] for i in body if i.op == "constant"}
    for i in body:
      if i.root and i.op == "compare" and "direction=LT" in i.rest and i.operands[1] in limits:
        return int(limits[i.operands[1]])
    return 1

  def _runs(self) -> dict[str, int]:
    """The times that each computation runs in a call of the module."""
    runs: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int) -> None:
      runs[name] += times
      for i in self.computations.get(name, []):
        inner = times * (self._trips(i) if i.op == "while" else 1)
        for called in {*_CALLED.findall(i.rest), *_branches(i.rest)} & self.computations.keys():
          visit(called, inner)

    visit(self.entry, 1)
    return runs


def _branches(rest: str) -> list[str]:
  names = []
  for several, one in _BRANCHES.findall(rest):
    names += re.findall(r"%?([\w.\-]+)", several) if several else [one]
  return names


def _read(text: str) -> _Module:
  computations: dict[str, list[_Instruction]] = {}
  entry, body = "", []
  for line in text.splitlines():
    if header := _HEADER.match(line):
      body = computations[header["name"]] = []
      entry = header["name"] if header["entry"] else entry
    elif found := _INSTRUCTION.match(line):
      rest = found["rest"]
      operands = tuple(re.findall(r"%([^ ,)]+)", _inside(rest)))
      root = line.lstrip().startswith("ROOT")
      body.append(_Instruction(found["name"], found["op"], found["shape"], operands, rest, root))
  return _Module(computations, entry)


def _inside(rest: str) -> str:
  """The text up to the bracket that closes the operands."""
  depth = 1
  for place, letter in enumerate(rest):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return rest[:place]
  return rest


def _size(shape: str, any_memory: bool = False) -> float:
  """Bytes of the arrays in a shape; those in memory other than the device's main one count not."""
  total = 0.0
  for dtype, sides, layout in _SHAPE.findall(shape):
    if not any_memory and re.search(r"S\([1-9]", layout):
      continue
    bits = re.search(r"\d+", dtype)
    width = _BYTES.get(dtype, int(bits[0]) / 8 if bits else 0)
    total += width * math.prod(int(side) for side in sides.split(",") if side)
  return total


def flops_of(traced: Any, platform: str) -> dict[str, float]:
  """Operations of all matrix products and convolutions, by what they multiply.

  Keys: "bfloat16", or of float32 the precision asked for: "default", "high", "highest". A product
  of [m, k] and [k, n] is 2 m k n; loops count as often as they run, of branches the most expensive,
  or that of the platform. What no result needs is not counted, as XLA does not compute it.
  """
  return dict(_flops(traced.jaxpr, platform, [True] * len(traced.jaxpr.outvars)))


def _flops(jaxpr: Any, platform: str, needed: list[bool]) -> collections.Counter:
  """Operations for the results of a jaxpr that are `needed`."""
  total: collections.Counter = collections.Counter()
  chosen = {  # variables that say which platform this is
    e.outvars[0]: _branch_of(e.params["platforms"], platform)
    for e in jaxpr.eqns
    if e.primitive.name == "platform_index"
  }
  is_variable = lambda v: not hasattr(v, "val")
  live = {v for v, used in zip(jaxpr.outvars, needed, strict=True) if used and is_variable(v)}
  for equation in reversed(jaxpr.eqns):
    results = [v in live for v in equation.outvars]
    if not any(results) and not equation.effects:
      continue
    live.update(filter(is_variable, equation.invars))
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
      total[_kind(equation)] += _products(equation)
    elif name == "cond":
      costs = [_flops(branch.jaxpr, platform, results) for branch in params["branches"]]
      index = equation.invars[0]
      known = chosen.get(index) if is_variable(index) else None
      total += max(costs, key=lambda c: sum(c.values())) if known is None else costs[known]
    else:
      for inner in _inner(params.values()):
        # A loop's results are what it goes on with, too.
        same = len(inner.outvars) == len(results) and name not in ("scan", "while")
        counts = _flops(inner, platform, results if same else [True] * len(inner.outvars))
        for kind, count in counts.items():
          total[kind] += (params["length"] if name == "scan" else 1) * count
  return total


def _branch_of(platforms: Iterable[Any], platform: str) -> int:
  """The index of the branch of a platform, else of the default one."""
  platforms = list(platforms)
  for index, names in enumerate(platforms):
    if names is not None and platform in names:
      return index
  return platforms.index(None)


def _inner(values: Iterable[Any]) -> Iterable[Any]:
  for value in values:
    if hasattr(value, "eqns"):
      yield value
    elif hasattr(value, "jaxpr"):
      yield value.jaxpr
    elif isinstance(value, tuple | list):
      yield from _inner(value)


def _kind(equation: Any) -> str:
  if equation.invars[0].aval.dtype.itemsize < 4:
    return "bfloat16"
  precision = equation.params.get("precision")
  precision = precision[0] if isinstance(precision, tuple) else precision
  name = str(getattr(precision, "name", precision or "default")).lower()
  if name in ("default", "high", "highest"):
    return name
  passes = re.search(r"_x(\d)$", name)  # of an algorithm such as BF16_BF16_F32_X3
  if not name.startswith("bf16"):
    return "default" if "tf32" in name else "highest"
  return {None: "bfloat16", "3": "high"}.get(passes and passes[1], "highest")


def _products(equation: Any) -> float:
  """Two operations for each multiplication of a product or convolution."""
  left, right = (v.aval.shape for v in equation.invars[:2])
  result = math.prod(equation.outvars[0].aval.shape)
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * result * math.prod(left[axis] for axis in contracted)
  numbers = equation.params["dimension_numbers"]
  # Each output sums over the kernel's window and its input channels, those of one group.
  sums = math.prod(right[axis] for axis in numbers.rhs_spec[1:])
  dilation = math.prod(equation.params["lhs_dilation"])  # zeros between inputs multiply nothing
  return 2.0 * result * sums / dilation
