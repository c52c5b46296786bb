"""Metrics of an embedding: retrieval, clustering, class collapse. Arrays in, numbers out."""

from jaxdml.evaluation.batches import Embedded, embed_batches, raw_pixels
from jaxdml.evaluation.classes import ClassMetrics, Confusions, class_metrics, confusions
from jaxdml.evaluation.clustering import ami, clustering_metrics, nmi, pairwise_f1
from jaxdml.evaluation.collapse import collapse_metrics
from jaxdml.evaluation.kmeans import KMeans, kmeans
from jaxdml.evaluation.names import Metric, describe_metric, format_table
from jaxdml.evaluation.retrieval import Neighbours, nearest_neighbours, retrieval_metrics

__all__ = [
  "ClassMetrics", "Confusions", "Embedded", "KMeans", "Metric", "Neighbours", "ami",
  "class_metrics", "clustering_metrics", "collapse_metrics", "confusions", "describe_metric",
  "embed_batches", "format_table", "kmeans", "nearest_neighbours", "nmi", "pairwise_f1",
  "raw_pixels", "retrieval_metrics",
]  # fmt: skip


def __dir__() -> list[str]:
  return __all__
