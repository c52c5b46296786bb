"""Data sets written once: from public archives or folders of photos, as TFDS array_record.

`CARDS[name].source(directory)` reads a public data set's archives, `image_folder.source(directory,
name)` finds people's own photos, and `write(source, data_dir)` makes of either a data set that
`jaxdml.data.load` reads. Neither a network nor TensorFlow is needed.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.prepare import image_folder
  from jaxdml.prepare.sets import CARDS
  from jaxdml.prepare.source import PrepareError
  from jaxdml.prepare.writing import is_current, target, write

__all__ = ["CARDS", "PrepareError", "image_folder", "is_current", "target", "write"]

# TFDS is slow to import.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, sets="CARDS", source="PrepareError", writing="is_current target write"
)
