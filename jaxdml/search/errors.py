"""The one error of the package's files and folders."""


class SearchError(RuntimeError):
  """A store, a folder or an image that cannot be used; the message names it and what to do."""
