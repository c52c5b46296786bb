"""Pairwise distances in matmul form: x [n, d], y [m, d] -> [n, m], smaller is closer.

Products accumulate in float32 or more, at the highest matmul precision, so that TF32 hardware gives
the same neighbours as a CPU; on a TPU at "high", which is as good for unit vectors and half the
work (docs/accelerators.md). `Distance.at` sets another precision.

>>> import jax.numpy as jnp
>>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
>>> print(euclidean(x, x))
[[0. 5.]
 [5. 0.]]
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdml.types import Array, DistanceFn, Maker

__all__ = [
  "DISTANCES", "NAMES", "Distance", "Maker", "as_grid", "cosine", "create", "dot", "euclidean",
  "hyperbolic", "l2_normalize", "matmul", "matmul_transposed", "normalized",
  "normalized_euclidean", "normalized_signal_to_noise", "normalized_squared_euclidean",
  "private_distances", "product_distance", "safe_sqrt", "signal_to_noise", "squared_euclidean",
]  # fmt: skip


def __dir__() -> list[str]:
  return __all__


Prepare = Callable[[Array], tuple[Array, tuple[Array, ...]]]


def _at_least_float32(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def largest_entry(x: Array) -> Array:
  """max |x| over the last axis, which stays, of 1; not finite where an entry is not.

  Whoever asks for it asks so, and XLA reads x once for all of them.
  """
  return jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0)


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
  """sqrt(x), 0 for x < 0; its gradient at x <= 0 is 0, not infinity. NaN stays NaN."""
  return jnp.sqrt(jnp.maximum(x, 0.0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
  root = safe_sqrt(primals[0])
  zero = root <= 0
  return root, jnp.where(zero, 0.0, 0.5 / jnp.where(zero, 1.0, root)) * tangents[0]


def matmul(x: Array, y: Array, precision: str | None = None) -> Array:
  """x y^T [n, m] of x [n, d] and y [m, d], accumulated in float32 or more.

  `precision` is JAX's, of float32 on TPUs and GPUs; by default "high" on a TPU, else "highest".
  """
  return _dot(x, y, 1, 1, precision)


@functools.partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _dot(x: Array, y: Array, x_axis: int, y_axis: int, precision: str | None = None) -> Array:
  """The product that sums over `x_axis` of x and `y_axis` of y."""
  out = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
  axes = (((x_axis,), (y_axis,)), ((), ()))
  of = lambda precision: (
    lambda x, y: jax.lax.dot_general(x, y, axes, precision=precision, preferred_element_type=out)
  )
  if precision is not None:
    return of(precision)(x, y)
  return jax.lax.platform_dependent(x, y, tpu=of("high"), default=of("highest"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@functools.partial(jax.jit, static_argnums=3, inline=True)
def matmul_transposed(
  x: Array, y: Array, rows: Array | None = None, precision: str | None = None
) -> Array:
  """x y [n, m] of x [n, d] and y [d, m]: `matmul` for y kept transposed. Reverse mode only.

  The gradient of y comes as [d, m] from plain products. XLA would fold the transpose of x into
  that product instead, which on a CPU runs at a third of the speed. With `rows` [m, d], y
  transposed, the gradient of x is a plain product too; it gets no gradient itself. Where the
  program runs on no CPU, nothing is kept transposed.
  """
  if rows is None:
    return _dot(x, y, 1, 0, precision)
  return jax.lax.platform_dependent(
    x, y, rows, cpu=lambda x, y, rows: _dot(x, y, 1, 0, precision),
    default=lambda x, y, rows: _dot(x, rows, 1, 1, precision),
  )  # fmt: skip


def _matmul_transposed_fwd(x, y, rows, precision):
  return matmul_transposed(x, y, rows, precision), (x, y if rows is None else None, rows)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _matmul_transposed_bwd(precision, residuals, bar):
  x, y, rows = residuals
  y_bar = jax.lax.platform_dependent(
    x, bar, cpu=lambda x, bar: _dot(jax.lax.optimization_barrier(x.T), bar, 1, 0, precision),
    default=lambda x, bar: _dot(x, bar, 0, 0, precision),
  )  # fmt: skip
  if rows is None:
    return _dot(bar, y, 1, 1, precision).astype(x.dtype), y_bar.astype(y.dtype), None
  x_bar = _dot(bar, rows, 1, 0, precision)
  return x_bar.astype(x.dtype), y_bar.astype(rows.dtype), jnp.zeros_like(rows)


matmul_transposed.defvjp(_matmul_transposed_fwd, _matmul_transposed_bwd)


@jax.custom_vjp
@functools.partial(jax.jit, inline=True)
def kept_transposed(x: Array) -> Array:
  """x^T [d, n] of x [n, d], on a CPU made once; elsewhere products read x as it lies.

  Reverse mode only.
  """
  # The barrier keeps XLA from folding the transpose into the product, slow on a CPU.
  return jax.lax.platform_dependent(
    x, cpu=lambda x: jax.lax.optimization_barrier(x.T), default=lambda x: x.T
  )


kept_transposed.defvjp(lambda x: (kept_transposed(x), None), lambda _, bar: (kept_transposed(bar),))


@functools.partial(jax.jit, inline=True)  # Outside jit one call of XLA, not a dozen.
def l2_normalize(x: Array) -> Array:
  """x / ||x|| over the last axis; a zero vector stays zero with a zero gradient, NaN NaN.

  Rows are first divided by a power of 2 near their largest entry, which is exact: no square
  overflows or vanishes. A row below 2^-100 (in float32) counts as zero, as its gradient, which is
  about 1 / ||x||, might overflow.
  """
  x = _at_least_float32(x)
  info = jnp.finfo(x.dtype)
  least = float(info.tiny) * 2.0**26
  top = jax.lax.stop_gradient(largest_entry(x))
  power = jax.lax.reduce_precision(0.5 * top, exponent_bits=info.nexp, mantissa_bits=0)
  zero, x = top <= least, x / jnp.where(top > least, power, 1.0)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, square)))


def norm(x: Array) -> Array:
  """||x|| over the last axis, of any scale; its gradient at 0 is 0."""
  return jnp.sum(_at_least_float32(x) * l2_normalize(x), axis=-1)


def bounded(x: Array) -> Array:
  """x, rows with entries beyond 5e7 (in float32) scaled down to that; others as they are.

  Then a distance, its square and a sum of many are finite.
  """
  most = float(jnp.finfo(jnp.promote_types(x.dtype, jnp.float32)).max) ** 0.2
  if float(jnp.finfo(x.dtype).max) <= most:
    return x
  top = _at_least_float32(largest_entry(x))
  factor = jnp.where(top > most, most / jnp.maximum(top, most), 1.0)
  return x * jax.lax.stop_gradient(factor).astype(x.dtype)


class Distance:
  """A distance that reads its two inputs through one matrix product.

  distance(x, y) = combine(features(x) features(y)^T, terms of x, terms of y). Losses prepare the
  references once, not once a block.

  Attributes:
    name: as in `create`.
    prepare: x [n, d] -> (features [n, k] to multiply, a tuple of terms [n]).
    combine: (products [n, m], x_terms each [n, 1], y_terms each [1, m]) -> distances [n, m].
    bounds: smallest and largest distance, up to rounding, whatever the inputs; None if there is no
      such pair. Losses skip a pass where it shows that no exponential overflows.
    precision: of the products, as in `matmul`.
  """

  def __init__(
    self, name: str, prepare: Prepare, combine: Callable[..., Array], bounds=None, doc=None,
    precision: str | None = None,
  ):  # fmt: skip
    self.name, self.prepare, self.combine, self.bounds = name, prepare, combine, bounds
    self.precision = precision
    self.__doc__ = doc or combine.__doc__  # so that help(distances.cosine) shows the formula

  def __repr__(self) -> str:
    return f"distances.{self.name}"

  def __call__(self, x: Array, y: Array, /) -> Array:
    """Returns the distances [n, m] between x [n, d] and y [m, d]."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
      raise ValueError(f"distances need x [n, d] and y [m, d]; got x {x.shape} and y {y.shape}")
    (fx, x_terms), (fy, y_terms) = self.prepare(x), self.prepare(y)
    products = matmul(fx, fy, self.precision)
    return self.combine(products, *as_grid(x_terms, y_terms))

  def at(self, precision: str) -> "Distance":
    """Returns this distance with products of another precision: highest, high or default.

    It matters for float32 on a TPU, where these take six, three and one pass, and on a GPU, where
    all but "highest" may be TF32.

    >>> cosine.at("default").precision
    'default'
    """
    known = ("highest", "high", "default")
    if precision not in known:
      raise ValueError(f"precision: expected one of {', '.join(known)}; got {precision!r}")
    return Distance(self.name, self.prepare, self.combine, self.bounds, self.__doc__, precision)


