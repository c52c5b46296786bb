"""Dials that set themselves: they follow shares, not the units of losses and features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, hdml, losses, refs
from jaxdml.losses import reducers
from tests.hdml import tiny

LABELS = jnp.array([0, 0, 1, 1, 2, 2, 0, 0, 3])  # anchor, positive, negative ...
FEATURES, CLASSES, WINDOW = 5, 4, 2


def params_of(y):
  """Networks without norms, trained: the generator inverts the embedding, the head knows y."""
  embedding = jax.random.normal(jax.random.key(0), (FEATURES, 4)) / jnp.std(y)
  head = 4.0 * jnp.linalg.pinv(y) @ jax.nn.one_hot(LABELS, CLASSES)
  return {"embedding": embedding, "generator": jnp.linalg.pinv(embedding), "head": head}


def run(steps=5, loss_scale=1.0, feature_scale=1.0, regularizer=0.0, shrink=0.7, **dials):
  """[(lambda, trust, metrics)] of steps in which everything shrinks, as if training succeeded."""
  networks = hdml.Networks(
    lambda w, y: (y @ w, None), lambda w, z: (z @ w, None), lambda w, y: y @ w
  )
  loss = lambda *args, **kwargs: loss_scale * losses.triplet_loss(*args, margin=1.0, **kwargs)
  config = hdml.HdmlConfig(window=WINDOW, slots=None, sum_reconstruction=False, **dials)
  y = feature_scale * jax.random.normal(jax.random.key(1), (len(LABELS), FEATURES))
  params = params_of(y)

  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def step(state, factor):
    features = y * factor
    return hdml.objective(
      networks, params, features, features @ params["embedding"], LABELS, state,
      loss_fn=loss, distance_fn=distances.squared_euclidean, reduce_fn=reducers.sum,
      layout=refs.create("triplet"), config=config, regularizer=regularizer,
    )[1]  # fmt: skip

  state, seen = hdml.init_state(), []
  for index in range(steps * WINDOW):
    state, _, metrics = step(state, shrink ** (index // WINDOW))
    seen.append({key: float(value) for key, value in metrics.items()})
  return seen


def schedule(seen):
  return np.array([[m["hdml/lambda"], m["hdml/trust_in_real"]] for m in seen])


def test_lambda_follows_how_far_the_loss_has_fallen():
  seen = run(alpha="auto", beta="auto", shrink=0.7)
  lam = schedule(seen)[:, 0]
  assert np.all(lam[:WINDOW] == 1.0), "before the first window ends nothing is pulled"
  means = np.array([m["loss/real"] for m in seen]).reshape(-1, WINDOW).mean(1)
  assert means[-2] < 0.6 * means[0]
  for window, mean in enumerate(means[:-1]):
    want = np.exp(-0.1 * means[0] / mean)
    np.testing.assert_allclose(lam[(window + 1) * WINDOW], want, rtol=1e-5)


def test_synthetics_weigh_what_the_generator_keeps():
  """w = 1 - (1 - error)(1 - CE / log C), each share in [0, 1], over the last window."""
  seen = run(alpha="auto", beta="auto", joint_soft=True, loss_scale=2.0, feature_scale=0.1)
  trust = schedule(seen)[:, 1]
  assert np.all(trust[:WINDOW] == 1.0), "the generator is not trusted unseen"
  share = lambda x: np.clip(1.0 - x, 0.0, 1.0)
  kept = [share(m["hdml/reconstruction_error"]) * share(m["loss/soft"] / np.log(4)) for m in seen]
  assert 0.01 < max(kept) < 1.0
  means = 1.0 - np.reshape(kept, (-1, WINDOW)).mean(1)
  np.testing.assert_allclose(trust[WINDOW::WINDOW], means[:-1], rtol=1e-5)


@pytest.mark.parametrize(
  "scales",
  [{"loss_scale": 1e-4}, {"loss_scale": 3e5}, {"feature_scale": 1e-3}, {"feature_scale": 1e3}],
)
def test_units_change_nothing(scales):
  np.testing.assert_allclose(
    schedule(run(alpha="auto", beta="auto", **scales)),
    schedule(run(alpha="auto", beta="auto")),
    rtol=1e-4,
  )


def test_published_dials_are_in_units():
  """What the test above would say of dials that are numbers."""
  dials = {"alpha": 2.0, "beta": 3.0}
  assert not np.allclose(schedule(run(loss_scale=10.0, **dials)), schedule(run(**dials)), rtol=0.1)


def test_weight_decay_in_the_loss_is_no_part_of_the_schedule():
  np.testing.assert_array_equal(
    schedule(run(alpha="auto", beta="auto", regularizer=1e3)),
    schedule(run(alpha="auto", beta="auto")),
  )


@pytest.mark.parametrize(
  ("error", "cross_entropy", "want"),
  [
    (0.0, 0.0, 0.0),
    (0.25, 0.0, 0.25),
    (0.5, np.log(10) / 2, 0.75),
    (2.0, 0.0, 1.0),
    (0.0, 99.0, 1.0),
  ],
)
def test_distrust(error, cross_entropy, want):
  np.testing.assert_allclose(hdml.distrust(error, cross_entropy, 10), want, atol=1e-6)


def test_one_class_keeps_its_label():
  assert float(hdml.distrust(0.0, 0.0, 1)) == 0.0


def test_the_first_window_is_kept_once():
  state = hdml.init_state()
  for value in (8.0, 4.0, 2.0, 2.0, 1.0):
    state = hdml.update_state(state, jnp.float32(value), jnp.float32(1.0), 2)
  assert (float(state.first), float(state.metric.mean)) == (6.0, 2.0)
