"""The one base of the errors that this package raises for the people who use it."""

__all__ = ["JaxdmlError"]


class JaxdmlError(Exception):
  """An error with a message for the user: what was expected, what came and what to do.

  Commands print it in one line and exit with its status.

  Attributes:
    exit_status: 2 for what the user can mend (arguments, config, files), 1 for what broke.
  """

  exit_status = 2
