"""Effects of arms: paired by seed, pooled by seed, and refused where seeds do not pair."""

import numpy as np
import pytest

from studies import statistics, table
from studies.table import Row

PLAIN = [0.40, 0.50, 0.45, 0.42, 0.48]


def _rows(values, task="letters", loss="npair", metric="map@r"):
  """arm -> values of seeds 0, 1, ..."""
  return [
    Row("s", task, loss, arm, seed, "test", metric, value)
    for arm, of_seeds in values.items()
    for seed, value in enumerate(of_seeds)
  ]


def test_a_small_steady_effect_shows_in_pairs():
  """Seeds vary by 0.1, the effect is 0.02 +- 0.002: apart the intervals overlap."""
  eps = [x + d for x, d in zip(PLAIN, [0.02, 0.022, 0.018, 0.021, 0.019], strict=True)]
  rows = _rows({"plain": PLAIN, "EPS": eps})
  d = statistics.effect(rows, "EPS", metric="map@r", loss="npair", task="letters")
  np.testing.assert_allclose(d.mean, 0.02, rtol=1e-12)
  assert d.excludes_zero
  assert 0.015 < d.low < d.high < 0.025
  assert d.p == 0.0625
  apart = [statistics.mean_interval(values) for values in (PLAIN, eps)]
  assert apart[0].high > apart[1].low
  back = statistics.effect(rows[::-1], "plain", "EPS", metric="map@r")
  np.testing.assert_allclose((back.low, back.high), (-d.high, -d.low))


def test_pooled_effects_are_means_of_each_seed():
  rows = _rows({"plain": [0.0, 0.0, 0.0, 0.0], "EPS": [0.1, 0.2, 0.3, 0.4]})
  rows += _rows({"plain": [0.5, 0.5, 0.5, 0.5], "EPS": [0.4, 0.4, 0.6, 0.6]}, loss="margin")
  rows += _rows({"plain": [9.0], "EPS": [5.0]}, metric="nmi")
  d = statistics.effect(rows, "EPS", metric="map@r")
  np.testing.assert_allclose(d.values, [0.0, 0.05, 0.2, 0.25], atol=1e-12)
  assert d.n == 4  # Not 8.
  assert d.p == 2 / 8  # Not 2^-3: the zero flips freely.
  one = statistics.effect(rows, "EPS", metric="map@r", loss="margin")
  np.testing.assert_allclose(one.values, [-0.1, -0.1, 0.1, 0.1])


def test_unpaired_seeds_are_refused():
  rows = _rows({"plain": PLAIN, "EPS": PLAIN[:4]})
  with pytest.raises(
    statistics.UnpairedError,
    match=r"EPS \(map@r of letters, npair\) has 0, 1, 2, 3, plain .* has 0, 1, 2, 3, 4",
  ):
    statistics.effect(rows, "EPS", metric="map@r")
  with pytest.raises(statistics.UnpairedError, match=r"HDML .* has none"):
    statistics.effect(rows, "HDML", metric="map@r")
  mixed = _rows({"plain": PLAIN, "EPS": PLAIN})
  mixed += _rows({"plain": PLAIN[:3], "EPS": PLAIN[:3]}, loss="triplet")
  with pytest.raises(statistics.UnpairedError, match=r"npair has \(0, 1, 2, 3, 4\), letters, "):
    statistics.effect(mixed, "EPS", metric="map@r")
  assert statistics.effect(mixed, "EPS", metric="map@r", loss="triplet").n == 3
  with pytest.raises(statistics.UnpairedError, match="first has none"):
    statistics.paired_difference({}, {})


def test_what_is_not_there():
  with pytest.raises(ValueError, match="expected nmi of EPS and plain on validation"):
    statistics.effect(_rows({"plain": PLAIN}), "EPS", metric="nmi", split="validation")


def test_all_effects():
  rows = _rows({"plain": PLAIN, "EPS": PLAIN, "HDML": PLAIN})
  rows += _rows({"plain": PLAIN, "EPS": [x + 0.1 for x in PLAIN], "HDML": PLAIN}, loss="margin")
  rows += _rows({"plain": PLAIN, "EPS": [x + 0.2 for x in PLAIN]}, loss="triplet")
  rows += _rows({"EPS": PLAIN}, loss="margin", task="other")
  rows += _rows({"raw pixels": PLAIN}, loss="")
  # Another split has nothing to do with it, and neither have its seeds.
  rows += [row._replace(split="validation", arm="HDML") for row in rows[-10:-5]]
  rows += [row._replace(split="validation", loss="triplet", arm="HDML") for row in rows[:5]]
  found = statistics.all_effects(rows, table.layout(rows))
  expected = {(loss, "EPS") for loss in ("npair", "margin", "triplet", None)}
  expected |= {(loss, "HDML") for loss in ("npair", "margin")}  # Not all losses, so no mean.
  assert set(found) == {("letters", loss, arm, "map@r") for loss, arm in expected}
  assert found["letters", None, "EPS", "map@r"].mean == pytest.approx(0.1)
  assert found["letters", "npair", "HDML", "map@r"].mean == 0
