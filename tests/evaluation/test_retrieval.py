"""Retrieval metrics against a plain double loop, on ties, duplicates and singletons."""

import numpy as np
import pytest

from jaxdml.evaluation import _ranks as ranks
from jaxdml.evaluation import nearest_neighbours, retrieval_metrics

KS = (1, 2, 4, 8, 50)
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.parametrize("mark", [-1, np.nan, None])
def test_a_query_of_unknown_label_is_left_out_and_counted(mark):
  x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  known = [0, 0, 1, 1]
  found = retrieval_metrics(x, [*known, mark, mark], ks=(1,))
  assert (found["num_queries"], found["num_without_match"], found["num_unknown"]) == (4, 2, 2)
  # Its image stays in the gallery, and is wrong for whoever finds it.
  alone = retrieval_metrics(x, [*known, 7, 8], ks=(1,))
  assert {k: v for k, v in found.items() if k != "num_unknown"} == alone
  nothing = retrieval_metrics(x, [mark] * 6, ks=(1,), macro=True)
  assert np.isnan(nothing["recall@1"]) and np.isnan(nothing["macro/map@r"])
  assert nothing["num_queries"] == 0 and nothing["num_unknown"] == 6


def test_integers_of_two_types_compare_exactly():
  """Through float64 the first two would be one, and so would a query and another's image."""
  of = lambda *values: np.array(values, np.uint64)
  queries = np.eye(2)
  gallery = queries + 0.1
  labels, others = np.array([2**53, 2**53 + 1]), of(2**53 + 1, 2**53)
  found = retrieval_metrics(queries, labels, gallery=gallery, gallery_labels=others, ks=(1,))
  assert found["recall@1"] == 0.0
  near = nearest_neighbours(
    queries, 1, gallery=gallery, ids=np.array([2**53, -1]), gallery_ids=of(2**53 + 1, 2**32 - 1)
  )
  assert near.indices[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e20, 1e37])
def test_scales_change_no_score(scale):
  x = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
  labels = np.arange(30) // 3
  for normalize in (False, True):
    of = lambda x: retrieval_metrics(x, labels, normalize=normalize)  # noqa: B023
    found, expected = of(x * np.float32(scale)), of(x)
    assert found == pytest.approx(expected, abs=1e-6)
  near = nearest_neighbours(x * np.float32(scale), 3, normalize=False)
  assert (near.indices == nearest_neighbours(x, 3, normalize=False).indices).all()
  assert np.isfinite(near.similarities).all()


def test_unknown_labels_match_nothing():
  """None, as a folder of photos gives it to those outside of its classes."""
  x = np.random.default_rng(0).normal(size=(6, 3))
  labels = ["a", None, "a", None, "b", np.nan]
  metrics = retrieval_metrics(x, labels, ks=(5,))
  assert metrics["num_queries"] == 2 and metrics["num_without_match"] == 4
  assert metrics["recall@5"] == 1.0
  one_side = retrieval_metrics(x, labels, ks=(5,), gallery=x, gallery_labels=["a"] * 6, macro=True)
  assert (one_side["num_queries"], one_side["macro/recall@5"]) == (2, 1.0)


def reference(x, labels, gallery, gallery_labels, ids, gallery_ids, normalize, ks=KS):
  """Sorts every query's items in a Python loop, in float64."""
  x, gallery = np.asarray(x, np.float64), np.asarray(gallery, np.float64)
  rows, classes = [], []
  for i in range(len(x)):
    items = []
    for j in range(len(gallery)):
      if ids is not None and ids[i] == gallery_ids[j]:
        continue
      if normalize:
        norms = np.linalg.norm(x[i]) * np.linalg.norm(gallery[j])
        distance = -float(x[i] @ gallery[j]) / norms if norms else 0.0
      else:
        distance = float(((x[i] - gallery[j]) ** 2).sum())
      items.append((distance, j, labels[i] == gallery_labels[j]))
    hits = [hit for _, _, hit in sorted(items)]
    total = sum(hits)
    if not total:
      continue
    precision = [sum(hits[: r + 1]) / (r + 1) for r in range(len(hits))]
    row = {f"recall@{k}": float(any(hits[:k])) for k in ks}
    row["r_precision"] = sum(hits[:total]) / total
    row["map@r"] = sum(p for p, hit in list(zip(precision, hits, strict=True))[:total] if hit)
    row["map"] = sum(p for p, hit in zip(precision, hits, strict=True) if hit) / total
    row["map@r"] /= total
    row["precision@1"] = float(hits[0])
    row["mrr"] = 1 / (1 + hits.index(True))
    rows.append(row)
    classes.append(labels[i])
  result = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
  for name in rows[0]:
    of_class = [
      np.mean([row[name] for row, c in zip(rows, classes, strict=True) if c == label])
      for label in set(classes)
    ]
    result[f"macro/{name}"] = np.mean(of_class)
  return result | {"num_queries": len(rows), "num_without_match": len(x) - len(rows)}


