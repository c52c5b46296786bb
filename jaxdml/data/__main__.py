"""Builds the bundled data sets: `python -m jaxdml.data glyphs digits [--data_dir=...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxdml.data.prepare import BUNDLED, build


def main(argv: Sequence[str] | None = None) -> int:
  """Builds the data sets named on the command line and prints where they are."""
  parser = argparse.ArgumentParser(prog="python -m jaxdml.data", description=__doc__)
  parser.add_argument("names", nargs="+", choices=sorted(BUNDLED), help="data sets to build")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory")
  args = parser.parse_args(argv)
  for name in args.names:
    print(build(name, args.data_dir))
  return 0


if __name__ == "__main__":
  sys.exit(main())
