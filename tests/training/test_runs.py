"""What is scored: all images among themselves, or queries against a gallery; what is optional."""

import dataclasses

import numpy as np
import pytest

from jaxdml import data, distances, evaluation
from jaxdml.training.runs import Evaluator
from tests.training.helpers import tiny_config


@pytest.fixture
def scored(data_dir):
  """Scores random embeddings of 60 digits, with the given gallery column or without one."""
  test = data.load("digits", "test", data_dir=data_dir).select(np.arange(60))
  rng = np.random.default_rng(0)
  embeddings = rng.normal(size=(60, 3)).astype(np.float32)
  rows = rng.permutation(60)[:50]  # Some were left out, and the order is not that of the data set.
  digits = {"data.preprocess": "digits", "data.label": "label"}

  def score(gallery, **overrides):
    config = tiny_config(**{**digits, **overrides})
    labels = dict(test.labels) if gallery is None else {**test.labels, data.GALLERY: gallery}
    dataset = dataclasses.replace(test, labels=labels)
    evaluator = Evaluator(config, dataset, lambda variables, images: images)
    return evaluator.score(evaluation.Embedded(embeddings[rows], {"index": rows}))

  return embeddings, test.column("label"), rows, score


def test_queries_are_ranked_against_the_gallery_alone(scored):
  embeddings, labels, rows, score = scored
  gallery = (np.arange(60) % 3 == 0).astype(np.int32)
  x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  stored = [i for i in rows if gallery[i]]
  queries = [i for i in rows if not gallery[i] and labels[i] in labels[stored]]
  hits = [labels[max(stored, key=lambda j, i=i: x[i] @ x[j])] == labels[i] for i in queries]
  got = score(gallery)
  assert got["recall@1"] == pytest.approx(np.mean(hits))
  assert got["num_queries"] == len(queries)


def test_without_a_gallery_all_images_are_queries(scored):
  *_, rows, score = scored
  got = score(None)
  assert got["num_queries"] + got["num_without_match"] == len(rows)


@pytest.mark.parametrize("gallery", [None, np.arange(60) % 2])
def test_diagnostics_take_the_label_trained_on_as_classes_and_a_finer_one_as_modes(scored, gallery):
  embeddings, labels, rows, score = scored
  keys = {"data.label": "parity", "data.eval_label": "label", "seed": 3}
  got = score(gallery, **keys)
  expected = evaluation.collapse_metrics(embeddings[rows], labels[rows] % 2, labels[rows])
  assert "within/map@r" in expected and "modes_kept" in expected
  collapse = {k.removeprefix("collapse/"): v for k, v in got.items() if k.startswith("collapse/")}
  assert collapse == pytest.approx(expected)
  assert got["num_queries"] == score(gallery)["num_queries"]


@pytest.mark.parametrize("eval_label", ["", "label"])
def test_diagnostics_without_a_finer_label(scored, eval_label):
  embeddings, labels, rows, score = scored
  got = score(None, **{"data.eval_label": eval_label})
  expected = evaluation.collapse_metrics(embeddings[rows], labels[rows])
  assert {k: v for k, v in got.items() if k.startswith("collapse/")} == {
    f"collapse/{k}": pytest.approx(v) for k, v in expected.items()
  }


@pytest.mark.parametrize(
  ("keys", "ranked_by"),
  [
    ({}, None),
    ({"loss.distance": "squared_euclidean"}, None),
    ({"loss.distance": "hyperbolic", "loss.distance_options": {"curvature": 0.5}}, "hyperbolic"),
    ({"loss.distance": "hyperbolic", "eval.rank_by": "cosine"}, None),
    ({"loss.distance": "squared_euclidean", "eval.rank_by": "trained"}, "squared_euclidean"),
    ({"loss.name": "npair", "eval.rank_by": "trained"}, "dot"),
  ],
)
def test_ranks_by_the_distance_that_was_trained(scored, keys, ranked_by):
  embeddings, labels, rows, score = scored
  distance_fn = ranked_by and distances.create(ranked_by, **keys.get("loss.distance_options", {}))
  expected = evaluation.retrieval_metrics(embeddings[rows], labels[rows], distance_fn=distance_fn)
  got = score(None, **{"loss.name": "contrastive", **keys})
  assert got["map@r"] == expected["map@r"]
  by_cosine = evaluation.retrieval_metrics(embeddings[rows], labels[rows])
  assert (got["map@r"] == by_cosine["map@r"]) == (ranked_by is None)


def test_clustering_and_diagnostics_can_be_left_out(scored, monkeypatch):
  *_, score = scored
  everything = score(None)
  without = score(None, **{"eval.diagnostics": False})
  assert without == {k: v for k, v in everything.items() if not k.startswith("collapse/")}
  monkeypatch.setattr(evaluation, "clustering_metrics", None)  # not even called
  without = score(None, **{"eval.clustering": False})
  assert without == {k: v for k, v in everything.items() if k not in ("nmi", "ami", "f1")}
