"""The command line: `jaxdml COMMAND`, one file a command; `main(argv)` runs one."""

from jaxdml.commands._cli import guard as guard
from jaxdml.commands._cli import main as main
from jaxdml.commands._cli import start as start

__all__ = ["guard", "main", "start"]


def __dir__() -> list[str]:
  return __all__
