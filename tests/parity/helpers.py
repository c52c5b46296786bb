"""Both libraries in float64 on the same batches: pytorch-metric-learning 2.9 is `theirs`."""

import contextlib

import jax
import numpy as np
import torch

from tests.losses.table import compiled

N, D = 16, 6

# Sixteen labels each, so that a loss compiles once. Batches shuffle all but `equal`.
LAYOUTS = {
  "equal": np.repeat(np.arange(4), 4),
  "unequal": np.repeat(np.arange(6), [6, 4, 2, 2, 1, 1]),  # two singletons
  "one_left_out": np.repeat([0, 1], [15, 1]),
  "one_class": np.full(N, 3),
  "distinct": np.arange(N),
  "duplicated_positives": np.repeat(np.arange(6), [6, 4, 2, 2, 1, 1]),
  "duplicated_negatives": np.repeat(np.arange(6), [6, 4, 2, 2, 1, 1]),
}
# Where no loss is trivially 0.
RICH = ("equal", "unequal", "one_left_out", "duplicated_positives", "duplicated_negatives")


def batch(layout: str, seed: int = 0):
  """(embeddings [16, 6] around their classes' centers, labels)."""
  rng = np.random.default_rng(seed)
  y = LAYOUTS[layout]
  if layout != "equal":
    y = rng.permutation(y)
  x = 0.8 * rng.normal(size=(N, D)) + 0.7 * rng.normal(size=(N, D))[y]
  if layout.startswith("duplicated"):
    first = np.flatnonzero(y == 0)[:3]
    same = layout == "duplicated_positives"
    other = first[1:] if same else [np.flatnonzero(y == c)[0] for c in (1, 4)]
    x[other] = x[first[0]]
  return x, y


def batches(layouts=tuple(LAYOUTS), seeds=2):
  """(layout, embeddings, labels) of every layout and seed."""
  for layout in layouts:
    for seed in range(seeds):
      yield layout, *batch(layout, seed)


def tolerance(layout: str, rtol: float = 1e-10) -> float:
  """The relative error allowed.

  Our distances expand |x - y|^2: a distance of 0 may come out as the root of the last digit.
  """
  return max(rtol, 1e-7) if layout.startswith("duplicated") else rtol


@contextlib.contextmanager
def torch_float64():
  """Some of their modules make float32 tensors whatever the embeddings are; not here."""
  before = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  try:
    yield
  finally:
    torch.set_default_dtype(before)


def theirs(make, x, y, indices=None):
  """(value, gradient) of the loss module that make() gives.

  Args:
    make: -> module (embeddings, labels, indices_tuple) -> scalar.
    x: [n, d].
    y: [n].
    indices: their indices_tuple, as arrays or tensors, or their miner.
  """
  with torch_float64():
    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y)
    if isinstance(indices, torch.nn.Module):
      indices = indices(x, y)
    elif indices is not None:
      indices = tuple(torch.as_tensor(i) for i in indices)
    value = make()(x, y, indices)
    value.backward()
  return value.item(), x.grad.numpy()


class Compiled:
  """fn in float64, compiled once, from and to NumPy."""

  def __init__(self, fn):
    self._fn = compiled(fn)

  def __call__(self, *args, **options):
    options = {name: np.asarray(option) for name, option in options.items()}
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, self._fn(*args, **options))


class Program(Compiled):
  """(value, gradient) of the loss fn(x, y, *args, **options)."""

  def __init__(self, fn, argnums=0):
    super().__init__(jax.value_and_grad(fn, argnums=argnums))


def errors(actual, expected):
  """Relative errors of (value, gradient); below 1e-3 absolute ones, times 1,000."""
  relative = lambda a, b: float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3))
  return tuple(relative(a, b) for a, b in zip(actual, expected, strict=True))


def check(actual, expected, rtol=1e-10, *, layout=None):
  """Asserts that values and gradients agree, and that in a rich layout there is something to agree.

  Args:
    actual: (value, gradient), ours.
    expected: (value, gradient), theirs.
    rtol: bound of the relative error, the gradient's in its largest component.
    layout: of the batch.
  """
  value, gradient = errors(actual, expected)
  # The comparison is false for a NaN, too.
  assert value <= rtol and gradient <= rtol, f"{layout}: value {value:.1e}, gradient {gradient:.1e}"
  if layout in RICH:
    assert expected[0] != 0 and np.any(expected[1]), f"{layout}: nothing was compared"
