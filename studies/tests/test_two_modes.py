"""The expected loss in closed form: by enumeration of all labels, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining
from jaxdml.losses import reducers
from studies import two_modes

PER_MODE = 2
LABELINGS = np.stack(np.meshgrid(*[[0, 1]] * 4 * PER_MODE), axis=-1).reshape(-1, 4 * PER_MODE)


def enumerated(loss, easy, noise, d1, d2):
  """The mean over all labelings, each by its probability, of jaxdml's loss of an anchor."""
  z = np.repeat(two_modes.embeddings(d1, d2), PER_MODE, axis=0)
  flips = LABELINGS ^ np.repeat([0, 0, 1, 1], PER_MODE)
  probability = np.prod(np.where(flips, noise, 1.0 - noise), axis=1)
  miner = mining.nearest_positive if easy else None
  fn = losses.create(loss, reduce_fn=reducers.sum, mining_fn=miner)
  values = jax.jit(jax.vmap(fn, (None, 0)))(jnp.asarray(z, jnp.float32), jnp.asarray(LABELINGS))
  return probability @ np.asarray(values, np.float64) / len(z)


@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("loss", two_modes.LOSSES)
def test_closed_form_equals_enumeration(loss, easy):
  # Modes nearer than classes, and farther; hinges active and not.
  for noise, d1, d2 in ((0.0, 1.2, 1.1), (0.1, 0.3, 0.4), (0.3, 1.2, 0.9), (0.2, 0.8, 1.5)):
    found = two_modes.expected_loss(loss, d1, d2, noise=noise, per_mode=PER_MODE, easy=easy)
    # float32 distances of equal points are off by up to 3e-4.
    assert found == pytest.approx(enumerated(loss, easy, noise, d1, d2), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("d1", [0.1, 0.7, 1.3])
@pytest.mark.parametrize("d2", [0.3, 1.1, 1.5])
def test_closed_form_by_hand(d1, d2):
  noise, k = 0.15, 5
  u, relu = noise * (1 - noise), lambda x: max(x, 0.0)
  m, s1, s2 = 0.2, d1**2, d2**2
  # P(a and p share a label that n lacks) is u, but 1 - 3u where that is the truth.
  same_class = (k - 1) * (k - 2) * m + k * (k - 1) * (relu(m - s1) + (s1 + m) + m)
  truth = 2 * k * ((k - 1) * relu(m - s2) + k * relu(s1 - s2 + m))
  mirrored = 2 * k * ((k - 1) * (s2 + m) + k * relu(s2 - s1 + m))
  other_class = 2 * k * (2 * k - 1) * m
  by_hand = u * (same_class + mirrored + other_class) + (1 - 3 * u) * truth
  found = two_modes.expected_loss("triplet", d1, d2, noise=noise, per_mode=k)
  assert found == pytest.approx(by_hand, rel=1e-12)

  b = 1.2
  pull, push = (lambda d: relu(d - b + m)), (lambda d: relu(b + m - d))
  by_hand = (k - 1) * 2 * u * push(0.0) + k * ((1 - 2 * u) * pull(d1) + 2 * u * push(d1))
  by_hand += 2 * k * (2 * u * pull(d2) + (1 - 2 * u) * push(d2))
  found = two_modes.expected_loss("margin", d1, d2, noise=noise, per_mode=k)
  assert found == pytest.approx(by_hand, rel=1e-12)


def test_where_the_minima_are():
  minima = lambda loss, noise, easy: two_modes.landscape(
    loss, noise=noise, per_mode=6, easy=easy
  ).minima()
  # Without noise a whole range of mode distances costs nothing.
  assert minima("triplet", 0.0, False) == pytest.approx((0.0, 1.59))
  assert minima("margin", 0.0, False) == pytest.approx((0.0, 1.0))
  assert minima("triplet", 0.0, True) == pytest.approx((0.0, 1.8))
  for noise in (1e-3, 0.1, 0.4):
    # Collapse with all positives; with the nearest, D1 = D2 + margin = 2 margin.
    assert minima("triplet", noise, False) == (0.0, 0.0)
    if noise < 0.4:  # when flipped labels are many, they have easy positives too
      assert minima("triplet", noise, True) == pytest.approx((0.63, 0.63))  # sqrt(0.4) on the grid
    # The margin loss stops pulling at beta - margin: no collapse there.
    assert minima("margin", noise, False) == pytest.approx((1.0, 1.0))
    assert minima("margin", noise, True)[0] == pytest.approx(1.4)


def test_class_distance_of_the_landscape_is_the_best():
  land = two_modes.landscape("triplet", noise=0.05, per_mode=6, points=4)
  for d1, value in zip(land.mode_distance, land.value, strict=True):
    low, high = d1 / np.sqrt(2), np.sqrt(4 - d1**2 / 2)
    d2 = np.linspace(low, high, 5001)
    assert value <= two_modes.expected_loss("triplet", d1, d2, noise=0.05, per_mode=6).min() + 1e-9
  assert land.class_distance[0] == pytest.approx(np.sqrt(0.2))


@pytest.mark.parametrize("d1, d2", [(0.0, 0.0), (2.0, np.sqrt(2)), (1.0, 1.8), (0.4, 0.3)])
def test_embeddings_have_the_distances(d1, d2):
  z = two_modes.embeddings(d1, d2)
  distance = np.linalg.norm(z[:, None] - z, axis=-1)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, atol=1e-12)
  np.testing.assert_allclose([distance[0, 1], distance[2, 3]], d1, atol=1e-7)
  np.testing.assert_allclose(distance[:2, 2:], d2, atol=1e-7)


def test_errors():
  with pytest.raises(ValueError, match="loss: expected one of triplet, margin, contrastive; got"):
    two_modes.expected_loss("npair", 1.0, 1.0, noise=0.1, per_mode=2)
  with pytest.raises(ValueError, match=r"noise: expected a probability; got 1\.5"):
    two_modes.expected_loss("margin", 1.0, 1.0, noise=1.5, per_mode=2)
  with pytest.raises(ValueError, match="per_mode: expected at least 1; got 0"):
    two_modes.expected_loss("margin", 1.0, 1.0, noise=0.5, per_mode=0)
  with pytest.raises(ValueError, match=r"mode_distance=1\.0 and class_distance=0\.1"):
    two_modes.embeddings(1.0, 0.1)
