"""`jaxdml prepare NAME`: data sets from archives, from folders of photos, or drawn here.

The public data sets are made from archives that the user already has, people's own photos from a
folder, the bundled data sets from nothing; no network, no TensorFlow. The result is a TFDS data set
in array_record, with encoded images as they were.
"""

import argparse
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Any

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, note

if TYPE_CHECKING:
  from jaxdml.prepare.source import Source


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


def _add_options(parser: Parser) -> None:
  from jaxdml import prepare
  from jaxdml.data import bundled

  archives = "\n".join(
    f"  {name}\n" + "".join(f"        {line.strip()}\n" for line in card.help.splitlines())
    for name, card in prepare.CARDS.items()
  )
  parser.epilog = _EPILOG.format(archives=archives)
  names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
  for name, card in prepare.CARDS.items():
    sub = _add_name(names, name, card.help)
    _add_writing_options(sub)
    sub.add_argument(
      "--allow_partial", action="store_true",
      help="prepare what is there although images are missing; its results do not compare with "
      "published ones",
    )  # fmt: skip
  sub = _add_name(names, "image_folder", "Your own photos, in folders by class or with a manifest.")
  _add_writing_options(sub)
  sub.add_argument("--name", required=True, dest="config", help="loaded as image_folder/NAME")
  _options.add(sub, "manifest")
  sub.add_argument(
    "--test_share", type=_options.number(float, 0, 1), default=0.5, metavar="SHARE",
    help="share of the classes that test, if the photos come without splits (0.5)",
  )  # fmt: skip
  _options.add(sub, "seed", help="chooses those classes (0)")
  sub.add_argument(
    "--drop_copies", action="store_true",
    help="leave out photos that are there already, byte by byte, and all copies of one that has "
    "several labels (they are named in any case)",
  )  # fmt: skip
  sub.add_argument(
    "--max_side", type=_options.count, metavar="PIXELS",
    help="write larger pictures as JPEGs whose longer side has so many pixels; two to three times "
    "data.image_size is enough, and training reads them many times faster (as they are)",
  )  # fmt: skip
  for name in bundled.BUNDLED:
    _add_name(names, name, "A bundled data set, drawn here.")


def _add_name(names: Any, name: str, text: str) -> Parser:
  sub = names.add_parser(name, help=text.splitlines()[0], description=text)
  _options.add(
    sub, "data_dir", help="TFDS data directory ($TFDS_DATA_DIR or ~/tensorflow_datasets)"
  )
  return sub


def _add_writing_options(sub: Parser) -> None:
  _options.add(sub, "source", required=True)
  _options.add(
    sub, "max_bad_images", default=0.01,
    help="share of the images that may be left out because they cannot be decoded (0.01)",
  )  # fmt: skip
  _options.add(sub, "overwrite")
  sub.add_argument(
    "--max_file_bytes", type=_options.count, default=2**29, metavar="N",
    help="archives' files and manifests larger than that are refused (536870912)",
  )  # fmt: skip


def _run(args: argparse.Namespace) -> None:
  from jaxdml import prepare
  from jaxdml.data import bundled, records

  data_dir = pathlib.Path(args.data_dir or bundled.default_data_dir()).expanduser()
  if args.name in bundled.BUNDLED:
    print(bundled.build(args.name, data_dir))
    return
  own = args.name == "image_folder"
  max_side = args.max_side if own else None
  source: Source | None = None
  if own:
    source = prepare.image_folder.source(
      args.source, args.config, manifest=args.manifest, test_share=args.test_share,
      seed=args.seed, drop_copies=args.drop_copies, max_file_bytes=args.max_file_bytes,
    )  # fmt: skip
  made = source or prepare.CARDS[args.name]
  directory = prepare.target(made.name, made.version, data_dir)
  if records.is_prepared(directory) and not args.overwrite:
    if source:
      _check_current(source, directory, max_side)
    print("already prepared; --overwrite makes it anew", file=sys.stderr)
    _end(args, directory)
    return
  source = source or prepare.CARDS[args.name].source(
    args.source, allow_partial=args.allow_partial, max_file_bytes=args.max_file_bytes
  )
  directory = prepare.write(source, data_dir, max_bad_images=args.max_bad_images,
                            max_side=max_side, overwrite=args.overwrite)  # fmt: skip
  if own:
    _check_current(source, directory, max_side)  # Another process may have made it meanwhile.
  _end(args, directory)


def _end(args: argparse.Namespace, directory: pathlib.Path) -> None:
  """Prints where the data set is, and, for people, what to do with photos of their own."""
  print(directory)
  if args.name != "image_folder":
    return
  where = f" --config.data.data_dir={shlex.quote(args.data_dir)}" if args.data_dir else ""
  note(
    # The same config in both: of another one the batch would be of another size and crop.
    f"next, see what the network will: jaxdml show --config=finetune_photos:{args.config}{where} "
    "--out=batch.png",
    f"then train from ImageNet's weights: jaxdml train --config=finetune_photos:"
    f"{args.config}{where} --workdir=runs/{args.config}",
  )


def _check_current(source: "Source", directory: pathlib.Path, max_side: int | None) -> None:
  from jaxdml import prepare

  if not prepare.is_current(source, directory, max_side):
    raise prepare.PrepareError(
      f"{source.name} is already prepared, from OTHER photos or options, and was left as it is in "
      f"{directory}; --overwrite makes it anew, another --name keeps both"
    )


COMMAND = Command("Prepares a data set, from archives or your own photos", _add_options, _run,
                  resumes="goes on from here")  # fmt: skip