_as_column = functools.partial(jnp.expand_dims, axis=1)  # quicker than an index in eager calls
_as_row = functools.partial(jnp.expand_dims, axis=0)


def as_grid(x_terms, y_terms) -> tuple[list[Array], list[Array]]:
  """Terms of the rows as [n, 1], those of the columns as [1, m]."""
  return list(map(_as_column, x_terms)), list(map(_as_row, y_terms))


def product_distance(prepare: Prepare, bounds: tuple[float, float] | None = None) -> Callable:
  """Decorator: makes a `Distance` of a function combine(products, x_terms, y_terms)."""
  return lambda combine: Distance(combine.__name__, prepare, combine, bounds)


def private_distances(distance_fn: DistanceFn, x: Array, y: Array) -> Array:
  """Distances [n, k] of each x [n, d] to the k of its own in y [n, k, d]."""
  if not isinstance(distance_fn, Distance):
    return jax.vmap(lambda a, b: distance_fn(a[None], b)[0])(x, y)
  n, k, d = y.shape
  fx, x_terms = distance_fn.prepare(x)
  fy, y_terms = distance_fn.prepare(y.reshape(n * k, d))
  fy = _at_least_float32(fy.reshape(n, k, -1))
  # A sum, not a product of matrices: n small ones are slow on a CPU.
  products = jnp.sum(_at_least_float32(fx)[:, None, :] * fy, axis=2)
  y_terms = [t.reshape(n, k) for t in y_terms]
  return distance_fn.combine(products, list(map(_as_column, x_terms)), y_terms)


