"""The proxy losses by hand arithmetic, and all losses with parameters on eight devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdml import distances, mining
from jaxdml.losses import proxy, reducers
from tests.losses.proxy_table import LOSS, OPTIONS, init
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


# Eight devices with unequal numbers of valid examples equal one device with all of them.

DEVICES, EACH, FEATURES, D = 8, 2, 4, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(DEVICES, EACH, FEATURES)).astype(np.float32)
WHERE = np.ones((DEVICES, EACH), bool)
WHERE[1, 1] = WHERE[4] = False
WEIGHTS = RNG.integers(0, 4, (DEVICES, EACH)).astype(np.float32)
ENCODER = RNG.normal(size=(FEATURES, D)).astype(np.float32)


def _loss(name, learnt, images, labels, where, weights, **options):
  return LOSS[name](
    images @ learnt["encoder"], labels, params=learnt["params"], where=where, weights=weights,
    **OPTIONS[name], **options,
  )  # fmt: skip


def _check(name, mapped, classes=5, one=None, **options):
  labels = np.arange(DEVICES * EACH).reshape(DEVICES, EACH) % (classes - 1)
  data = (IMAGES, labels, WHERE, WEIGHTS)
  learnt = {"encoder": ENCODER, "params": init(name, classes=classes, dim=D)}

  def device(learnt, *data):
    value, gradient = jax.value_and_grad(functools.partial(_loss, name, **options))(learnt, *data)
    return value, jax.lax.psum(gradient, "batch")

  values, gradients = jax.device_get(mapped(device)(learnt, *data))
  whole = [a.reshape(-1, *a.shape[2:]) for a in data]
  one = compiled(jax.value_and_grad(one or functools.partial(_loss, name)))
  value, gradient = jax.device_get(one(learnt, *whole))
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
  np.testing.assert_array_equal(values, values[0])  # the same bits on every device
  close(values[0], value)
  for d in range(DEVICES):
    jax.tree.map(
      lambda many, g, d=d: np.testing.assert_allclose(many[d], g, rtol=2e-5, atol=2e-6),
      gradients, gradient,
    )  # fmt: skip


def by_vmap(device):
  return compiled(jax.vmap(device, axis_name="batch", in_axes=(None, 0, 0, 0, 0)))


def by_pmap(device):
  return jax.pmap(device, axis_name="batch", in_axes=(None, 0, 0, 0, 0))


def by_shard_map(device):
  def local(learnt, *data):
    result = device(learnt, *(a[0] for a in data))
    return jax.tree.map(lambda a: a[None], result)

  mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("batch",))
  spec = PartitionSpec("batch")
  return jax.jit(
    jax.shard_map(
      local, mesh=mesh, in_specs=(PartitionSpec(), *[spec] * 4), out_specs=spec, check_vma=False
    )
  )


@pytest.mark.parametrize("name", LOSS)
def test_devices_equal_one(name):
  _check(name, by_vmap, axis_name="batch")


@pytest.mark.parametrize("name", ["proxy_nca", "proxy_anchor", "soft_triple"])
def test_pmap_in_blocks_equals_one(name):
  _check(name, by_pmap, axis_name="batch", block_size=1)


@pytest.mark.parametrize("name", ["proxy_anchor", "soft_triple"])
def test_axis_bound_to_the_reducer(name):
  """Two proxies a device and a half-filled one: 11 classes, padded to 16."""
  reduce_fn = functools.partial(reducers.mean, axis_name="batch")
  _check(name, by_shard_map, classes=11, reduce_fn=reduce_fn)


def test_random_proxies_are_the_same_on_any_number_of_devices():
  options = {"mining_fn": mining.random_negative, "key": jax.random.key(3)}
  one = functools.partial(_loss, "proxy_nca", **options)
  _check("proxy_nca", by_vmap, one=one, axis_name="batch", **options)


def test_bad_example_on_one_device_is_nan_on_all():
  labels = np.zeros((DEVICES, EACH), int)
  unknown, images = labels.copy(), IMAGES.copy()
  unknown[6, 0], images[3, 1, 2] = 5, np.nan
  for name in ("proxy_anchor", "cosface"):
    learnt = {"encoder": ENCODER, "params": init(name)}
    fn = by_vmap(functools.partial(_loss, name, axis_name="batch"))
    assert np.all(np.isfinite(fn(learnt, IMAGES, labels, WHERE, WEIGHTS)))
    assert np.all(np.isnan(fn(learnt, IMAGES, unknown, WHERE, WEIGHTS)))
    assert np.all(np.isnan(fn(learnt, images, labels, WHERE, WEIGHTS)))


def test_random_mining_draws_the_same_on_any_number_of_devices():
  miner, key = mining.random_positive, jax.random.key(2)
  learnt = {"encoder": ENCODER, "params": init("proxy_anchor", dim=D)}
  labels = np.arange(DEVICES * EACH).reshape(DEVICES, EACH) % 3
  data = (IMAGES, labels, WHERE, WEIGHTS)
  fn = functools.partial(_loss, "proxy_anchor", mining_fn=miner, key=key)
  values = by_vmap(functools.partial(fn, axis_name="batch"))(learnt, *data)
  close(
    values, np.full(DEVICES, compiled(fn)(learnt, *(a.reshape(-1, *a.shape[2:]) for a in data)))
  )
