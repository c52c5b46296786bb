"""Pairwise distances in matmul form: x [n, d], y [m, d] -> [n, m], smaller is closer.

Products accumulate in float32 whatever the input dtype (float64 stays float64), at the highest
matmul precision, so that TPU and TF32 hardware give the same neighbours as a CPU.

>>> import jax.numpy as jnp
>>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
>>> print(euclidean(x, x))
[[0. 5.]
 [5. 0.]]
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdml._products import matmul
from jaxdml.types import Array, DistanceFn

__all__ = [
  "cosine",
  "create",
  "dot",
  "euclidean",
  "has_products",
  "hyperbolic",
  "l2_normalize",
  "matmul",
  "normalized",
  "normalized_euclidean",
  "normalized_signal_to_noise",
  "normalized_squared_euclidean",
  "private_distances",
  "product_distance",
  "safe_sqrt",
  "signal_to_noise",
  "squared_euclidean",
]

Prepare = Callable[[Array], tuple[Array, tuple[Array, ...]]]


def _at_least_float32(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check(x: Array, y: Array) -> None:
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise ValueError(f"distances need x [n, d] and y [m, d]; got x {x.shape} and y {y.shape}")


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
  """sqrt(x), 0 for x < 0; its gradient at x <= 0 is 0, not infinity. NaN stays NaN."""
  return jnp.sqrt(jnp.maximum(x, 0.0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
  root = safe_sqrt(primals[0])
  zero = root <= 0
  return root, jnp.where(zero, 0.0, 0.5 / jnp.where(zero, 1.0, root)) * tangents[0]


def l2_normalize(x: Array) -> Array:
  """x / ||x|| over the last axis; a zero vector stays zero with a zero gradient, NaN NaN."""
  x = _at_least_float32(x)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # Below the smallest normal number 1/sqrt overflows: such a vector has no direction to speak of.
  zero = square <= jnp.finfo(x.dtype).tiny
  return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, square)))


def product_distance(prepare: Prepare, bounds: tuple[float, float] | None = None) -> Callable:
  """Decorator: a distance that reads its two inputs through one matrix product.

  It turns combine(products [n, m], x_terms, y_terms) -> [n, m] into a `DistanceFn` which shows
  `prepare` and `combine`, so that the losses prepare the references once, not once a block.

  Args:
    prepare: x [n, d] -> (features [n, k] to multiply, a tuple of terms [n]); combine is given the
      x_terms as [n, 1] and the y_terms as [1, m].
    bounds: smallest and largest distance, up to rounding, whatever the inputs; None if there is no
      such pair. Losses skip a pass where it shows that no exponential overflows.
  """

  def decorate(combine: Callable[..., Array]) -> DistanceFn:
    @functools.wraps(combine)
    def distance(x: Array, y: Array, /) -> Array:
      _check(x, y)
      (fx, x_terms), (fy, y_terms) = prepare(x), prepare(y)
      columns, rows = [t[:, None] for t in x_terms], [t[None, :] for t in y_terms]
      return combine(matmul(fx, fy), columns, rows)

    distance.__signature__ = inspect.signature(distance, follow_wrapped=False)
    distance.prepare, distance.combine, distance.bounds = prepare, combine, bounds
    return distance

  return decorate


def has_products(distance_fn: DistanceFn) -> bool:
  """Whether it is a `product_distance`: `prepare` and `combine` around one matrix product."""
  return hasattr(distance_fn, "prepare")


def private_distances(distance_fn: DistanceFn, x: Array, y: Array) -> Array:
  """[n, k] distances of each x [n, d] to the k of its own in y [n, k, d]."""
  if not has_products(distance_fn):
    return jax.vmap(lambda a, b: distance_fn(a[None], b)[0])(x, y)
  n, k, d = y.shape
  fx, x_terms = distance_fn.prepare(x)
  fy, y_terms = distance_fn.prepare(y.reshape(n * k, d))
  fy = _at_least_float32(fy.reshape(n, k, -1))
  # A sum, not a product of matrices: n small ones are slow on a CPU.
  products = jnp.sum(_at_least_float32(fx)[:, None, :] * fy, axis=2)
  return distance_fn.combine(
    products, [t[:, None] for t in x_terms], [t.reshape(n, k) for t in y_terms]
  )


def _no_terms(x: Array):
  return x, ()


def _square_norm(x: Array):
  return x, (jnp.sum(jnp.square(_at_least_float32(x)), axis=1),)


def _unit(x: Array):
  return l2_normalize(x), ()


def _centered(x: Array):
  x = _at_least_float32(x)
  x = x - jnp.mean(x, axis=1, keepdims=True)
  return x, (jnp.sum(x * x, axis=1),)


@product_distance(_square_norm)
def squared_euclidean(products, x_square, y_square):
  """||x_i - y_j||^2, as ||x_i||^2 + ||y_j||^2 - 2 x_i . y_j, clipped at 0.

  The expansion loses digits for points much closer to each other than to the origin: expect an
  absolute error of a few times 1e-7 (||x||^2 + ||y||^2) in float32.
  """
  return jnp.maximum(x_square[0] + y_square[0] - 2.0 * products, 0.0)


@product_distance(_square_norm)
def euclidean(products, x_square, y_square):
  """||x_i - y_j||; gradient 0 where the points coincide."""
  return safe_sqrt(squared_euclidean.combine(products, x_square, y_square))


@product_distance(_no_terms)
def dot(products, x_terms, y_terms):
  """-x_i . y_j, the inner product turned into a distance."""
  del x_terms, y_terms
  return -products


@product_distance(_unit, bounds=(0.0, 2.0))
def cosine(products, x_terms, y_terms):
  """1 - cos(x_i, y_j), in [0, 2]; the similarity is 1 minus this distance."""
  del x_terms, y_terms
  return 1.0 - products


@product_distance(_centered)
def signal_to_noise(products, x_power, y_power):
  """var(x_i - y_j) / var(x_i), noise over signal (Yuan et al., CVPR 2019, arXiv 1904.02616).

  Variances are over the d components, x_i is the anchor; not symmetric. An anchor of equal
  components has no signal: its distances, and their gradients, are 0.
  """
  signal = x_power[0]
  none = signal <= jnp.finfo(signal.dtype).tiny
  noise = squared_euclidean.combine(products, x_power, y_power)
  return jnp.where(none, 0.0, noise / jnp.where(none, 1.0, signal))


def hyperbolic(curvature: float = 1.0, clip_radius: float | None = 2.3) -> DistanceFn:
  """Makes the geodesic distance in the Poincare ball between exp_0(x_i) and exp_0(y_j).

  exp_0(v) = tanh(sqrt(c) |v|) v / (sqrt(c) |v|) takes features v to the ball of curvature -c, and
  d(p, q) = 2 / sqrt(c) asinh(sqrt(c |p - q|^2 / ((1 - c |p|^2) (1 - c |q|^2))))
  (Khrulkov et al., arXiv 1904.02239). Features longer than `clip_radius` are first cut to it, which
  keeps their gradients alive near the boundary (Guo et al., arXiv 2107.11472).

  Args:
    curvature: c > 0; towards 0 the distance becomes 2 |x - y|.
    clip_radius: longest feature; None clips at 6 / sqrt(c) only, where float32 ends.

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
    radius = safe_sqrt(jnp.sum(x * x, axis=1))
    t = root * jnp.minimum(radius, limit)
    # sqrt(c) exp_0(x) and 1 - its square, which would cancel if it were subtracted.
    point = jnp.tanh(t)[:, None] * l2_normalize(x)
    return point, (jnp.sum(point * point, axis=1), 1.0 / jnp.square(jnp.cosh(t)))

  @product_distance(on_the_ball)
  def distance(products, x_terms, y_terms):
    """Distance in the Poincare ball."""
    (x_square, x_gap), (y_square, y_gap) = x_terms, y_terms
    gap = jnp.maximum(x_square + y_square - 2.0 * products, 0.0)
    return (
      2.0
      / jnp.sqrt(jnp.asarray(curvature, gap.dtype))
      * jnp.arcsinh(safe_sqrt(gap / (x_gap * y_gap)))
    )

  distance.__name__ = distance.__qualname__ = "hyperbolic"
  return distance


