"""The command line: `jaxdml COMMAND`, one file a command; `main(argv)` runs one."""

from jaxdml.commands._cli import guard, main, start

__all__ = ["guard", "main", "start"]
__dir__ = lambda: __all__
