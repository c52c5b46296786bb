"""Distances against loops, their gradients where they are delicate, their precision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses
from jaxdml.planning import program_cost
from tests.losses import reference, reference_distances
from tests.losses.table import compiled

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3))
CASES = {name: (name, {}) for name in distances.NAMES} | {
  "hyperbolic, cut early": ("hyperbolic", {"curvature": 0.7, "clip_radius": 1.0}),
  "hyperbolic, not cut": ("hyperbolic", {"curvature": 0.3, "clip_radius": None}),
}
FUNCTIONS = {case: distances.create(name, **options) for case, (name, options) in CASES.items()}
SYMMETRIC = [case for case in CASES if "signal_to_noise" not in case]


def test_every_distance_has_a_reference():
  assert sorted(reference.DISTANCES) == sorted(distances.NAMES)


@pytest.mark.parametrize("case", CASES)
def test_matches_loops_in_float64_with_gradients(case):
  x, y = np.vstack([X, np.zeros(3)]), np.vstack([Y, np.zeros(3)])
  name, options = CASES[case]
  by_hand = reference_distances.create(name, **options)
  expected = [[by_hand(a, b) for b in y] for a in x]
  with jax.enable_x64(True):
    fn = FUNCTIONS[case]
    np.testing.assert_allclose(compiled(fn)(x, y), expected, rtol=1e-9, atol=1e-12)
    weight, directions, h = RNG.normal(size=(5, 4)), RNG.normal(size=(2, 5, 3)), 1e-6
    v, w = directions[0], directions[1, :4]
    value = compiled(jax.value_and_grad(lambda x, y: jnp.sum(weight * fn(x, y)), argnums=(0, 1)))
    numeric = (value(X + h * v, Y + h * w)[0] - value(X - h * v, Y - h * w)[0]) / (2 * h)
    to_x, to_y = value(X, Y)[1]
    np.testing.assert_allclose(np.sum(to_x * v) + np.sum(to_y * w), numeric, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_symmetric_where_it_should_be(case):
  with jax.enable_x64(True):
    both = compiled(lambda x, y: (FUNCTIONS[case](x, y), FUNCTIONS[case](y, x)))
    forth, back = jax.device_get(both(X, Y))
  if case in SYMMETRIC:
    np.testing.assert_allclose(forth, back.T, rtol=1e-9, atol=1e-12)
  else:
    assert np.all(np.abs(forth - back.T) > 1e-3 * forth)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", CASES)
def test_delicate_points_are_finite(case, dtype):
  """Coincident points, zero vectors, opposite and far points: finite, never negative, in float32.

  The far ones lie beyond every clip radius and where tanh is 1 in float32.
  """
  x = [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]
  if case == "signal_to_noise" and dtype == jnp.float16:  # noise over a tiny signal: beyond 65,504
    x += [[0.5, 0.0], [2.0, 0.0]]
  else:
    x += [[1e-3, 0.0], [60.0, -20.0], [60.0, 0.0]]
  x, distance_fn = jnp.array(x, dtype), FUNCTIONS[case]
  fn = lambda x: jnp.sum(jnp.sin(distance_fn(x, x)))
  d, gradient = compiled(lambda x: (distance_fn(x, x), jax.grad(fn)(x)))(x)
  assert d.dtype == jnp.float32 and gradient.dtype == dtype
  assert np.all(np.isfinite(d)) and np.all(np.isfinite(gradient))
  assert case == "dot" or np.all(d >= -1e-6)
  if case.endswith("euclidean") or case.startswith("hyperbolic"):
    np.testing.assert_allclose(d[1, 2], 0, atol=3e-3)


def test_gradient_is_zero_where_points_coincide():
  x = jnp.array([[0.3, 0.4]])
  for case, fn in FUNCTIONS.items():
    if case in ("dot", "cosine"):
      continue
    gradient = compiled(jax.grad(lambda a, fn=fn: fn(a, x)[0, 0]))(x)
    np.testing.assert_allclose(gradient, [[0, 0]], atol=1e-5, err_msg=case)
  np.testing.assert_array_equal(jax.grad(lambda a: distances.cosine(a, x)[0, 0])(0 * x), [[0, 0]])


def test_safe_sqrt_and_l2_normalize():
  np.testing.assert_allclose(distances.safe_sqrt(jnp.array([0.0, 4.0])), [0, 2])
  np.testing.assert_allclose(
    jax.vmap(jax.grad(distances.safe_sqrt))(jnp.array([0.0, 4.0])), [0, 0.25]
  )
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e-31, 0.0]])
  unit = [[0.6, 0.8], [0, 0], [1, 0], [0, 0]]
  np.testing.assert_allclose(distances.l2_normalize(x), unit, rtol=1e-6)
  assert distances.l2_normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("case", CASES)
def test_nan_stays_nan(case):
  x = jnp.array([[jnp.nan, 1.0], [1.0, 0.0]])
  d = compiled(FUNCTIONS[case])(x, x)
  assert np.all(np.isnan(d[0])) and np.isnan(d[1, 0]) and not np.isnan(d[1, 1])


def test_normalizing_keeps_nan():
  assert np.all(np.isnan(distances.l2_normalize(jnp.array([[jnp.nan, 1.0]]))))


@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_that_of_its_values(case):
  """bfloat16 inputs give what their float32 values give: nothing is rounded on the way."""
  x = jnp.asarray(RNG.normal(size=(6, 300)) / 10, jnp.bfloat16)
  half, wide = compiled(lambda x: [FUNCTIONS[case](v, v) for v in (x, x.astype(jnp.float32))])(x)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, wide, rtol=2e-5, atol=2e-3)
  off = ~np.eye(6, dtype=bool)  # on the diagonal, square roots of rounding
  np.testing.assert_allclose(half[off], wide[off], rtol=2e-5, atol=1e-6)


def test_products_accumulate_in_float32():
  """4,099 needs 13 bits: bfloat16 has 8."""
  x = jnp.ones((1, 4099), jnp.bfloat16)
  assert float(distances.dot(x, x)[0, 0]) == -4099
  np.testing.assert_allclose(distances.cosine(x, x), [[0]], atol=1e-6)
  # Variances are 1 of the anchor, 4 of the difference.
  signs = jnp.where(jnp.arange(4098) % 2, 1.0, -1.0)[None].astype(jnp.bfloat16)
  np.testing.assert_allclose(distances.signal_to_noise(signs, -signs), [[4]], rtol=1e-6)


def test_signal_to_noise_by_hand():
  x, y = jnp.array([[1.0, -1.0], [3.0, 3.0]]), jnp.array([[2.0, 0.0], [0.0, 4.0]])
  # var(x_0) = 1; the differences [-1, -1] and [1, -5] have variances 0 and 9. x_1 has no signal.
  np.testing.assert_allclose(distances.signal_to_noise(x, y), [[0, 9], [0, 0]], atol=1e-6)
  gradient = jax.grad(lambda a: jnp.sum(distances.signal_to_noise(a, y)))(x)
  assert np.any(gradient[0]) and not np.any(gradient[1])


def test_signal_to_noise_does_not_see_a_common_shift():
  """Neither of an example's components together, nor the scale of both."""
  with jax.enable_x64(True):
    d = distances.signal_to_noise(X, Y)
    np.testing.assert_allclose(distances.signal_to_noise(X + 3.0, Y - 7.0), d, rtol=1e-9)
    np.testing.assert_allclose(distances.signal_to_noise(5.0 * X, 5.0 * Y), d, rtol=1e-9)


