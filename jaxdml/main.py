"""Training by its first name: `python -m jaxdml.main --config=FILE --workdir=DIR`.

The same as `jaxdml train`.
"""

import sys

from jaxdml import commands

if __name__ == "__main__":
  commands.start(["train", *sys.argv[1:]])