def _square_norm(x: Array):
  x = bounded(x)
  return x, (jnp.sum(jnp.square(_at_least_float32(x)), axis=1),)


def _centered(x: Array):
  x = _at_least_float32(x)
  x = bounded(x - jnp.mean(x, axis=1, keepdims=True))
  return x, (jnp.sum(x * x, axis=1),)


@product_distance(_square_norm)
def squared_euclidean(products, x_square, y_square):
  """||x_i - y_j||^2, as ||x_i||^2 + ||y_j||^2 - 2 x_i . y_j, clipped at 0.

  The expansion costs an absolute error of a few times 1e-7 (||x||^2 + ||y||^2) in float32, much for
  points that are closer to each other than to the origin.
  """
  return jnp.maximum(x_square[0] + y_square[0] - 2.0 * products, 0.0)


@product_distance(_square_norm)
def euclidean(products, x_square, y_square):
  """||x_i - y_j||; gradient 0 where the points coincide."""
  return safe_sqrt(squared_euclidean.combine(products, x_square, y_square))


@product_distance(lambda x: (bounded(x), ()))
def dot(products, _x_terms, _y_terms):
  """-x_i . y_j, the inner product turned into a distance."""
  return -products


@product_distance(lambda x: (l2_normalize(x), ()), bounds=(0.0, 2.0))
def cosine(products, _x_terms, _y_terms):
  """1 - cos(x_i, y_j), in [0, 2]; the similarity is 1 minus this distance."""
  return 1.0 - products


@product_distance(_centered)
def signal_to_noise(products, x_power, y_power):
  """var(x_i - y_j) / var(x_i), noise over signal (Yuan et al., CVPR 2019, arXiv 1904.02616).

  Variances are over the d components, x_i is the anchor; not symmetric. An anchor of equal
  components has no signal: its distances, and their gradients, are 0.
  """
  signal = x_power[0]
  none = signal <= float(jnp.finfo(signal.dtype).tiny) ** 0.5  # its square is divided by
  noise = squared_euclidean.combine(products, x_power, y_power)
  return jnp.where(none, 0.0, noise / jnp.where(none, 1.0, signal))


