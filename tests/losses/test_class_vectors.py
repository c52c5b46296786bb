"""The margin softmaxes by hand arithmetic, and their functions of the angle."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, mining
from jaxdml.losses import class_vectors, reducers
from tests.losses.table import compiled

log, exp, cos, sin, pi = math.log, math.exp, math.cos, math.sin, math.pi

# Cosines to the proxies: (.6, .8) and (-1, 0).
X = jnp.array([[1.2, 1.6], [-3.0, 0.0]])
Y = jnp.array([0, 0])
PARAMS = {"proxies": jnp.array([[1.0, 0.0], [0.0, 2.0]])}


def close(actual, expected, rtol=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=rtol)


def rows(loss, params=None, **options):
  call = functools.partial(loss, reduce_fn=reducers.none, **options)
  return compiled(lambda params, x: call(x, Y, params=params))(params or PARAMS, X)


def cross_entropy(own, *others):
  return log(exp(own) + sum(map(exp, others))) - own


def test_normalized_softmax():
  expected = [cross_entropy(0.6 / 0.05, 0.8 / 0.05), cross_entropy(-1 / 0.05, 0)]
  close(rows(class_vectors.normalized_softmax_loss), expected)
  mean = compiled(lambda x: class_vectors.normalized_softmax_loss(x, Y, params=PARAMS))(X)
  close(mean, sum(expected) / 2)


def test_cosface():
  expected = [cross_entropy(2 * (0.6 - 0.3), 2 * 0.8), cross_entropy(2 * (-1 - 0.3), 0)]
  close(rows(class_vectors.cosface_loss, margin=0.3, scale=2.0), expected)


def test_arcface():
  # cos(t + .5) with cos t = .6, sin t = .8; the second is past pi: -1 - .5 sin .5.
  expected = [
    cross_entropy(2 * (0.6 * cos(0.5) - 0.8 * sin(0.5)), 2 * 0.8),
    cross_entropy(2 * (-1 - 0.5 * sin(0.5)), 0),
  ]
  close(rows(class_vectors.arcface_loss, scale=2.0), expected)


def test_sub_center_arcface_takes_the_nearest_center():
  # Cosines of the first example: (.6, -1 * .6) and (.8, .6 * .8 + .8 * .6); of the second: 1, 0.
  centers = {"centers": jnp.array([[[1.0, 0.0], [-2.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]]])}
  expected = [
    cross_entropy(2 * (0.6 * cos(0.5) - 0.8 * sin(0.5)), 2 * 0.96),
    cross_entropy(2 * cos(0.5), 0),
  ]
  close(rows(class_vectors.sub_center_arcface_loss, centers, scale=2.0), expected)


def test_a_miner_picks_among_the_centers():
  centers = {"centers": jnp.array([[[1.0, 0.0], [-2.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]]])}
  miner = mining.hardest_positive  # the farthest own center: cosines -.6 and -1
  expected = [
    cross_entropy(2 * (-0.6 * cos(0.5) - 0.8 * sin(0.5)), 2 * 0.96),
    cross_entropy(2 * (-1 - 0.5 * sin(0.5)), 0),
  ]
  loss = class_vectors.sub_center_arcface_loss
  close(rows(loss, centers, scale=2.0, mining_fn=miner), expected)


def test_sphereface():
  # ||x|| = 2 and 3. cos 2t = 2 * .36 - 1 = -.28, t < pi / 2; t = pi: -cos 2 pi - 2 = -3.
  expected = [cross_entropy(2 * -0.28, 2 * 0.8), cross_entropy(3 * -3, 0)]
  close(rows(class_vectors.sphereface_loss, margin=2), expected)
  expected = [cross_entropy(1.5 * 2 * -0.28, 1.5 * 2 * 0.8), cross_entropy(1.5 * 3 * -3, 0)]
  close(rows(class_vectors.sphereface_loss, margin=2, scale=1.5), expected)


def test_no_margin_is_the_normalized_softmax():
  plain = rows(class_vectors.normalized_softmax_loss, temperature=0.25)
  close(rows(class_vectors.arcface_loss, margin=0.0, scale=4.0), plain)
  close(rows(class_vectors.cosface_loss, margin=0.0, scale=4.0), plain)
  one = {"centers": PARAMS["proxies"][:, None]}
  close(rows(class_vectors.sub_center_arcface_loss, one, margin=0.0, scale=4.0), plain)
  of_norm = rows(class_vectors.sphereface_loss, margin=1)
  close(of_norm, [cross_entropy(2 * 0.6, 2 * 0.8), cross_entropy(-3, 0)])


ANGLES = np.linspace(0.0, pi, 241)


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
def test_multiplied_angle(times):
  with jax.enable_x64(True):
    value = np.asarray(class_vectors._multiply_angle(jnp.cos(ANGLES), times))
    k = np.minimum(np.floor(ANGLES * times / pi), times - 1)
    np.testing.assert_allclose(value, (-1) ** k * np.cos(times * ANGLES) - 2 * k, atol=1e-12)
    assert np.all(np.diff(value) < 1e-12)  # it falls from 1 to 1 - 2 times
    np.testing.assert_allclose(value[[0, -1]], [1.0, 1 - 2 * times], atol=1e-12)
    beyond = class_vectors._multiply_angle(jnp.array([1.5, -1.5]), times)
    np.testing.assert_allclose(beyond, [1.5, 1 - 2 * times - 0.5], atol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 2.0, pi])
def test_added_angle(margin):
  with jax.enable_x64(True):
    value = class_vectors._add_angle(jnp.cos(ANGLES), margin)
    past = np.cos(ANGLES) - margin * np.sin(margin)
    expected = np.where(ANGLES + margin <= pi + 1e-9, np.cos(ANGLES + margin), past)
    np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["arcface", "sub_center_arcface", "sphereface"])
def test_gradients_are_finite_at_and_beside_both_ends_of_the_angle(name, dtype):
  """Where the arc cosine has an infinite slope: an embedding on its class vector or opposite."""
  loss = getattr(class_vectors, f"{name}_loss")
  own = np.array([0.6, 0.8, 0.1])
  vectors = jnp.array(np.stack([own, [1.0, 0.0, 0.0]]), jnp.float32)
  params = {"proxies": vectors} if "center" not in name else {"centers": vectors[:, None]}
  f = compiled(jax.value_and_grad(lambda x, p: loss(x, jnp.zeros(1, int), params=p), (0, 1)))
  for sign in (1.0, -1.0):
    for off in (0.0, 1e-8, 1e-7, 1e-6, 1e-4):
      x = jnp.asarray(sign * own[None] + off * np.array([0.8, -0.6, 0.0]), dtype)
      value, gradient = f(x, params)
      assert np.isfinite(value)
      assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
      # scale 64, psi' at most 16: no slope beyond that of the loss itself times rounding.
      assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient)) < 1e3


@pytest.mark.parametrize("margin", [0, -1, 1.5, 4.0, "4", None])
def test_sphereface_margin_is_a_positive_integer(margin):
  with pytest.raises(ValueError, match=r"margin must be an integer of at least 1, not traced; got"):
    class_vectors.sphereface_loss(X, Y, params=PARAMS, margin=margin)


def test_traced_sphereface_margin():
  with pytest.raises(ValueError, match="margin must be an integer of at least 1, not traced"):
    jax.jit(lambda m: class_vectors.sphereface_loss(X, Y, params=PARAMS, margin=m))(4)


def test_the_norm_of_sphereface_is_learnt_too():
  """||x|| multiplies all logits, though the cosine distance ignores it."""
  radial = lambda loss: compiled(jax.grad(lambda r: loss(r * X, Y, params=PARAMS)))(1.0)
  assert abs(radial(functools.partial(class_vectors.sphereface_loss, margin=2))) > 0.1
  np.testing.assert_allclose(radial(class_vectors.cosface_loss), 0.0, atol=1e-4)


def test_other_distances():
  value = rows(class_vectors.cosface_loss, distance_fn=distances.dot, margin=0.1, scale=1.0)
  # The similarity is 1 - distance = 1 + x . p.
  close(value, [cross_entropy(1.2 - 0.1, 3.2), cross_entropy(-3 - 0.1, 0)])
