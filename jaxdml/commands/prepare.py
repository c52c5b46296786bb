"""Prepares data sets: `jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES`.

The public data sets are made from archives that the user already has, people's own photos from a
folder, the bundled data sets from nothing; no network, no TensorFlow. The result is a TFDS data set
in array_record, with encoded images as they were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdml.data import records
from jaxdml.data.bundled import BUNDLED as BUNDLED
from jaxdml.data.bundled import build as build
from jaxdml.data.bundled import default_data_dir as default_data_dir
from jaxdml.data.bundled import quiet_tfds as quiet_tfds
from jaxdml.prepare import image_folder, writing
from jaxdml.prepare.sets import CARDS
from jaxdml.prepare.source import PrepareError, Source

_EPILOG = """\
what to put into --source (names as they were downloaded; .tar.gz is as good as .tgz; found in
DIR itself or in a folder of it):

{archives}
  image_folder
        DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg beside DIR/test/CLASS/*.jpg, or any folder and
        --manifest=FILE, a CSV or JSONL file with the columns path, label and if you like coarse,
        fine, split.

  glyphs, digits
        nothing: they are drawn here, and are also built on first use.

An interrupted run goes on where it was when the same command is given again. Archives are read in
place: nothing is extracted. "jaxdml prepare NAME --help" has the options of NAME.
"""


def _parser() -> argparse.ArgumentParser:
  archives = "\n".join(
    f"  {name}\n" + "".join(f"        {line.strip()}\n" for line in card.help.splitlines())
    for name, card in CARDS.items()
  )
  parser = argparse.ArgumentParser(
    prog="jaxdml prepare",
    description=__doc__,
    epilog=_EPILOG.format(archives=archives),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
  for name, card in CARDS.items():
    sub = _command(names, name, card.help)
    _writing_options(sub)
    sub.add_argument(
      "--allow_partial",
      action="store_true",
      help="prepare what is there although images are missing; its results do not compare with "
      "published ones",
    )
  sub = _command(names, "image_folder", "Your own photos, in folders by class or with a manifest.")
  _writing_options(sub)
  sub.add_argument("--name", required=True, dest="config", help="loaded as image_folder/NAME")
  sub.add_argument(
    "--manifest", type=Path, help="CSV or JSONL: path, label [, coarse, fine, split]"
  )
  sub.add_argument(
    "--test_share",
    type=float,
    default=0.5,
    help="share of the classes that test, if the photos come without splits (0.5)",
  )
  sub.add_argument("--seed", type=int, default=0, help="chooses those classes (0)")
  sub.add_argument(
    "--drop_copies",
    action="store_true",
    help="leave out photos that are there already, byte by byte, and all copies of one that has "
    "several labels (they are named in any case)",
  )
  sub.add_argument(
    "--max_side",
    type=int,
    metavar="PIXELS",
    help="write larger pictures as JPEGs whose longer side has so many pixels; two to three times "
    "data.image_size is enough, and training reads them many times faster (default: as they are)",
  )
  for name in BUNDLED:
    _command(names, name, "A bundled data set, drawn here.")
  return parser


def _command(names: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
  sub = names.add_parser(
    name,
    help=text.splitlines()[0],
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  sub.add_argument(
    "--data_dir",
    type=Path,
    help="TFDS data directory; by default $TFDS_DATA_DIR or ~/tensorflow_datasets",
  )
  return sub


def _writing_options(sub: argparse.ArgumentParser) -> None:
  sub.add_argument("--source", type=Path, required=True, metavar="DIR", help="where the files are")
  sub.add_argument(
    "--max_bad",
    type=float,
    default=0.01,
    help="share of the images that may be left out because they cannot be decoded (0.01)",
  )
  sub.add_argument(
    "--overwrite", action="store_true", help="make it anew; the old one stays until it is done"
  )


def prepare(args: argparse.Namespace) -> Path:
  """Prepares the data set that the command line asks for; returns its directory.

  Raises:
    PrepareError: the message says what is wrong and what to do.
  """
  data_dir = Path(args.data_dir or default_data_dir()).expanduser()
  if args.name in BUNDLED:
    return build(args.name, data_dir)
  source_dir, max_side = args.source.expanduser(), None
  if args.name == "image_folder":
    source: Source = image_folder.source(
      source_dir,
      args.config,
      manifest=args.manifest,
      test_share=args.test_share,
      seed=args.seed,
      drop_copies=args.drop_copies,
    )
    max_side = args.max_side
    directory = writing.target(source.name, source.version, data_dir)
    if records.is_prepared(directory) and not args.overwrite:
      _check_current(source, directory, max_side)
      return _already(directory)
  else:
    card = CARDS[args.name]
    directory = writing.target(card.name, card.version, data_dir)
    if records.is_prepared(directory) and not args.overwrite:
      return _already(directory)
    source = card.source(source_dir, allow_partial=args.allow_partial)
  directory = writing.write(
    source, data_dir, max_bad=args.max_bad, max_side=max_side, overwrite=args.overwrite
  )
  if args.name == "image_folder":
    _check_current(source, directory, max_side)  # Another process may have made it meanwhile.
  return directory


def _check_current(source: Source, directory: Path, max_side: int | None) -> None:
  if not writing.is_current(source, directory, max_side):
    raise PrepareError(
      f"{source.name} is already prepared, from OTHER photos or options, and was left as it is in "
      f"{directory}; --overwrite makes it anew, another --name keeps both"
    )


def _already(directory: Path) -> Path:
  print("already prepared; --overwrite makes it anew", file=sys.stderr)
  return directory


def main(argv: Sequence[str] | None = None) -> int:
  """Prepares a data set and prints its directory; returns the exit status."""
  args = _parser().parse_args(argv)
  try:
    print(prepare(args))
  except (PrepareError, OSError) as error:  # OSError: a file of the source or a lock.
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
