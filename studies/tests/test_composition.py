"""Counts of modes among positives, against a loop and on the digits."""

import numpy as np
import pytest

from studies import composition


def test_counts_equal_a_loop():
  rng = np.random.default_rng(0)
  classes = rng.integers(0, 3, 30)
  modes = classes * 10 + rng.integers(0, 3, 30)
  batches = [rng.integers(0, 30, 12) for _ in range(4)]  # with rows that come twice
  number, share, has = [], [], []
  for rows in batches:
    for a in rows:
      positives = [b for b in rows if b != a and classes[b] == classes[a]]
      if positives:
        own = sum(modes[b] == modes[a] for b in positives)
        number.append(len({modes[i] for i in range(30) if classes[i] == classes[a]}))
        share.append(own / len(positives))
        has.append(own > 0)
  expected = np.mean(number), np.mean(share), np.mean(has)
  np.testing.assert_allclose(composition.of_batches(batches, classes, modes), expected, rtol=1e-12)


def test_no_positives_is_an_error():
  with pytest.raises(ValueError, match="batches: expected some anchor with a positive"):
    composition.of_batches([np.arange(3)], [0, 1, 2], [0, 1, 2])


def test_the_command_prints_a_line_a_task(capsys):
  assert composition.main(["--batches=2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  tasks = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
  assert {"even/odd -> digit", "letters in groups of 1", "letters in groups of 16"} <= set(tasks)
  row = dict(zip(tasks, lines[2:], strict=True))
  # Every letter is its own class: its only mode, all of its positives.
  assert row["letters in groups of 1"].endswith("| 1.0 | 1.000 | 1.000 |")
  # Five digits a parity, 63 positives: a fifth is of the anchor's digit, and one is always there.
  assert row["even/odd -> digit"].startswith("| even/odd -> digit | 2 | 5.0 | 0.2")
  with pytest.raises(SystemExit):
    composition.main(["--batches=0"])
