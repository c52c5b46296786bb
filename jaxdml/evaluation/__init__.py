"""What a trained embedding is worth: retrieval and clustering metrics, independent of training."""

from jaxdml.evaluation.clustering import ami as ami
from jaxdml.evaluation.clustering import clustering_metrics as clustering_metrics
from jaxdml.evaluation.clustering import nmi as nmi
from jaxdml.evaluation.clustering import pairwise_f1 as pairwise_f1
from jaxdml.evaluation.collapse import collapse_metrics as collapse_metrics
from jaxdml.evaluation.embed import Embedded as Embedded
from jaxdml.evaluation.embed import embed as embed
from jaxdml.evaluation.embed import raw_pixels as raw_pixels
from jaxdml.evaluation.kmeans import KMeans as KMeans
from jaxdml.evaluation.kmeans import kmeans as kmeans
from jaxdml.evaluation.neighbours import Neighbours as Neighbours
from jaxdml.evaluation.neighbours import nearest_neighbours as nearest_neighbours
from jaxdml.evaluation.retrieval import retrieval_metrics as retrieval_metrics
from jaxdml.evaluation.table import format_table as format_table

__all__ = [
  "Embedded",
  "KMeans",
  "Neighbours",
  "ami",
  "clustering_metrics",
  "collapse_metrics",
  "embed",
  "format_table",
  "kmeans",
  "nearest_neighbours",
  "nmi",
  "pairwise_f1",
  "raw_pixels",
  "retrieval_metrics",
]
