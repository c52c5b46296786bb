"""The proxy losses by hand arithmetic."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import distances, mining
from jaxdml.losses import proxy, reducers
from tests.losses.table import compiled

log, exp, sqrt = math.log, math.exp, math.sqrt


def close(actual, expected, rtol=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=rtol)


# Two examples of class 0 and one of class 1; class 2 has none. Rows of X are unit vectors.
X = jnp.array([[0.6, 0.8], [0.0, 1.0], [0.0, -1.0]])
Y = jnp.array([0, 0, 1])
PROXIES = {"proxies": jnp.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])}
# Cosines of the examples to the proxies: (.6, .8, -.6), (0, 1, 0), (0, -1, 0).


def run(loss, params, **options):
  return compiled(lambda params, x: loss(x, Y, params=params, **options))(params, X)


def test_proxy_nca():
  # Squared distances 2 - 2 cos: (.8, .4, 3.2), (2, 0, 2), (2, 4, 2).
  rows = [0.8 + log(exp(-0.4) + exp(-3.2)), 2 + log(exp(0) + exp(-2)), 4 + log(2 * exp(-2))]
  close(run(proxy.proxy_nca_loss, PROXIES), sum(rows) / 3)
  hot = 0.8 / 2 + log(exp(-0.4 / 2) + exp(-3.2 / 2))
  close(run(proxy.proxy_nca_loss, PROXIES, temperature=2.0, reduce_fn=reducers.none)[0], hot)


def test_proxy_nca_pp():
  rows = [
    0.8 * 9 + log(exp(-0.8 * 9) + exp(-0.4 * 9) + exp(-3.2 * 9)),
    2 * 9 + log(exp(-2 * 9) + 1 + exp(-2 * 9)),
    4 * 9 + log(2 * exp(-2 * 9) + exp(-4 * 9)),
  ]
  close(run(proxy.proxy_nca_pp_loss, PROXIES), sum(rows) / 3)


def test_proxy_anchor():
  pull = lambda *s: log(1 + sum(exp(-2 * (v - 0.1)) for v in s))
  push = lambda *s: log(1 + sum(exp(2 * (v + 0.1)) for v in s))
  # Proxies 0 and 1 have examples; all three push.
  expected = (pull(0.6, 0.0) + pull(-1.0)) / 2 + (push(0.0) + push(0.8, 1.0) + push(-0.6, 0, 0)) / 3
  options = {"margin": 0.1, "alpha": 2.0}
  close(run(proxy.proxy_anchor_loss, PROXIES, **options), expected)
  rows = run(proxy.proxy_anchor_loss, PROXIES, reduce_fn=reducers.none, **options)
  close(rows, [pull(0.6, 0.0) + push(0.0), pull(-1.0) + push(0.8, 1.0), push(-0.6, 0, 0)])
  # An example of weight w is w examples: example 0 thrice, example 2 not at all.
  weighted = run(proxy.proxy_anchor_loss, PROXIES, weights=jnp.array([3.0, 1.0, 0.0]), **options)
  alike = (push(0.8, 0.8, 0.8, 1.0) + push(-0.6, -0.6, -0.6, 0)) / 3
  close(weighted, pull(0.6, 0.6, 0.6, 0.0) + alike)
  # A weight between the whole numbers is a factor before the exponential.
  half = run(proxy.proxy_anchor_loss, PROXIES, weights=jnp.array([0.5, 1.0, 0.0]), **options)
  grown = lambda s, t, sign: log(1 + 0.5 * exp(2 * (sign * s + 0.1)) + exp(2 * (sign * t + 0.1)))
  close(half, grown(0.6, 0, -1) + (grown(0.8, 1, 1) + grown(-0.6, 0, 1)) / 3)


def test_proxy_anchor_mines_examples_for_each_proxy():
  miner = mining.chain(mining.hardest_positive, mining.hardest_negative)
  value = run(proxy.proxy_anchor_loss, PROXIES, margin=0.1, alpha=2.0, mining_fn=miner)
  pull = lambda s: log(1 + exp(-2 * (s - 0.1)))
  push = lambda s: log(1 + exp(2 * (s + 0.1)))
  close(value, (pull(0.0) + pull(-1.0)) / 2 + (push(0.0) + push(1.0) + push(0.0)) / 3)


def test_proxy_anchor_weights_must_be_weights():
  for bad in (-1.0, np.nan):
    for where in (None, jnp.array([True, False, True])):
      weights = jnp.array([1.0, bad, 1.0])
      value = run(proxy.proxy_anchor_loss, PROXIES, weights=weights, where=where)
      assert np.isnan(value) == (where is None)


CENTERS = {
  "centers": jnp.array(
    [[[1.0, 0.0], [0.0, 3.0]], [[0.0, -1.0], [0.0, -1.0]], [[-1.0, 0.0], [0.6, -0.8]]]
  )
}


def test_soft_triple():
  # Cosines of the last example (0, -1): class 0: 0 and -1; class 1: 1 and 1; class 2: 0 and .8.
  options = {"la": 3.0, "gamma": 0.5, "margin": 0.2, "reduce_fn": reducers.none}
  soft = lambda a, b: (a * exp(a / 0.5) + b * exp(b / 0.5)) / (exp(a / 0.5) + exp(b / 0.5))
  own, others = 3 * (1.0 - 0.2), [3 * soft(0, -1), 3 * soft(0, 0.8)]
  expected = log(exp(own) + sum(map(exp, others))) - own
  close(run(proxy.soft_triple_loss, CENTERS, **options)[2], expected)


def test_soft_triple_draws_the_centers_of_a_class_together_once():
  # Distances of unit centers: sqrt 2, 0, and sqrt(2 + 2 * .6); C K (K - 1) = 3 * 2 * 1.
  penalty = (sqrt(2) + 0 + sqrt(2 + 1.2)) / 6
  loss = lambda tau, c, reduce_fn: proxy.soft_triple_loss(
    X, Y, params=c, tau=tau, reduce_fn=reduce_fn
  )
  for reduce_fn in (reducers.mean, reducers.sum):
    fn = compiled(jax.value_and_grad(functools.partial(loss, reduce_fn=reduce_fn), argnums=1))
    (value, gradient), (plain, plain_gradient) = fn(0.6, CENTERS), fn(0.0, CENTERS)
    close(value - plain, 0.6 * penalty)
    pulled = gradient["centers"] - plain_gradient["centers"]
    assert np.all(np.isfinite(pulled)) and np.all(np.any(pulled[0], axis=1))
    # The coincident centers of class 1 are at the minimum.
    np.testing.assert_allclose(pulled[1], 0.0, atol=1e-6)
  unreduced = compiled(functools.partial(loss, reduce_fn=reducers.none))
  np.testing.assert_array_equal(unreduced(0.6, CENTERS), unreduced(0.0, CENTERS))


def test_one_center_has_nothing_to_draw_together():
  one = {"centers": PROXIES["proxies"][:, None]}
  value = run(proxy.soft_triple_loss, one, la=20.0, margin=0.0, tau=0.5)
  cosine = run(proxy.proxy_nca_pp_loss, PROXIES, temperature=1 / 20, distance_fn=distances.cosine)
  close(value, cosine)


def test_small_losses_are_not_rounded_to_zero():
  params = {"proxies": jnp.eye(2)}
  loss = lambda x: proxy.proxy_nca_pp_loss(x, jnp.arange(2), params=params, temperature=0.1)
  close(compiled(loss)(jnp.eye(2)), math.log1p(exp(-20)))
