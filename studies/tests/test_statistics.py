"""Intervals against hand arithmetic, and how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest

from studies import statistics

FIVE = [0.1, 0.2, 0.4, 0.4, 0.9]  # mean 0.4, squares of deviations 0.09 + 0.04 + 0.25 = 0.38


def test_t_interval_by_hand():
  interval = statistics.mean_interval(FIVE)
  half = 2.7764451051977987 * math.sqrt(0.38 / 4) / math.sqrt(5)
  np.testing.assert_allclose(interval, (0.4, 0.4 - half, 0.4 + half, 5), rtol=1e-12)
  np.testing.assert_allclose((interval.high - interval.low) / 2, half, rtol=1e-12)
  wide = statistics.mean_interval([0.0, 1.0], confidence=0.5)  # t_1 at 0.75 is 1
  np.testing.assert_allclose(wide, (0.5, 0.0, 1.0, 2), atol=1e-12)


def test_one_value_has_no_interval_and_equal_values_have_a_point():
  for function in (statistics.mean_interval, statistics.bootstrap_interval):
    mean, low, high, n = function([0.3])
    assert (mean, n) == (0.3, 1)
    assert math.isnan(low)
    assert math.isnan(high)
    np.testing.assert_allclose(function([0.25] * 5), (0.25, 0.25, 0.25, 5))
  single = statistics.paired_difference({0: 1.0}, {0: 0.0})
  assert not single.excludes_zero
  assert single.p == 1.0


def test_bootstrap_of_five_by_hand():
  """Phi(-sqrt(5/4) t_4) 5^5 = 2.98 means lie outside; 1 + 5 hold the least value 4 or 5 times."""
  x = [0.0, 1.0, 3.0, 4.5, 9.0]
  expected = (3.5, (4 * 0.0 + 1.0) / 5, (4.5 + 4 * 9.0) / 5, 5)
  np.testing.assert_allclose(statistics.bootstrap_interval(x), expected, rtol=1e-12)
  # It follows shifts and scales, and the order of the values does not matter.
  moved = statistics.bootstrap_interval([2 - 3 * a for a in x[::-1]])
  np.testing.assert_allclose(
    moved, (2 - 3 * 3.5, 2 - 3 * expected[2], 2 - 3 * expected[1], 5), rtol=1e-12
  )
  # At 50 %, Phi(-sqrt(5/4) 0.7407) = 20.4 % of the 3,125 lie outside on each side.
  means = sorted(sum(resample) / 5 for resample in itertools.product(x, repeat=5))
  half = statistics.bootstrap_interval(x, confidence=0.5)
  np.testing.assert_allclose(half[1:3], (means[636], means[-637]), rtol=1e-12)


def test_fewer_than_five_have_the_t_interval():
  for n in (2, 3, 4):
    assert statistics.bootstrap_interval(FIVE[:n]) == statistics.mean_interval(FIVE[:n])


def test_many_values_draw_the_same_every_time():
  x = np.random.default_rng(0).normal(size=12)
  once = statistics.bootstrap_interval(x)
  assert once == statistics.bootstrap_interval(x)
  assert once != statistics.bootstrap_interval(x, seed=1)
  back = statistics.bootstrap_interval(-x)
  np.testing.assert_allclose((back.low, back.high), (-once.high, -once.low), rtol=1e-12)
  t = statistics.mean_interval(x)
  np.testing.assert_allclose(once[1:3], t[1:3], atol=0.2 * (t.high - t.low))


def test_coverage_of_five():
  """95 % intervals of five values, 400 times each: how many hold the mean."""
  rng = np.random.default_rng(0)
  draws = {
    "normal": (rng.normal(0.3, 1, (400, 5)), 0.3),
    "uniform": (rng.uniform(size=(400, 5)), 0.5),
    "exponential": (rng.exponential(size=(400, 5)), 1.0),
  }
  for name, (samples, truth) in draws.items():
    held = []
    for function in (statistics.bootstrap_interval, statistics.mean_interval):
      intervals = [function(x) for x in samples]
      held.append(np.mean([low <= truth <= high for _, low, high, _ in intervals]))
    percentile = np.quantile(samples[:, _resamples()].mean(-1), [0.025, 0.975], axis=1)
    held.append(np.mean((percentile[0] <= truth) & (truth <= percentile[1])))
    # Standard error of 400: 1.1 to 1.7 points. The module's docstring has the figures.
    expected = {"normal": 0.93, "uniform": 0.92, "exponential": 0.87}[name]
    assert held[0] == pytest.approx(expected, abs=0.035), (name, held)
    assert held[2] <= 0.86, (name, held)
    if name == "normal":
      assert abs(held[1] - 0.95) < 0.025


def _resamples():
  return np.random.default_rng(1).integers(0, 5, (500, 5))


def test_sign_flips_by_hand():
  assert statistics.sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
  # Sums of +-1 +-2 +-4 with -1 + 2 + 4 = 5: 7 and 5 reach it, and so do their negatives.
  assert statistics.sign_flip_p([-1.0, 2.0, 4.0]) == 4 / 8
  assert statistics.sign_flip_p([0.0, 0.0]) == 1.0
  # 0.1 + 0.2 and 0.3 differ in the last bit; flips that tie are ties.
  assert statistics.sign_flip_p([0.1, 0.2, -0.3]) == 1.0
  values = [0.3, 0.5, 0.1, -0.2, 0.4]
  flips = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
           for signs in itertools.product((1, -1), repeat=5)]  # fmt: skip
  assert statistics.sign_flip_p(values) == sum(f >= 1.1 - 1e-9 for f in flips) / 32


def test_sign_flips_of_many_are_drawn():
  x = np.random.default_rng(0).normal(size=40)
  p = statistics.sign_flip_p(x)
  assert p == statistics.sign_flip_p(x)
  normal = 2 * (1 - statistics.stats.norm.cdf(abs(x.sum()) / math.sqrt((x**2).sum())))
  assert p == pytest.approx(normal, abs=0.03)
  assert statistics.sign_flip_p(np.ones(40)) == pytest.approx(1 / 20001)


def test_sign_flips_are_as_rare_as_they_say():
  """Of interchangeable arms, p <= 0.0625 in 2 of 32 cases."""
  x = np.random.default_rng(0).normal(size=(4000, 5))
  small = np.mean([statistics.sign_flip_p(row) <= 0.0625 for row in x])
  assert small == pytest.approx(0.0625, abs=0.012)


def test_pairs_are_by_seed():
  first = {3: 0.5, 1: 0.2, 7: 0.9}
  second = {7: 0.1, 3: 0.3, 1: 0.3}
  d = statistics.paired_difference(first, second)
  assert d.seeds == (1, 3, 7)
  np.testing.assert_allclose(d.values, [-0.1, 0.2, 0.8])
  np.testing.assert_allclose(d.mean, 0.3)
  assert d.n == 3
  assert d.p == 4 / 8
  below = statistics.paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 3.0, 1: 4.1, 2: 5.0})
  above = statistics.paired_difference({0: 3.0, 1: 4.1, 2: 5.0}, {0: 1.0, 1: 2.0, 2: 3.0})
  assert (below.excludes_zero, above.excludes_zero, d.excludes_zero) == (True, True, False)


def test_bad_values():
  for bad in ([], [math.nan], [1.0, math.inf]):
    for function in (
      statistics.mean_interval,
      statistics.bootstrap_interval,
      statistics.sign_flip_p,
    ):
      with pytest.raises(ValueError, match="values: expected one or more finite numbers"):
        function(bad)
