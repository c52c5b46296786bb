"""Search over embedded images: a store on disk, an index in memory, pages of what was found."""

from jaxdml.search._shards import SearchError
from jaxdml.search.index import BACKENDS, Index, recall
from jaxdml.search.page import write_page
from jaxdml.search.results import Hit, Query, Result, collect, format_results, without_query
from jaxdml.search.store import Store, Summary, build_store, write_store

__all__ = [
  "BACKENDS", "Hit", "Index", "Query", "Result", "SearchError", "Store", "Summary", "build_store",
  "collect", "format_results", "recall", "without_query", "write_page", "write_store",
]  # fmt: skip
__dir__ = lambda: __all__
