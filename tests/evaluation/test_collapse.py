"""Diagnostics of class collapse against double loops, hand arithmetic and what they promise."""

import itertools
import pathlib
import re

import numpy as np
import pytest

from jaxdml.evaluation import collapse, collapse_metrics, retrieval_metrics

SPECTRUM = {"spectral_decay", "effective_rank"}
CHANCE = {"within/chance_recall@1", "within/chance_map@r"}
ALL = SPECTRUM | CHANCE | {"class_spread", "within/recall@1", "within/map@r", "modes_kept"}


def modal(n=60, d=5, classes=3, modes=4, noise=0.5, seed=0):
  """Classes of modes, some of one item; a mode's number says nothing about its class."""
  rng = np.random.default_rng(seed)
  labels, fine = rng.integers(0, classes, n), rng.integers(0, modes, n)
  centers = rng.normal(size=(classes, modes, d))
  x = centers[labels, fine] + noise * rng.normal(size=(n, d))
  return x.astype(np.float32), labels * 7 - 3, fine


def cosine(a, b):
  return 1 - a @ b


def average_precision(hits, r):
  found, total = 0, 0.0
  for rank, hit in enumerate(hits[:r], 1):
    found += hit
    total += hit * found / rank
  return total / r


def spread_reference(x, labels):
  intra, centers = [], []
  for label in sorted(set(labels)):
    rows = x[labels == label]
    pairs = [cosine(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    if pairs:
      intra.append(np.mean(pairs))
    center = rows.mean(0)
    centers.append(center / np.linalg.norm(center))
  inter = [cosine(a, b) for a, b in itertools.combinations(centers, 2)]
  return np.mean(intra) / np.mean(inter)


def within_reference(x, labels, fine):
  recalls, precisions = [], []
  for q in range(len(x)):
    others = [i for i in range(len(x)) if i != q and labels[i] == labels[q]]
    hits = {i: bool(fine[i] == fine[q]) for i in others}
    r = sum(hits.values())
    if r in (0, len(others)):
      continue
    ranked = sorted(others, key=lambda i, q=q: (-(x[q] @ x[i]), i))
    recalls.append(hits[ranked[0]])
    precisions.append(average_precision([hits[i] for i in ranked], r))
  return np.mean(recalls), np.mean(precisions)


def modes_reference(x, labels, fine):
  """Share of variance between modes minus its mean over many shuffles of the modes' labels."""
  eta, chance, weight = [], [], []
  for label in sorted(set(labels)):
    rows, modes = x[labels == label], fine[labels == label]
    m = len(set(modes))
    if m == 1:
      continue
    mean = rows.mean(0)
    total = sum(np.sum((row - mean) ** 2) for row in rows)
    between = sum(np.sum((rows[modes == f].mean(0) - mean) ** 2) for f in modes)
    eta.append(between / total)
    chance.append((m - 1) / (len(rows) - 1))
    weight.append(len(rows) - 1)
  observed, expected = np.average(eta, weights=weight), np.average(chance, weights=weight)
  return (observed - expected) / (1 - expected)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_double_loops(seed):
  x, labels, fine = modal(noise=0.4 + 0.4 * seed, seed=seed, classes=2 + 2 * seed)
  unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
  got = collapse_metrics(x, labels, fine, block_size=7)
  assert got.keys() == ALL
  s = np.linalg.svd(unit, compute_uv=False)
  p = s / s.sum()
  assert got["spectral_decay"] == pytest.approx(sum(0.2 * np.log(0.2 / p)), abs=1e-6)
  assert got["effective_rank"] == pytest.approx(np.exp(-sum(p * np.log(p))), abs=1e-5)
  assert got["class_spread"] == pytest.approx(spread_reference(unit, labels), rel=1e-5)
  recall, precision = within_reference(unit, labels, fine)
  assert got["within/recall@1"] == pytest.approx(recall, abs=1e-9)
  assert got["within/map@r"] == pytest.approx(precision, abs=1e-9)
  assert got["modes_kept"] == pytest.approx(modes_reference(unit, labels, fine), abs=1e-6)


def test_by_hand():
  """Two classes on a circle of four directions; D(a, b) = 1 - cos."""
  x = np.array([[2, 0], [3, 0], [0, 1], [0, 5], [-1, 0], [-1, 0]], np.float32)
  got = collapse_metrics(x, [0, 0, 0, 0, 1, 1], list("aabbcc"))
  # Within class 0: 4 of 6 pairs are at right angles; class 1 is a point. Centres: (1, 1) and -x.
  intra = (4 / 6 * 1 + 0) / 2
  assert got["class_spread"] == pytest.approx(intra / (1 + np.sqrt(0.5)))
  # The Gram matrix is diag(4, 2).
  p = np.array([2, np.sqrt(2)]) / (2 + np.sqrt(2))
  assert got["spectral_decay"] == pytest.approx(0.5 * np.log(0.5 / p[0]) + 0.5 * np.log(0.5 / p[1]))
  # One of the three others is relevant: rank 1, 2 or 3, of which MAP@1 sees the first alone.
  assert {got[k] for k in ("within/recall@1", "within/map@r", "modes_kept")} == {1.0}
  assert got["within/chance_recall@1"] == got["within/chance_map@r"] == pytest.approx(1 / 3)
  # Both modes on both directions: nothing between them. T = W = 2, E = 1/3: (0 - 1/3)/(1 - 1/3).
  got = collapse_metrics(x, [0, 0, 0, 0, 1, 1], list("ababcc"))
  assert got["modes_kept"] == pytest.approx(-0.5)
  assert got["within/recall@1"] == 0.0


def test_a_class_centred_at_the_origin_has_no_direction():
  """Three points at 120 degrees: D between them is 3/2, and 1/2 from their centre to a unit one."""
  angles = np.arange(3) * 2 * np.pi / 3 + 0.2
  x = np.concatenate([np.stack([np.cos(angles), np.sin(angles)], 1), [[1.0, 0.0]]])
  got = collapse_metrics(x, [0, 0, 0, 1])["class_spread"]
  assert got == pytest.approx(1.5 / 0.5, rel=1e-5)


@pytest.mark.parametrize(("r", "m"), [(1, 2), (1, 5), (2, 3), (3, 7), (5, 7)])
def test_chance_is_the_mean_over_all_rankings(r, m):
  """One query against m others, r of them relevant; its own mode has all the queries."""
  hits = [i < r for i in range(m)]
  rankings = list(itertools.permutations(hits))
  fine = np.array([0] * (r + 1) + list(range(1, m - r + 1)))  # the other modes have one item each
  got = collapse_metrics(modal(n=m + 1)[0], np.zeros(m + 1), fine)
  assert got["within/chance_recall@1"] == pytest.approx(np.mean([h[0] for h in rankings]))
  expected = np.mean([average_precision(h, r) for h in rankings])
  assert got["within/chance_map@r"] == pytest.approx(expected)


def test_shuffled_modes_keep_nothing_on_average():
  """The mean over all arrangements of two modes among five items is exactly 0."""
  x = modal(n=5, d=3)[0]
  values = []
  for first in itertools.combinations(range(5), 2):
    fine = np.isin(np.arange(5), first)
    values.append(collapse_metrics(x, np.zeros(5), fine)["modes_kept"])
  assert np.ptp(values) > 0.3
  assert np.mean(values) == pytest.approx(0, abs=1e-6)


def test_a_random_embedding_ranks_at_chance():
  rng = np.random.default_rng(0)
  labels, fine = rng.integers(0, 3, 3000), rng.integers(0, 4, 3000)
  got = collapse_metrics(rng.normal(size=(3000, 8)), labels, fine)
  assert got["within/recall@1"] == pytest.approx(got["within/chance_recall@1"], abs=0.03)
  assert got["within/map@r"] == pytest.approx(got["within/chance_map@r"], abs=0.005)
  assert got["modes_kept"] == pytest.approx(0, abs=0.005)


def test_invariant_to_rotation_scale_order_and_names():
  x, labels, fine = modal()
  expected = collapse_metrics(x, labels, fine)
  rng = np.random.default_rng(1)
  rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
  order = rng.permutation(len(x))
  moved = (x @ rotation) * rng.uniform(0.1, 10, (len(x), 1))
  names = np.array(["d", "a", "c", "b"])[fine]
  got = collapse_metrics(moved[order], -labels[order], names[order], block_size=13)
  assert got == pytest.approx(expected, abs=1e-5)
  padded = collapse_metrics(np.pad(x, ((0, 0), (0, 3))), labels, fine)
  for name in ALL - SPECTRUM:
    assert padded[name] == pytest.approx(expected[name], abs=1e-6)


def test_collapse_and_separate_modes():
  """One point a class: 0. One point a mode: 1. In between, the tighter class has less spread."""
  rng = np.random.default_rng(0)
  labels, fine = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
  classes, modes = rng.normal(size=(4, 6)), rng.normal(size=(4, 3, 6))
  at_class, at_mode = classes[labels], classes[labels] + 0.5 * modes[labels, fine]
  noise = 1e-3 * rng.normal(size=(200, 6))
  exact = collapse_metrics(at_class, labels, fine)
  assert exact["modes_kept"] == 0
  assert exact["class_spread"] == pytest.approx(0, abs=1e-9)
  near = collapse_metrics(at_class + noise, labels, fine)
  assert abs(near["modes_kept"]) < 0.02
  assert near["class_spread"] < 1e-5
  assert near["within/map@r"] < near["within/chance_map@r"] + 0.05
  kept = collapse_metrics(at_mode + noise, labels, fine)
  assert kept["modes_kept"] > 0.999
  assert kept["within/map@r"] == 1.0
  assert kept["class_spread"] > 0.05
  assert collapse_metrics(at_mode, labels, fine)["modes_kept"] == pytest.approx(1, abs=1e-6)


def test_a_wide_class_does_not_hide_a_collapsed_one():
  rng = np.random.default_rng(0)
  labels, fine = np.repeat([0, 1], 500), np.tile([0, 1], 500)
  wide = np.eye(6)[2 + fine]
  narrow = np.eye(6)[0] + 1e-3 * rng.normal(size=(1000, 6))
  got = collapse_metrics(np.where(labels[:, None], narrow, wide), labels, fine)
  assert got["modes_kept"] == pytest.approx(0.5, abs=0.01)


def test_fewer_directions_have_more_decay():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(400, 8))
  values = [collapse_metrics(x[:, :d] @ np.eye(8)[:d], np.arange(400)) for d in (8, 4, 2, 1)]
  decay, rank = ([value[key] for value in values] for key in ("spectral_decay", "effective_rank"))
  assert decay == sorted(decay) and decay[0] < 0.01
  assert rank == pytest.approx([8, 4, 2, 1], rel=0.02)
  # Seven directions at 1e-6 of the first.
  p = np.array([1.0] + 7 * [1e-6]) / (1 + 7e-6)
  assert decay[-1] == pytest.approx(-np.log(8 * p).mean(), abs=1e-6)


def test_spectrum_of_few_rows_and_of_many_dimensions(monkeypatch):
  """n < d takes the other Gram matrix; beyond the limit, rows are drawn: a function of the seed."""
  x = np.random.default_rng(0).normal(size=(9, 30))
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  s = np.linalg.svd(unit, compute_uv=False)
  expected = np.log(s.sum() / 9 / s).mean()
  labels = np.arange(9)
  got = collapse_metrics(x, labels, block_size=4)["spectral_decay"]
  assert got == pytest.approx(expected, abs=1e-5)
  monkeypatch.setattr(collapse, "_SPECTRUM_ROWS", 5)
  first, again, other = (collapse_metrics(x, labels, seed=seed) for seed in (0, 0, 1))
  assert first == again and first["spectral_decay"] != other["spectral_decay"]
  assert first["effective_rank"] <= 5


DEGENERATE = {
  "one class": ([0] * 6, [0, 0, 0, 1, 1, 1], ALL - {"class_spread"}),
  "one item a class": (range(6), range(6), SPECTRUM),
  "one fine class in each coarse one": ([0, 0, 0, 1, 1, 1],) * 2 + (SPECTRUM | {"class_spread"},),
  "every mode has one item": ([0, 0, 0, 1, 1, 1], range(6), SPECTRUM | {"class_spread"}),
  "two modes of two items": ([0, 0, 0, 0, 1, 2], [0, 0, 1, 1, 2, 3], ALL),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("x", ["equal", "zero", "opposed", "distinct"])
def test_degenerate_cases_are_finite(case, x):
  labels, fine, keys = DEGENERATE[case]
  points = {
    "equal": np.full((6, 3), 0.3),
    "zero": np.zeros((6, 3)),
    "opposed": np.array([[1.0, 2.0, 3.0]]) * np.array([[1], [-1]] * 3),
    "distinct": np.random.default_rng(0).normal(size=(6, 3)),
  }[x]
  got = collapse_metrics(points, list(labels), list(fine))
  assert got.keys() == keys
  assert all(type(value) is float and np.isfinite(value) for value in got.values()), got
  if x in ("equal", "zero"):
    assert got["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert got.get("class_spread", 0.0) == got.get("modes_kept", 0.0) == 0.0


def test_one_row_is_enough():
  got = collapse_metrics([[1.0, 2.0]], ["a"], ["b"])
  assert got == pytest.approx({"spectral_decay": 0.0, "effective_rank": 1.0})


def test_without_fine_labels_no_mode_is_measured():
  x, labels, fine = modal()
  both = collapse_metrics(x, labels, fine)
  names = SPECTRUM | {"class_spread"}
  assert collapse_metrics(x, labels) == {name: both[name] for name in names}


def test_queries_without_a_choice_are_left_out():
  """Of seven items two can be queries: one class has a single mode, other modes a single item."""
  x = np.array([[0, 1], [0, 2], [1, 0], [1, 0], [1, 0.1], [5, 1], [0, 1]], np.float32)
  labels, fine = [0, 0, 1, 1, 1, 2, 3], [9, 9, 0, 1, 0, 9, 9]
  got = collapse_metrics(x, labels, fine)
  # Rows 2 and 4 rank {3, 4} and {2, 3}: row 3 lies on row 2, hence first for 2; tied for 4 with 2.
  assert got["within/recall@1"] == 0.5
  assert got["within/chance_recall@1"] == 0.5
  got = collapse_metrics(x[[3, 2, 4]], [1, 1, 1], [1, 0, 0])
  assert got["within/recall@1"] == 0.0  # for row 4 the tie goes to the lower index, now row 3


def test_one_class_ranks_as_all_items_do():
  rng = np.random.default_rng(0)
  x = rng.choice([-1, 1], (200, 16))  # similarities are multiples of 1/8: exact, and mostly ties
  fine = rng.integers(0, 9, 200)
  plain = retrieval_metrics(x, fine, ks=(1,))
  got = collapse_metrics(x, np.zeros(200), fine)
  assert got["within/recall@1"] == pytest.approx(plain["recall@1"], abs=1e-9)
  assert got["within/map@r"] == pytest.approx(plain["map@r"], abs=1e-6)


def test_ranking_in_blocks_changes_nothing(monkeypatch):
  x, labels, fine = modal(n=100, classes=2)
  expected = collapse_metrics(x, labels, fine)
  monkeypatch.setattr(collapse, "_BLOCK_ELEMENTS", 120)
  assert collapse_metrics(x, labels, fine) == pytest.approx(expected, abs=1e-12)


def test_at_most_max_queries_rank():
  x, labels, fine = modal(n=1500, noise=1.0)
  exact = collapse_metrics(x, labels, fine)
  assert collapse_metrics(x, labels, fine, max_queries=1500) == exact
  first, again, other = (
    collapse_metrics(x, labels, fine, max_queries=700, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again and first["within/map@r"] != other["within/map@r"]
  for name in ("within/recall@1", "within/map@r", *CHANCE):
    assert first[name] == pytest.approx(exact[name], abs=0.03)
  one = collapse_metrics(x, labels, fine, max_queries=1)
  assert one["within/recall@1"] in (0.0, 1.0)


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: collapse_metrics([[0.0], [np.nan]], [0, 1]), "embeddings: .* 1 of 2 rows"),
    (lambda: collapse_metrics([[0.0], [1.0]], [0]), "labels: expected .* 2, got 1"),
    (lambda: collapse_metrics([[0.0]], [0], [0, 1]), "fine_labels: expected .* 1, got 2"),
    (lambda: collapse_metrics([[0.0]], [0], block_size=0), "block_size: .* at least 1"),
    (lambda: collapse_metrics([[0.0]], [0], max_queries=0), "max_queries: .* at least 1"),
  ],
)
def test_wrong_input_is_refused(call, match):
  with pytest.raises(ValueError, match=match):
    call()


@pytest.mark.usefixtures("one_device")
def test_the_documentation_names_every_metric_and_its_code_runs():
  path = pathlib.Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
  text = path.read_text()
  section = text.partition("## Class collapse")[2]
  rows = re.findall(r"^\| (`[^|]*)\|[^|]*\|([^|]*)\|$", section, flags=re.MULTILINE)
  cells = [name for name, _ in rows] + [chance for name, chance in rows if "within" in name]
  assert set(re.findall(r"`([^`]+)`", " ".join(cells))) == ALL
  namespace = {}
  for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
    exec(compile(block, path.name, "exec"), namespace)
  assert "embeddings" in namespace
  score = ", ".join(f"{value:.3f}"[1:] for value in namespace["score"].values())
  stated = re.search(r"among 20 of them is (\S+), among 50\s+(\S+), among all (\S+):", text)
  assert score == ", ".join(stated.groups())


def test_rows_of_unknown_label_are_left_out():
  x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  labels, fine = np.repeat([0, 1, -1], 4), np.arange(12) // 2 % 4
  found, known = collapse_metrics(x, labels, fine), collapse_metrics(x[:8], labels[:8], fine[:8])
  spectrum = {"spectral_decay", "effective_rank"}
  assert {k: v for k, v in found.items() if k not in spectrum} == {
    k: v for k, v in known.items() if k not in spectrum
  }
  assert set(collapse_metrics(x, np.full(12, -1), fine)) == spectrum
