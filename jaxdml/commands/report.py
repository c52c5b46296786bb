"""The report of a run, as one HTML file.

python -m jaxdml.report --workdir=runs/glyphs --out=report.html
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jaxdml.commands import errors as command


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the report of a run; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdml.report",
    description="Writes one HTML file that shows what a run's model learned. The run may still be "
    "training, or stopped.",
  )
  parser.add_argument("--workdir", required=True, help="of a run of python -m jaxdml.main")
  parser.add_argument("--out", default=None, help="the file to write (WORKDIR/report.html)")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--queries", type=int, default=8, help="lines of each gallery (8)")
  parser.add_argument("--k", type=int, default=8, help="neighbours of each query (8)")
  parser.add_argument("--max_points", type=int, default=2000, help="images on the map (2000)")
  parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (0)")
  args = parser.parse_args(argv)
  for name in ("queries", "k", "max_points"):
    if getattr(args, name) < 1:
      print(f"error: --{name}: expected at least 1; got {getattr(args, name)}", file=sys.stderr)
      return 2
  if args.out is not None and not args.out.lower().endswith((".html", ".htm")):
    print(f"error: --out: expected a name that ends in .html; got {args.out}", file=sys.stderr)
    return 2
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import training
  from jaxdml.data import DatasetNotPreparedError, ImageDecodeError
  from jaxdml.report import run as run_lib
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  try:
    run = training.restore(args.workdir, data_dir=args.data_dir)
    page = run_lib.of_run(
      run,
      workdir=args.workdir,
      queries=args.queries,
      k=args.k,
      max_points=args.max_points,
      seed=args.seed,
    )
    out = run_lib.write(page, args.out or pathlib.Path(args.workdir) / "report.html")
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, DatasetNotPreparedError, ImageDecodeError,
    OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
  return 0


if __name__ == "__main__":
  sys.exit(command.run(main))
