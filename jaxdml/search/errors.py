"""The one error of the package's files and folders."""

from jaxdml.errors import JaxdmlError


class SearchError(JaxdmlError, RuntimeError):
  """A store, a folder or an image that cannot be used; the message names it and what to do."""
