"""k-means against scikit-learn and a plain loop, on one device and on eight."""

import sys

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn import cluster

from jaxdml.evaluation import kmeans
from tests.evaluation.helpers import blobs

module = sys.modules[kmeans.__module__]
DEVICES = jax.local_devices()
pytestmark = pytest.mark.usefixtures("one_device")


def plain_lloyd(points, centers, iterations):
  """Lloyd's algorithm a point and a cluster at a time, in float64."""
  points, centers = np.float64(points), np.float64(centers)
  for iteration in range(iterations + 1):
    assignment = np.array([((centers - p) ** 2).sum(1).argmin() for p in points])
    inertia = ((points - centers[assignment]) ** 2).sum()
    if iteration < iterations:
      for c in range(len(centers)):
        if (assignment == c).any():
          centers[c] = points[assignment == c].mean(0)
  return assignment, centers, inertia


@pytest.mark.parametrize("scatter", [True, False], ids=["scatter", "one-hot"])
@pytest.mark.parametrize(("n", "k", "block_size"), [(400, 12, 512), (101, 30, 5)])
def test_lloyd_equals_a_plain_loop(monkeypatch, n, k, block_size, scatter):
  """From the same centers, the same assignment; both ways of adding up clusters."""
  monkeypatch.setattr(module._scores, "on_cpu", lambda mesh: scatter)
  points, _ = blobs(n=n)
  start = points[np.random.default_rng(1).permutation(n)[:k]]
  for iterations in (1, 4):
    ours = kmeans(
      points, k, centers=start, max_iterations=iterations, tolerance=-1, block_size=block_size
    )
    assignment, centers, inertia = plain_lloyd(points, start, iterations)
    np.testing.assert_array_equal(ours.assignment, assignment)
    np.testing.assert_allclose(ours.centers, centers, atol=1e-5)
    assert ours.inertia == pytest.approx(inertia, rel=1e-5, abs=1e-5)
    assert ours.iterations == iterations


@pytest.mark.parametrize(
  ("n", "k", "scatter"),
  [(401, 12, False), (2101, 30, True)],
  ids=["one-hot", "scatter, seeded on a sample"],
)
def test_eight_devices_equal_one(monkeypatch, n, k, scatter):
  """Bitwise, whatever the rounding: the assignment, the centers and so the metrics."""
  assert len(DEVICES) == 8
  monkeypatch.setattr(module._scores, "on_cpu", lambda mesh: scatter)
  points, _ = blobs(n=n)
  results = []
  for count in (8, 1):
    monkeypatch.setattr(module.jax, "local_devices", lambda count=count: DEVICES[:count])
    results.append(kmeans(points, k, restarts=2, block_size=32))
  eight, one = results
  np.testing.assert_array_equal(eight.assignment, one.assignment)
  np.testing.assert_array_equal(eight.centers, one.centers)
  assert eight.inertia == one.inertia


@pytest.mark.parametrize("n", [1000, 6000], ids=["all points", "a sample"])
def test_seeding_is_as_good_as_greedy_k_means_plus_plus(n):
  """The squared distances left by the seeds alone: scikit-learn's, and less than random rows'."""
  points, _ = blobs(n=n, k=200, d=16, spread=0.3)
  left = {"ours": [], "greedy": [], "random": []}
  for seed in range(4):
    rows = np.random.default_rng(seed).permutation(len(points))[:200]
    greedy, _ = cluster.kmeans_plusplus(points, 200, random_state=seed)
    data = module._Data(points, points.mean(0), 512)
    ours = module._seed(np.random.default_rng(seed), data, 200, module.tqdm(disable=True))
    assert len(np.unique(ours, axis=0)) == 200
    rows_taken = {row.tobytes() for row in data.rows(np.arange(n))}
    assert all(center.tobytes() in rows_taken for center in ours), "seeds are points"
    seeds = {"ours": ours + points.mean(0), "greedy": greedy, "random": points[rows]}
    for name, centers in seeds.items():
      left[name].append(cdist(points, centers, "sqeuclidean").min(1).sum())
  ours, greedy, random = (np.mean(left[name]) for name in ("ours", "greedy", "random"))
  assert ours <= 1.05 * greedy
  assert ours <= 0.7 * random


def test_a_sample_is_of_distinct_rows_in_order():
  points = np.arange(300, dtype=np.float32)[:, None]
  data = module._Data(points, points.mean(0), 512)
  taken = data.sample(np.random.default_rng(0), 100).rows(slice(None))[:, 0]
  assert len(taken) == 100 and (np.diff(taken) > 0).all()
  assert data.sample(np.random.default_rng(0), 300) is data


