"""The command line without its console script: `python -m jaxdml COMMAND`."""

from jaxdml import commands

if __name__ == "__main__":
  commands.start()