@pytest.mark.parametrize("curvature", [0.05, 0.3, 1.0, 4.0])
def test_hyperbolic_along_a_ray_is_twice_the_difference(curvature):
  """exp_0 is an isometry along rays, up to the factor 2, whatever the curvature."""
  fn, off = distances.hyperbolic(curvature=curvature, clip_radius=None), ~np.eye(6, dtype=bool)
  t = np.array([0.0, 0.2, 0.9, 1.7, 2.4, -1.1])
  expected = 2 * np.abs(t[:, None] - t[None, :])
  ray = t[:, None] * np.array([0.6, 0.0, -0.8])
  with jax.enable_x64(True):
    np.testing.assert_allclose(fn(ray, ray), expected, rtol=1e-7, atol=1e-5)
  # float32, as far as the default radius; coincident points are the root of what is rounded away.
  cut = min(1.0, 2.3 / math.sqrt(curvature) / 2.4)
  d = fn(jnp.asarray(cut * ray, jnp.float32), jnp.asarray(cut * ray, jnp.float32))
  np.testing.assert_allclose(d[off], cut * expected[off], rtol=1e-3)
  np.testing.assert_allclose(np.diagonal(d), 0, atol=2e-2)


def test_hyperbolic_becomes_euclidean_as_the_curvature_goes_to_zero():
  with jax.enable_x64(True):
    expected, gaps = 2 * distances.euclidean(X, Y), []
    for curvature in (1e-1, 1e-2, 1e-3, 1e-6):
      d = distances.hyperbolic(curvature=curvature, clip_radius=None)(X, Y)
      gaps.append(np.max(np.abs(d / expected - 1)))
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-5 < 1e-2 < gaps[0]


