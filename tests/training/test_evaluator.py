"""What is scored: all images among themselves, or queries against a gallery."""

import dataclasses

import numpy as np
import pytest

from jaxdml import data, evaluation
from jaxdml.training.evaluator import Evaluator
from tests.training.helpers import tiny_config


@pytest.fixture
def scored(data_dir):
  """Scores random embeddings of 60 digits, with the given gallery column or without one."""
  test = data.load("digits", "test", data_dir=data_dir).select(np.arange(60))
  rng = np.random.default_rng(0)
  embeddings = rng.normal(size=(60, 3)).astype(np.float32)
  rows = rng.permutation(60)[:50]  # Some were left out, and the order is not that of the data set.
  config = tiny_config(**{"data.preprocess": "digits", "data.label": "label"})

  def score(gallery):
    labels = dict(test.labels) if gallery is None else {**test.labels, data.GALLERY: gallery}
    dataset = dataclasses.replace(test, labels=labels)
    evaluator = Evaluator(config, dataset, lambda variables, images: images)
    return evaluator._score(evaluation.Embedded(embeddings[rows], {"index": rows}))

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