def normalized(distance_fn: DistanceFn) -> DistanceFn:
  """`distance_fn` on L2-normalised inputs.

  >>> import jax.numpy as jnp
  >>> fn = normalized(squared_euclidean)
  >>> print(fn(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0]])))
  [[0. 2.]]
  """

  @functools.wraps(distance_fn)
  def on_the_sphere(x: Array, y: Array, /) -> Array:
    return distance_fn(l2_normalize(x), l2_normalize(y))

  prepare = getattr(distance_fn, "prepare", None)
  if prepare is not None:
    on_the_sphere.prepare = lambda x: prepare(l2_normalize(x))
  if prepare is _square_norm:
    # The norm of a unit vector is constant: without its gradient two passes are saved.
    fixed = lambda unit: (unit, jax.lax.stop_gradient(_square_norm(unit)[1]))
    on_the_sphere.prepare = lambda x: fixed(l2_normalize(x))
    on_the_sphere.bounds = (0.0, 4.0 if distance_fn is squared_euclidean else 2.0)
  on_the_sphere.__name__ = f"normalized_{getattr(distance_fn, '__name__', 'distance')}"
  return on_the_sphere


normalized_euclidean = normalized(euclidean)
normalized_signal_to_noise = normalized(signal_to_noise)
normalized_squared_euclidean = normalized(squared_euclidean)

_BY_NAME: dict[str, DistanceFn] = {
  fn.__name__: fn
  for fn in (
    cosine,
    dot,
    euclidean,
    normalized_euclidean,
    normalized_signal_to_noise,
    normalized_squared_euclidean,
    signal_to_noise,
    squared_euclidean,
  )
}
_FACTORIES: dict[str, Callable[..., DistanceFn]] = {"hyperbolic": hyperbolic}
NAMES = tuple(sorted([*_BY_NAME, *_FACTORIES]))


def create(name: str, **options: Any) -> DistanceFn:
  """The distance of that name; `hyperbolic` takes its options.

  Raises:
    ValueError: for an unknown name or option, listing the valid ones.

  >>> fn = create("hyperbolic", curvature=0.5)
  """
  if name not in NAMES:
    raise ValueError(f"unknown distance {name!r}; valid names: {', '.join(NAMES)}")
  valid = list(inspect.signature(_FACTORIES[name]).parameters) if name in _FACTORIES else []
  if unknown := sorted(set(options) - set(valid)):
    known = ", ".join(valid) or "none"
    raise ValueError(f"distance {name!r} has no option {unknown}; valid options: {known}")
  return _FACTORIES[name](**options) if name in _FACTORIES else _BY_NAME[name]
