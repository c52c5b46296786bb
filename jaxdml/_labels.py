"""Labels and ids of any kind, numbered: the one door for metrics, samplers and whoever has text.

Integers of any width, booleans, floats and text are compared exactly, whatever arrays hold them.
None and NaN are unknown, and so is -1 where it marks a label, as in TFDS.
"""

from typing import Any

import numpy as np

UNKNOWN = -1
"""The integer that marks a label that is not known."""


def as_given(value: Any) -> np.ndarray:
  """Returns `value` as an array: of objects where NumPy would change what a list holds.

  >>> as_given([2**60 + 1, 0.5]).dtype, as_given([1, "a"]).dtype, as_given(["a", "b"]).dtype
  (dtype('O'), dtype('O'), dtype('<U1'))
  """
  array = np.asarray(value)
  if hasattr(value, "dtype") or array.ndim != 1 or array.dtype.kind in "biuO" or not array.size:
    return array
  if array.dtype.kind == "f":
    same = all(isinstance(x, float) for x in value)  # a large integer would become its neighbour
  else:  # text: numbers beside it become text, and NUL at its end goes
    same = array.tolist() == list(value)
  return array if same else np.array(value, object)


def numbered(name: str, *columns: Any, unknown: int | None = UNKNOWN) -> list[np.ndarray]:
  """Numbers the values of all columns from 0, equal ones alike: int32 [n] each, -1 where unknown.

  Args:
    name: of the columns, for messages.
    *columns: [n], each of its own length.
    unknown: the integer that marks what is not known; None for ids, where -1 is an id.

  Raises:
    ValueError: text beside numbers, or values that are neither.

  >>> of_large, of_small = numbered("labels", np.array([2**63, 5], np.uint64), [5, None, -1])
  >>> of_large.tolist(), of_small.tolist()
  ([1, 0], [0, -1, -1])
  """
  parts = [_known(name, as_given(column), unknown) for column in columns]
  if len({text for _, _, text in parts if text is not None}) == 2:
    came = " for the queries and ".join(str(as_given(column).dtype) for column in columns)
    raise ValueError(
      f"{name}: expected one kind on both sides, got {came} for the gallery; number or name both "
      "alike"
    )
  codes = _codes([values for _, values, _ in parts])
  ends = np.cumsum([len(values) for _, values, _ in parts])[:-1]
  result = []
  for (there, _, _), part in zip(parts, np.split(codes, ends), strict=True):
    result.append(np.full(len(there), -1, np.int32))
    result[-1][there] = part
  return result


def as_text(name: str, values: Any) -> list[str | None]:
  """Labels as a search shows them: text, or numbers in digits; None where unknown.

  >>> as_text("labels", [3, -1, None])
  ['3', None, None]
  """
  there, known, _ = _known(name, as_given(values), UNKNOWN)
  shown = iter(known)
  return [str(_decoded(next(shown))) if here else None for here in there]


def _decoded(value: Any) -> Any:
  """A value as Python has it; bytes as text."""
  value = value.item() if isinstance(value, np.generic) else value
  return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _known(name: str, array: np.ndarray, unknown: int | None) -> tuple[np.ndarray, Any, Any]:
  """(which are known [n], those, whether they are text; None of none)."""
  kind = array.dtype.kind
  if array.ndim != 1 or kind not in "biufUSO":
    raise ValueError(
      f"{name}: expected integers, text, booleans or None for unknown, [n]; got {array.dtype} of "
      f"shape {array.shape}"
    )
  if kind != "O":
    there = np.ones(len(array), bool) if kind in "bUS" else array == array
    if kind in "iuf" and unknown is not None:
      there &= array != unknown
    return there, array[there], kind in "US" if there.any() else None
  items = list(map(_decoded, array.tolist()))
  valid = bool | int | float | str | None
  if wrong := [x for x in items if not isinstance(x, valid)]:
    came = type(wrong[0]).__name__
    raise ValueError(f"{name}: expected integers, text, booleans or None for unknown; got {came}")
  there = np.array([x is not None and x == x and x != unknown for x in items], bool)
  known = [x for x, kept in zip(items, there, strict=True) if kept]
  kinds = {isinstance(x, str) for x in known}
  if len(kinds) == 2:
    raise ValueError(f"{name}: expected one kind, got text beside numbers; number or name all")
  return there, known, kinds.pop() if kinds else None


def _codes(parts: list[Any]) -> np.ndarray:
  """The values of all parts, one part after the other, as numbers from 0."""
  kinds = {part.dtype.kind if isinstance(part, np.ndarray) else "O" for part in parts}
  largest = np.iinfo(np.int64).max
  if kinds <= set("biu") and all(p.dtype.kind != "u" or not np.any(p > largest) for p in parts):
    flat = np.concatenate([part.astype(np.int64) for part in parts])
  elif len(kinds) == 1 and kinds <= set("fUS"):
    flat = np.concatenate(parts)
  else:  # Python compares numbers of any two types exactly.
    items = [_decoded(x) for part in parts for x in list(part)]
    table = {value: number for number, value in enumerate(sorted(set(items)))}
    return np.array([table[x] for x in items], np.int32)
  return np.unique(flat, return_inverse=True)[1].astype(np.int32)