def hyperbolic(curvature: float = 1.0, clip_radius: float | None = 2.3) -> DistanceFn:
  """Makes the geodesic distance in the Poincare ball between exp_0(x_i) and exp_0(y_j).

  exp_0(v) = tanh(sqrt(c) |v|) v / (sqrt(c) |v|) takes features v to the ball of curvature -c, and
  d(p, q) = 2 / sqrt(c) asinh(sqrt(c |p - q|^2 / ((1 - c |p|^2) (1 - c |q|^2))))
  (Khrulkov et al., arXiv 1904.02239).

  Args:
    curvature: c > 0; towards 0 the distance becomes 2 |x - y|.
    clip_radius: longer features are cut to it, which keeps their gradients alive near the boundary
      (Guo et al., arXiv 2107.11472); None clips at 6 / sqrt(c) only, where float32 ends.

  Raises:
    ValueError: for a curvature or radius that is not positive.

  >>> import jax.numpy as jnp
  >>> fn = hyperbolic(clip_radius=None)  # along one ray the distance is twice the difference
  >>> print(fn(jnp.array([[0.5, 0.0]]), jnp.array([[0.5, 0.0], [2.0, 0.0]])))
  [[0. 3.]]
  """
  for name, value in (("curvature", curvature), ("clip_radius", clip_radius)):
    if isinstance(value, (int, float)) and not value > 0:
      raise ValueError(f"{name} must be positive; got {value}")

  def on_the_ball(x: Array):
    x = _at_least_float32(x)
    root = jnp.sqrt(jnp.asarray(curvature, x.dtype))
    limit = 6.0 / root if clip_radius is None else jnp.minimum(clip_radius, 6.0 / root)
    t = root * jnp.minimum(norm(x), limit)
    # sqrt(c) exp_0(x) and 1 - its square, which would cancel if it were subtracted.
    point = jnp.tanh(t)[:, None] * l2_normalize(x)
    return point, (jnp.sum(point * point, axis=1), 1.0 / jnp.square(jnp.cosh(t)))

  @product_distance(on_the_ball)
  def hyperbolic(products, x_terms, y_terms):
    """Distance in the Poincare ball."""
    (x_square, x_gap), (y_square, y_gap) = x_terms, y_terms
    gap = jnp.maximum(x_square + y_square - 2.0 * products, 0.0)
    root = jnp.sqrt(jnp.asarray(curvature, gap.dtype))
    return 2.0 / root * jnp.arcsinh(safe_sqrt(gap / (x_gap * y_gap)))

  return hyperbolic


def normalized(distance_fn: DistanceFn) -> DistanceFn:
  """Makes `distance_fn` on L2-normalised inputs.

  >>> import jax.numpy as jnp
  >>> fn = normalized(squared_euclidean)
  >>> print(fn, fn(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0]])))
  distances.normalized_squared_euclidean [[0. 2.]]
  """
  if not isinstance(distance_fn, Distance):
    return lambda x, y, /: distance_fn(l2_normalize(x), l2_normalize(y))
  prepare, bounds = distance_fn.prepare, distance_fn.bounds
  if prepare is _square_norm:
    # The norm of a unit vector is constant: without its gradient two passes are saved.
    on_the_sphere = _fixed_square_norm
    bounds = (0.0, 4.0 if distance_fn is squared_euclidean else 2.0)
  else:
    on_the_sphere = lambda x: prepare(l2_normalize(x))
  name, doc = f"normalized_{distance_fn.name}", distance_fn.__doc__
  return Distance(name, on_the_sphere, distance_fn.combine, bounds, doc)


def _fixed_square_norm(x: Array):
  x = l2_normalize(x)
  return x, (jax.lax.stop_gradient(jnp.sum(jnp.square(x), axis=1)),)


normalized_euclidean = normalized(euclidean)
normalized_signal_to_noise = normalized(signal_to_noise)
normalized_squared_euclidean = normalized(squared_euclidean)


DISTANCES: dict[str, DistanceFn | Maker] = {
  "cosine": cosine,
  "dot": dot,
  "euclidean": euclidean,
  "hyperbolic": Maker(hyperbolic, ("curvature", "clip_radius")),
  "normalized_euclidean": normalized_euclidean,
  "normalized_signal_to_noise": normalized_signal_to_noise,
  "normalized_squared_euclidean": normalized_squared_euclidean,
  "signal_to_noise": signal_to_noise,
  "squared_euclidean": squared_euclidean,
}
"""Name -> distance, or its `Maker`, for `create`; distances of one's own may be added."""

NAMES = tuple(DISTANCES)
"""The distances that `create` knows."""


def create(name: str, **options: Any) -> DistanceFn:
  """Returns the distance of that name; `hyperbolic` takes its options.

  Raises:
    ValueError: for an unknown name or option, listing the valid ones.

  >>> fn = create("hyperbolic", curvature=0.5)
  """
  if name not in DISTANCES:
    raise ValueError(f"unknown distance {name!r}; valid names: {', '.join(DISTANCES)}")
  entry = DISTANCES[name]
  valid = entry.options if isinstance(entry, Maker) else ()
  if unknown := sorted(set(options) - set(valid)):
    known = ", ".join(valid) or "none"
    raise ValueError(f"distance {name!r} has no option {unknown}; valid options: {known}")
  return entry.make(**options) if isinstance(entry, Maker) else entry
