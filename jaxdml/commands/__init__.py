"""The command line: `jaxdml COMMAND`, one file a command; `main(argv)` runs one."""

from jaxdml.commands._cli import guard, main, start

__all__ = ["guard", "main", "start"]


def __dir__() -> list[str]:
  return __all__