def test_hyperbolic_is_not_euclidean_across_rays():
  """The law of cosines of a right angle: cosh(c) = cosh(a) cosh(b), sides twice the features."""
  x, y = jnp.array([[0.5, 0.0]]), jnp.array([[0.0, 0.8]])
  d = distances.hyperbolic(curvature=1.0)(x, y)
  np.testing.assert_allclose(d, [[math.acosh(math.cosh(1.0) * math.cosh(1.6))]], rtol=1e-6)


def test_hyperbolic_clips_the_radius_and_keeps_the_direction():
  fn = distances.hyperbolic(curvature=1.0, clip_radius=1.5)
  near, far = jnp.array([[1.5, 0.0], [0.0, 1.5]]), jnp.array([[70.0, 0.0], [0.0, 1.6]])
  np.testing.assert_allclose(fn(near, near), fn(far, far), atol=1e-3)
  np.testing.assert_allclose(fn(near, near)[0, 1], fn(far, far)[0, 1], rtol=1e-5)
  # Beyond the radius a feature can still turn, and only turn.
  gradient = jax.grad(lambda a: fn(a, near)[0, 1])(far[:1])
  assert abs(gradient[0, 0]) < 1e-7 < 1e-3 < abs(gradient[0, 1])


def test_hyperbolic_without_clip_ends_where_float32_does():
  """At 6 / sqrt(c) from the origin: finite, and still telling directions apart."""
  fn = distances.hyperbolic(curvature=4.0, clip_radius=None)
  x = jnp.array([[3.0, 0.0], [300.0, 0.0], [-300.0, 0.0], [0.0, 300.0]])
  d = fn(x, x)
  np.testing.assert_allclose(d[0, 1], 0, atol=1e-2)
  np.testing.assert_allclose(d[1, 2], 2 * (3 + 3), rtol=1e-4)
  assert 0 < d[1, 3] < d[1, 2]
  assert np.all(np.isfinite(compiled(jax.grad(lambda a: jnp.sum(fn(a, a))))(x)))