def data(kind, n=60, d=4, seed=0):
  """Embeddings and labels; small whole numbers, where float32 is exact, make the ties exact."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 8, n)
  if kind == "random":
    return rng.normal(size=(n, d)), labels
  if kind == "tied":
    return rng.integers(-1, 2, (n, d)).astype(float), labels
  if kind == "duplicated":
    return np.repeat(rng.integers(-9, 9, (n // 4, d)), 4, axis=0).astype(float), labels
  if kind == "singletons":
    return rng.integers(-9, 9, (n, d)).astype(float), np.where(
      rng.random(n) < 0.5, labels, 100 + np.arange(n)
    )
  raise AssertionError(kind)


@pytest.fixture(params=["counted", "in order"])
def way(request, monkeypatch):
  """Both ways to find the ranks: counted in small tiles, or all put in order."""
  if request.param == "in order":
    monkeypatch.setattr(ranks, "_MOST_COUNTED_CPU", 0)
  else:
    monkeypatch.setattr(ranks, "_BLOCK_CPU", 16)
    monkeypatch.setattr(ranks, "_TILE_CPU", 64)
  return request.param


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["random", "tied", "duplicated", "singletons"])
def test_equals_the_double_loop(kind, normalize, way):
  x, labels = data(kind, n=148)
  if normalize and kind != "random":
    x = np.eye(4)[x.astype(int).sum(1) % 4]  # cosines of 0 and 1 only: exact ties again
  ids = np.arange(len(x))
  expected = reference(x, labels, x, labels, ids, ids, normalize)
  actual = retrieval_metrics(x, labels, ks=KS, normalize=normalize, macro=True)
  assert actual == pytest.approx(expected, abs=1e-6)
  assert (expected["num_without_match"] > 0) == (kind == "singletons")


@pytest.mark.parametrize("block_size", [1, 7, 10_000])
def test_any_block_size_gives_the_same(block_size):
  x, labels = data("tied")
  whole = retrieval_metrics(x, labels, normalize=False)
  assert retrieval_metrics(x, labels, normalize=False, block_size=block_size) == whole


@pytest.mark.parametrize("shared", [False, True])
def test_queries_against_a_gallery(shared, way):
  """With ids, a query's own picture in the gallery is dropped, wherever it stands."""
  x, labels = data("duplicated", n=40)
  gallery, gallery_labels = data("duplicated", n=52, seed=1)
  ids = gallery_ids = None
  if shared:
    gallery, gallery_labels = gallery.copy(), gallery_labels.copy()
    gallery_ids, ids = 1000 + np.arange(52), np.arange(40)
    for query, item in ((0, 51), (7, 3), (39, 20), (39, 21)):
      gallery[item], gallery_labels[item], gallery_ids[item] = x[query], labels[query], ids[query]
  expected = reference(x, labels, gallery, gallery_labels, ids, gallery_ids, normalize=False)
  actual = retrieval_metrics(
    x,
    labels,
    ks=KS,
    gallery=gallery,
    gallery_labels=gallery_labels,
    ids=ids,
    gallery_ids=gallery_ids,
    normalize=False,
    macro=True,
  )
  assert actual == pytest.approx(expected, abs=1e-6)


def test_self_is_dropped_by_identity_not_by_position(way):
  # All in one point, so that the index decides: row 2's first item is row 0, row 0's is row 1.
  x, labels = np.ones((4, 2)), [0, 1, 0, 1]
  actual = retrieval_metrics(x, labels, ks=(1, 2))
  # Row 0 sees 1, 2: its class comes second; row 1 sees 0, 2, 3: third; row 2: first; row 3: second.
  assert actual["recall@1"] == pytest.approx(1 / 4)
  assert actual["recall@2"] == pytest.approx(3 / 4)
  # Rows 2 and 3 carry the same id: two views of one picture, never each other's match.
  views = retrieval_metrics([[0.0], [1.0], [9.0], [9.0]], [0, 0, 1, 1], ids=[0, 1, 2, 2], ks=(1,))
  assert (views["num_queries"], views["num_without_match"]) == (2, 2)


