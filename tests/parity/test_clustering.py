"""NMI and AMI against pytorch-metric-learning's AccuracyCalculator, given the same clusters."""

import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning", reason="needs pip install '.[parity]'")

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from jaxdml import evaluation


def cases():
  """Labels of the query and embeddings: random, duplicated rows, tied rows, singletons."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 12, 300)
  x = rng.normal(size=(12, 8))[labels] + rng.normal(size=(300, 8))
  yield "random", x, labels
  yield "duplicated", np.tile(x[:150], (2, 1)), np.tile(labels[:150], 2)
  yield "tied", np.round(x), labels
  yield "singletons", x, np.where(np.arange(300) < 250, labels, 100 + np.arange(300))
  yield "labels of no meaning", x, rng.permutation(labels)


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize(("x", "labels"), [pytest.param(*c[1:], id=c[0]) for c in cases()])
def test_nmi_and_ami_equal(x, labels):
  """Their k-means replaced by ours, which receives the number of classes of the query."""
  x = np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
  found = []

  def kmeans(query, k):
    found.append((k, evaluation.kmeans(query.numpy(), k, seed=3, restarts=3).assignment))
    return torch.tensor(found[-1][1])

  calculator = AccuracyCalculator(include=("NMI", "AMI"), kmeans_func=kmeans)
  theirs = calculator.get_accuracy(torch.tensor(x), torch.tensor(labels))
  ((k, clusters),) = found
  assert k == len(np.unique(labels))
  assert evaluation.nmi(labels, clusters) == pytest.approx(theirs["NMI"], abs=1e-6)
  assert evaluation.ami(labels, clusters) == pytest.approx(theirs["AMI"], abs=1e-6)
  ours = evaluation.clustering_metrics(x, labels, seed=3)
  assert ours["nmi"] == pytest.approx(theirs["NMI"], abs=1e-6)
  assert ours["ami"] == pytest.approx(theirs["AMI"], abs=1e-6)


def test_faiss_k_means_is_no_better():
  """Their default, faiss with one start at random points: more is left than by ours."""
  pytest.importorskip("faiss", reason="needs pip install '.[parity]'")
  from pytorch_metric_learning.utils.inference import FaissKMeans

  rng = np.random.default_rng(0)
  labels = np.arange(60).repeat(8)
  x = np.float32(rng.normal(size=(60, 16))[labels] + 0.2 * rng.normal(size=(480, 16)))
  theirs = np.asarray(FaissKMeans()(torch.tensor(x), 60))
  inertia = sum(((x[theirs == c] - x[theirs == c].mean(0)) ** 2).sum() for c in set(theirs))
  ours = evaluation.kmeans(x, 60)
  assert ours.inertia < inertia
  assert evaluation.ami(labels, ours.assignment) > evaluation.ami(labels, theirs)