def test_hyperbolic_curvature_is_learnable():
  with jax.enable_x64(True):
    of = lambda c: jnp.sum(distances.hyperbolic(curvature=c, clip_radius=1.0)(X, Y))
    value = compiled(jax.value_and_grad(of))
    numeric = (value(0.7 + 1e-6)[0] - value(0.7 - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(value(0.7)[1], numeric, rtol=1e-6)
    assert abs(numeric) > 1e-2


def test_normalized_wraps_and_names():
  fn = distances.normalized(distances.dot)
  assert fn.name == "normalized_dot"
  np.testing.assert_allclose(fn(3 * X, Y), distances.cosine(X, Y) - 1.0, atol=1e-6)
  fn = distances.normalized(distances.hyperbolic(curvature=0.5))
  assert fn.name == "normalized_hyperbolic"
  np.testing.assert_allclose(fn(3 * X, Y), fn(X, 7 * Y), rtol=1e-5)


# Products whose gradients are written by hand.


@pytest.mark.parametrize("with_rows", [False, True])
def test_matmul_transposed_is_the_plain_product(with_rows):
  rng = np.random.default_rng(0)
  x, y, bar = (np.float32(rng.normal(size=s)) for s in ((5, 3), (3, 7), (5, 7)))
  of = lambda x, y: distances.matmul_transposed(x, y, y.T if with_rows else None)
  value, pull = jax.vjp(of, x, y)
  np.testing.assert_allclose(value, x @ y, rtol=1e-5)
  x_bar, y_bar = pull(bar)
  np.testing.assert_allclose(x_bar, bar @ y.T, rtol=1e-5)
  np.testing.assert_allclose(y_bar, x.T @ bar, rtol=1e-5)


@pytest.mark.parametrize("with_rows", [False, True])
def test_bfloat16_accumulates_in_float32_and_gets_gradients_in_kind(with_rows):
  """300 ones: bfloat16 cannot count beyond 256."""
  x, y = jnp.ones((2, 300), jnp.bfloat16), jnp.ones((300, 4), jnp.bfloat16)
  of = lambda x, y: distances.matmul_transposed(x, y, y.T if with_rows else None)
  value, pull = jax.vjp(of, x, y)
  assert value.dtype == jnp.float32 and np.all(value == 300)
  assert all(bar.dtype == jnp.bfloat16 for bar in pull(jnp.ones_like(value)))
  assert np.all(distances.matmul(x, y.T) == 300)


@pytest.mark.parametrize("scale", [1e-29, 1e-20, 1e-19, 1e-13, 1e10, 1e19, 1e20, 1e37])
def test_scale_changes_no_direction(scale):
  x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
  scaled = jnp.asarray(x * np.float32(scale))
  np.testing.assert_allclose(
    distances.l2_normalize(scaled), x / np.linalg.norm(x, axis=1)[:, None], rtol=1e-6
  )
  gradient = jax.grad(lambda x: jnp.sum(jnp.sin(distances.l2_normalize(x))))(scaled)
  assert np.all(np.isfinite(gradient)) and (scale > 1 or np.all(np.abs(gradient) > 0))
  np.testing.assert_allclose(
    distances.norm(scaled) / np.float32(scale), np.linalg.norm(x, axis=1), rtol=1e-5
  )


@pytest.mark.parametrize("name", distances.NAMES)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e20, 1e38])
def test_finite_embeddings_have_finite_distances(name, scale):
  fn = distances.create(name)
  x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(5, 4)) * scale, jnp.float32)
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(fn(x, x[::-1])))(x)
  assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
  if scale < 1e38:
    nearest = np.asarray(fn(x, x)).argmin(axis=1)
    assert name == "dot" or scale < 1 or (nearest == np.arange(5)).all()


def _platforms_of(fn, *arguments):
  traced = jax.jit(fn).trace(*arguments).jaxpr
  return {p: set(program_cost.flops_of(traced, p)) for p in ("cpu", "tpu", "cuda")}


def test_precision_is_that_of_the_chip_unless_it_is_given():
  x, labels = jnp.ones((8, 4)), jnp.arange(8) // 2
  loss = lambda fn: jax.grad(lambda x: losses.contrastive_loss(x, labels, distance_fn=fn))
  own = {"cpu": {"highest"}, "tpu": {"high"}, "cuda": {"highest"}}
  assert _platforms_of(distances.cosine, x, x) == own == _platforms_of(loss(distances.cosine), x)
  for precision in ("highest", "high", "default"):
    found = _platforms_of(loss(distances.cosine.at(precision)), x)
    assert found == {platform: {precision} for platform in own}
  with pytest.raises(ValueError, match="precision: expected one of highest, high, default"):
    distances.cosine.at("half")


def test_three_passes_of_bfloat16_are_nearly_float32():
  """What "high" does on a TPU, emulated: the largest error of a cosine of 512 dimensions."""
  x = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  exact = x.astype(np.float64) @ x.T.astype(np.float64)
  first = jnp.asarray(x).astype(jnp.bfloat16)
  second = (x - first.astype(jnp.float32)).astype(jnp.bfloat16)
  product = lambda a, b: jnp.matmul(a, b.T, preferred_element_type=jnp.float32)
  three = product(second, first) + product(first, second) + product(first, first)
  error = lambda found: np.abs(np.asarray(found, np.float64) - exact).max()
  assert error(three) < 1e-5 < 1e-4 < error(product(first, first))
