"""The simulation finds the minima that the closed form has; its rows and figure are whole."""

import numpy as np
import pytest

from studies import simulation, table


@pytest.mark.slow
def test_training_ends_at_the_exact_minima():
  options = {"noises": (0.0, 0.2), "seeds": 4, "steps": 600}
  plain = simulation.simulate("triplet", **options)
  assert plain.mode_distance.shape == (2, 4)
  assert plain.embeddings.shape == (2, 4, 4, 16, 4)
  # Without noise many distances are as good; with it modes meet, classes margin = 0.2 apart.
  assert plain.mode_distance[0].min() > 0.2 and np.ptp(plain.mode_distance[0]) > 0.1
  assert plain.mode_distance[1].max() < 0.05
  np.testing.assert_allclose(plain.class_distance[1], np.sqrt(0.2), atol=0.02)
  easy = simulation.simulate("triplet", "EPS", **options)
  assert easy.mode_distance[1].min() > 0.6
  np.testing.assert_allclose(easy.nearest_class_distance[1], np.sqrt(0.2), atol=0.02)


@pytest.mark.slow
def test_network_learns_two_classes():
  outcome = simulation.simulate("margin", "EPS", "network", noises=[0.0], seeds=2, steps=300)
  assert outcome.nearest_class_distance.min() > 1.2
  assert outcome.spread.max() < 0.4
  again = simulation.simulate("margin", "EPS", "network", noises=[0.0], seeds=2, steps=300)
  np.testing.assert_array_equal(outcome.embeddings, again.embeddings)


def fake_outcomes(seeds=3):
  rng = np.random.default_rng(0)
  shape = (len(simulation.NOISES), seeds)
  draw = lambda *more: rng.uniform(size=(*shape, *more))
  return {
    (loss, model, arm): simulation.Outcome(draw(), draw(), draw(), draw(), draw(4, 5, 4))
    for loss, model in simulation.GRID
    for arm in simulation.ARMS
  }


def test_rows_and_figure(tmp_path, monkeypatch, capsys):
  outcomes = fake_outcomes()
  monkeypatch.setattr(simulation, "run", lambda seeds, steps: outcomes)
  assert simulation.main([f"--out={tmp_path / 'new'}", "--seeds=3"]) == 0
  assert "wrote" in capsys.readouterr().out
  rows = {row.key: row.value for row in table.read(tmp_path / "new" / "theory.csv")}
  key = ("theory", "network, noise 0.05", "margin", "EPS", 2, "train", "spread")
  assert rows[key] == outcomes["margin", "network", "EPS"].spread[3, 2]
  assert rows["theory", "noise 0.1", "triplet", "plain", 0, "expected", "highest"] == 0.0
  noises, arms, seeds = 6, 2, 3
  measured = noises * arms * seeds * (4 * 2 + 2 * 3)  # free vectors: 2 metrics; network: 3
  assert len(rows) == measured + 3 * arms * noises * 2
  picture = (tmp_path / "new" / "theory.png").read_bytes()
  assert picture.startswith(b"\x89PNG") and len(picture) < 200_000


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"loss": "arcface"}, "loss: expected one of .*; got 'arcface'"),
    ({"arm": "HDML"}, "arm: expected one of plain, EPS; got 'HDML'"),
    ({"model": "mlp"}, "model: expected one of free vectors, network; got 'mlp'"),
    ({"noises": (0.1, 1.1)}, "noises: expected probabilities"),
    ({"seeds": 0}, "seeds: expected at least 1; got 0"),
  ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    simulation.simulate(**{"loss": "triplet", **arguments})


def test_command_reports_mistakes(tmp_path, capsys):
  assert simulation.main([f"--out={tmp_path}", "--seeds=0"]) == 2
  assert "error: seeds: expected at least 1; got 0" in capsys.readouterr().err