def test_map_at_r_by_hand(way):
  # One query of class 0, R = 3; hits at ranks 1 and 3: (1/1 + 2/3) / 3.
  gallery = [[1.0], [2.0], [3.0], [4.0], [5.0]]
  actual = retrieval_metrics(
    [[0.0]], [0], gallery=gallery, gallery_labels=[0, 1, 0, 1, 0], normalize=False, ks=(1,)
  )
  assert actual["map@r"] == pytest.approx((1 + 2 / 3) / 3)
  assert actual["r_precision"] == pytest.approx(2 / 3)
  assert actual["recall@1"] == 1


def test_zero_embedding_has_similarity_zero(way):
  """A zero row ranks between positive and negative cosines, and nothing is NaN."""
  gallery = [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.1]]
  for label, recall in ((0, 1.0), (1, 0.0), (2, 0.0)):
    actual = retrieval_metrics(
      [[1.0, 0.0]], [label], gallery=gallery, gallery_labels=[2, 1, 0], ks=(1, 2)
    )
    assert actual["recall@1"] == recall
    assert actual["recall@2"] == (label != 2)


def test_no_query_with_a_match_scores_nan():
  actual = retrieval_metrics(np.eye(3), [0, 1, 2])
  assert np.isnan([actual["recall@1"], actual["map@r"], actual["r_precision"]]).all()
  assert (actual["num_queries"], actual["num_without_match"]) == (0, 3)


def test_labels_of_any_type_and_range():
  x, labels = data("random")
  expected = retrieval_metrics(x, labels)
  assert retrieval_metrics(x, labels.astype(np.int64) * 10**12 - 5) == expected
  assert retrieval_metrics(x, [f"class {label}" for label in labels]) == expected


def test_scale_matters_only_unnormalised():
  x, labels = data("random")
  scaled = x * np.random.default_rng(1).uniform(0.1, 10, (len(x), 1))
  assert retrieval_metrics(scaled, labels) == pytest.approx(retrieval_metrics(x, labels))
  assert retrieval_metrics(scaled, labels, normalize=False) != retrieval_metrics(x, labels)


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    ({"labels": [0, 1]}, "labels: expected .* 3, got 2"),
    (
      {"embeddings": [[0.0], [np.nan], [1.0]]},
      "NaN or infinity in 1 of 3 rows, the first at row 1",
    ),
    ({"embeddings": [0.0, 1.0, 2.0]}, r"\[n, d\], got shape \(3,\)"),
    ({"embeddings": np.zeros((0, 2)), "labels": []}, "non-empty"),
    ({"labels": [[0], [1], [2]]}, r"one value a row"),
    ({"ids": [0, 1]}, "ids: expected .* 3, got 2"),
    ({"ks": (0,)}, "ks: .* at least 1, got 0"),
    ({"ks": 5}, r"ks: expected numbers, such as \(1, 10\), got 5"),
    (
      {"gallery": [[1.0]], "gallery_labels": ["0"]},
      "one kind on both sides, got int64 for the queries and <U1 for the gallery",
    ),
    ({"block_size": 0}, "block_size"),
    ({"gallery": [[1.0, 2.0]], "gallery_labels": [0]}, "gallery: expected embeddings of size 1"),
    ({"gallery": [[1.0]]}, "gallery_labels: expected one label"),
    ({"gallery": [[1.0]], "gallery_labels": [0, 1]}, "gallery_labels: expected .* 1, got 2"),
    ({"gallery": [[1.0]], "gallery_labels": [0], "ids": [0, 1, 2]}, "both or neither"),
    ({"gallery_labels": [0]}, "pass gallery too"),
  ],
)
def test_wrong_input_is_refused(arguments, match):
  arguments = {"embeddings": [[0.0], [1.0], [2.0]], "labels": [0, 0, 1], **arguments}
  with pytest.raises(ValueError, match=match):
    retrieval_metrics(arguments.pop("embeddings"), arguments.pop("labels"), **arguments)
