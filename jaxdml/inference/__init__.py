"""A trained model at work: `load` one, `embed` images with it, `export` it."""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.inference.embedding import DatasetImages, EmbeddingError, FolderImages, embed_source
  from jaxdml.inference.embedding import embed_images as embed
  from jaxdml.inference.exporting import ExportError, MismatchError, export
  from jaxdml.inference.trained_model import TrainedModel, load

__all__ = [
  "DatasetImages", "EmbeddingError", "ExportError", "FolderImages", "MismatchError",
  "TrainedModel", "embed", "embed_source", "export", "load",
]  # fmt: skip

# The errors, and what reads folders, need neither JAX nor the networks.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, exporting="ExportError MismatchError export",
  embedding="DatasetImages EmbeddingError FolderImages embed=embed_images embed_source",
  trained_model="TrainedModel load",
)  # fmt: skip
