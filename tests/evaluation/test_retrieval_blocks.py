"""Retrieval in blocks: devices, several sets of labels, memory, scores that nearly tie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.evaluation import _ranks as ranks
from jaxdml.evaluation import _scores as scores
from jaxdml.evaluation import retrieval_metrics


def points(n=150, d=16, classes=30, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, n)
  return (rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[labels]), labels


@pytest.fixture(params=["counted", "in order"])
def way(request, monkeypatch):
  """Both ways to find the ranks."""
  if request.param == "in order":
    monkeypatch.setattr(ranks, "_MOST_COUNTED_CPU", 0)
  monkeypatch.setattr(ranks, "_TILE_CPU", 64)
  return request.param


def test_every_device_count_gives_the_same(way, monkeypatch):
  x, labels = points()
  x = np.repeat(x[:75], 2, axis=0)  # every score is tied
  eight = retrieval_metrics(x, labels, block_size=16, macro=True)
  device = jax.local_devices()[:1]
  assert len(jax.local_devices()) == 8
  monkeypatch.setattr(jax, "local_devices", lambda: device)
  assert retrieval_metrics(x, labels, block_size=16, macro=True) == eight


def test_both_ways_give_the_same(monkeypatch):
  """On floats, where near ties abound: scores of one product, ranked twice."""
  x, labels = points(n=300, d=2, classes=60)
  counted = retrieval_metrics(x, labels)
  monkeypatch.setattr(ranks, "_MOST_COUNTED_CPU", 0)
  assert retrieval_metrics(x, labels) == pytest.approx(counted, abs=1e-12)


@pytest.mark.parametrize("ulps", [-1, 0, 1])
@pytest.mark.parametrize("value", [0.7, 0.0, -0.3, 1e-30])
def test_scores_an_ulp_apart(value, ulps, way, monkeypatch):
  """Item 70 is relevant; item 100 scores one unit in the last place more, as much, or less."""
  relevant = np.float32(value)
  other = relevant
  if ulps:
    other = np.nextafter(relevant, np.float32(np.inf * ulps), dtype=np.float32)
  if abs(other) < np.finfo(np.float32).tiny:  # devices take these for 0
    other = np.float32(ulps) * np.finfo(np.float32).tiny
  gallery = np.full((130, 1), -1, np.float32)
  gallery[70], gallery[100] = relevant, other
  labels = np.arange(130) == 70
  monkeypatch.setattr(scores, "normalized", lambda rows: rows)
  for order in (1, -1):
    found = retrieval_metrics(
      [[1.0]], [True], gallery=gallery[::order], gallery_labels=labels[::order], ks=(1,)
    )
    expected = ulps < 0 or (ulps == 0 and order == 1)
    assert found["recall@1"] == expected, (value, ulps, order)


def test_several_sets_of_labels_in_one_pass(way):
  x, fine = points()
  gallery, gallery_fine = points(n=90, seed=1)
  sets = {"fine": fine, "name": np.array([f"<{v % 7}>" for v in fine])}
  others = {"name": np.array([f"<{v % 7}>" for v in gallery_fine]), "fine": gallery_fine}
  with_gallery = way == "counted"  # each way of ranking once: programs are dear
  given = {"gallery": gallery, "gallery_labels": others} if with_gallery else {}
  both = retrieval_metrics(x, sets, macro=True, **given)
  for name, labels in sets.items():
    given = {"gallery": gallery, "gallery_labels": others[name]} if with_gallery else {}
    alone = retrieval_metrics(x, labels, macro=True, **given)
    assert {k: v for k, v in both.items() if k.startswith(f"{name}/")} == {
      f"{name}/{key}": pytest.approx(value, abs=1e-12) for key, value in alone.items()
    }


def test_a_query_of_many_and_one_of_few_relevant_items(monkeypatch):
  """One class is put in order, the others are counted, in tables of more than one width."""
  rng = np.random.default_rng(0)
  labels = np.concatenate([np.zeros(140, int), np.repeat(np.arange(1, 41), rng.integers(1, 6, 40))])
  x = rng.normal(size=(len(labels), 4))
  expected = retrieval_metrics(x, labels)
  used = []
  count = ranks._counted
  monkeypatch.setattr(ranks, "_counted", lambda *a, **k: used.append(len(a[2])) or count(*a, **k))
  monkeypatch.setattr(ranks, "_COMPILATION", 14_000)
  assert retrieval_metrics(x, labels) == pytest.approx(expected, abs=1e-12)
  assert len(used) == 2 and 0 < sum(used) < len(x) - 139


def test_memory_does_not_grow_with_the_product():
  """Temporaries of the program for 64 times the items are no larger than a few tiles."""
  mesh = scores.device_mesh(1)

  def temporary(tiles, width=8, block=256, d=32):
    float32 = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    int32 = lambda *s: jax.ShapeDtypeStruct(s, jnp.int32)
    program = ranks._count_all.lower(
      (float32(block, d), int32(block, width), int32(block, width), int32(block, 1),
       int32(block, 1), int32(1, tiles), int32(1)),
      (float32(tiles, 1024, d), float32(tiles, 1024), int32(tiles, 1024)),
      mesh=mesh, piece=64, zeros=0,
    )  # fmt: skip
    return program.compile().memory_analysis().temp_size_in_bytes

  small, large = temporary(4), temporary(256)
  assert large < 1.1 * small + 4096
  assert large < 4 * 256 * 1024 * 4


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    ({"labels": {}}, "labels: expected at least one set"),
    ({"labels": {"fine": [0, 1]}}, r"labels\['fine'\]: expected .* 3, got 2"),
    (
      {"labels": {"fine": [0, 1, 1]}, "gallery": [[1.0]], "gallery_labels": [0]},
      r"gallery_labels: expected the sets \['fine'\] of labels, got labels without a name",
    ),
    (
      {"labels": {"a": [0, 1, 1]}, "gallery": [[1.0]], "gallery_labels": {"b": [0]}},
      r"gallery_labels: expected the sets \['a'\] of labels, got \['b'\]",
    ),
  ],
)
def test_wrong_sets_are_refused(arguments, match):
  arguments = {"embeddings": [[0.0], [1.0], [2.0]], **arguments}
  with pytest.raises(ValueError, match=match):
    retrieval_metrics(arguments.pop("embeddings"), arguments.pop("labels"), **arguments)


def test_many_views_of_one_picture_are_dropped(way):
  """Ids that many rows share, of other classes too: as many slots to drop, and none relevant."""
  x, labels = points(n=60, classes=4)
  ids = np.arange(60) % 5
  found = retrieval_metrics(x, labels, ids=ids, normalize=False)
  task = scores.problem(x, None, ids, None, False, name="x")
  assert (np.sort(task.excluded(np.arange(5)), axis=1)[:, :12] % 5 == ids[:5, None]).all()
  hits = []
  for i in range(60):
    seen = np.flatnonzero(ids != ids[i])
    near = seen[np.argmin(((x[seen] - x[i]) ** 2).sum(1))]
    hits.append(labels[near] == labels[i])
  assert found["recall@1"] == pytest.approx(np.mean(hits))