def test_kmeans_is_as_good_as_scikit_learn():
  points, _ = blobs()
  ours = kmeans(points, 12, restarts=5)
  theirs = cluster.KMeans(12, n_init=5, random_state=0).fit(points)
  assert ours.inertia <= 1.03 * theirs.inertia_
  distances = ((points[:, None] - ours.centers) ** 2).sum(-1)
  np.testing.assert_array_equal(ours.assignment, distances.argmin(1))
  assert ours.inertia == pytest.approx(distances.min(1).sum(), rel=1e-4)


def test_kmeans_ends_where_lloyd_stands_still():
  points, _ = blobs()
  result = kmeans(points, 12, max_iterations=200, tolerance=0.0)
  assert result.iterations < 100
  means = [points[result.assignment == c].mean(0) for c in range(12)]
  np.testing.assert_allclose(result.centers, means, atol=1e-4)


def test_kmeans_is_a_function_of_its_seed():
  points, _ = blobs()
  first, second, other = (kmeans(points, 12, seed=seed) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first.assignment, second.assignment)
  np.testing.assert_array_equal(first.centers, second.centers)
  assert not np.array_equal(first.centers, other.centers)


def test_kmeans_does_not_depend_on_block_size():
  points, _ = blobs()
  expected, small, large = (kmeans(points, 12, block_size=size) for size in (512, 4, 5000))
  for result in (small, large):
    assert result.inertia == pytest.approx(expected.inertia, rel=1e-4)
    np.testing.assert_array_equal(result.assignment, expected.assignment)


def test_more_restarts_are_never_worse():
  points, _ = blobs(spread=0.2)
  one, many = (kmeans(points, 12, restarts=restarts).inertia for restarts in (1, 6))
  assert many <= one


def test_empty_clusters_are_filled():
  """Nine points in one place leave the other centers to the rest; none stays unused."""
  points = np.concatenate([np.zeros((9, 2)), np.arange(1.0, 7.0).repeat(2).reshape(6, 2)])
  result = kmeans(points, 7)
  assert len(np.unique(result.assignment)) == 7
  assert result.inertia == pytest.approx(0, abs=1e-9)


def test_empty_clusters_restart_at_the_farthest_points():
  """Seeded so badly that two centers get no point, Lloyd's algorithm still finds the optimum."""
  points = np.array([[0.0], [0.1], [10.0], [10.1], [50.0], [50.1]], np.float32)
  result = kmeans(points, 3, centers=[[25.0], [1000.0], [2000.0]])
  assert result.inertia == pytest.approx(3 * 2 * 0.05**2, rel=1e-2)
  assert len(np.unique(result.assignment)) == 3


def test_fewer_distinct_points_than_clusters():
  result = kmeans(np.array([[1.0, 2.0], [3.0, 4.0]]).repeat([8, 7], axis=0), 7)
  assert result.inertia == pytest.approx(0, abs=1e-9)
  assert len(np.unique(result.assignment)) == 2
  assert kmeans(np.ones((15, 2)), 7).inertia == pytest.approx(0, abs=1e-9)


def test_as_many_clusters_as_points_and_one():
  points, _ = blobs(n=15)
  assert kmeans(points, 15).inertia == pytest.approx(0, abs=1e-4)
  assert kmeans(points, 1).inertia == pytest.approx(
    ((points - points.mean(0)) ** 2).sum(), rel=1e-4
  )


def test_far_from_the_origin():
  """||x||^2 - 2 x.c + ||c||^2 would cancel, were the mean not taken off first."""
  points = np.array([[0.0], [0.25], [3.0], [3.25], [9.0], [9.25]], np.float32) + 10_000
  assert kmeans(points, 3).inertia == pytest.approx(6 * 0.125**2, rel=1e-3)


def test_memory_is_that_of_a_block():
  """Distances of all points to all centers would take 134 MB."""
  n, d, k, block = 65_536, 8, 512, 128
  data = module._Data(np.zeros((n, d), np.float32), np.zeros(d, np.float32), block)
  compiled = module._assign_points.lower(
    data.sharded,
    data.sharded_squares,
    np.zeros((k, d), np.float32),
    mesh=data.mesh,
    blocks=data.blocks,
    scatter=True,
  ).compile()
  assert data.blocks == n // 16 // block
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * (2 * n + 4 * block * k + 4 * k * d)


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: kmeans([[0.0], [1.0]], 3), "k: expected at most the number of points, 2, got 3"),
    (lambda: kmeans([[0.0], [np.inf]], 1), "points: .* 1 of 2 rows"),
    (lambda: kmeans([[0.0]], 0), "k: .* at least 1"),
    (lambda: kmeans([[0.0]], 1, restarts=1.5), "restarts"),
    (lambda: kmeans([[0.0], [1.0]], 1, centers=[[0.0, 1.0]]), r"centers: .*\(1, 1\).*\(1, 2\)"),
    (lambda: kmeans([[0.0]], 1, centers=[[0.0]], restarts=2), "centers: .* restarts=2"),
  ],
)
def test_wrong_input_is_refused(call, match):
  with pytest.raises(ValueError, match=match):
    call()
