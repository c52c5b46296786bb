"""Search over embedded images: a store on disk, an index in memory, pages of what was found."""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.search.index import BACKENDS, Index, SearchError, recall
  from jaxdml.search.page import write_page
  from jaxdml.search.results import Hit, Query, Result, collect, format_results, without_query
  from jaxdml.search.store import Store, Summary, build_store, write_store

__all__ = [
  "BACKENDS", "Hit", "Index", "Query", "Result", "SearchError", "Store", "Summary", "build_store",
  "collect", "format_results", "recall", "without_query", "write_page", "write_store",
]  # fmt: skip

# A page brings matplotlib, a store Arrow; an index needs neither.
__getattr__, __dir__ = _lazy.face(
  __name__, __all__, index="BACKENDS Index SearchError recall", page="write_page",
  results="Hit Query Result collect format_results without_query",
  store="Store Summary build_store write_store",
)  # fmt: skip
