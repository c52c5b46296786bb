"""Search over embedded images: a store on disk, an index in memory, pages of what was found."""

from jaxdml.search.embedding import Summary as Summary
from jaxdml.search.embedding import embed_files as embed_files
from jaxdml.search.embedding import embed_images as embed_images
from jaxdml.search.errors import SearchError as SearchError
from jaxdml.search.index import BACKENDS as BACKENDS
from jaxdml.search.index import Index as Index
from jaxdml.search.index import recall as recall
from jaxdml.search.page import write_page as write_page
from jaxdml.search.results import Hit as Hit
from jaxdml.search.results import Query as Query
from jaxdml.search.results import Result as Result
from jaxdml.search.results import collect as collect
from jaxdml.search.results import format_results as format_results
from jaxdml.search.sources import DatasetImages as DatasetImages
from jaxdml.search.sources import FolderImages as FolderImages
from jaxdml.search.store import Store as Store
from jaxdml.search.writer import Writer as Writer
from jaxdml.search.writer import write as write

__all__ = [
  "BACKENDS",
  "DatasetImages",
  "FolderImages",
  "Hit",
  "Index",
  "Query",
  "Result",
  "SearchError",
  "Store",
  "Summary",
  "Writer",
  "collect",
  "embed_files",
  "embed_images",
  "format_results",
  "recall",
  "write",
  "write_page",
]
