"""`jaxdml embed`: images to vectors on disk, a folder of Parquet shards."""

import argparse
import pathlib
import shlex
from typing import Any

from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, left_out, note


def _add_options(parser: Parser) -> None:
  _options.add(parser, "workdir", required=True)
  images = parser.add_mutually_exclusive_group(required=True)
  _options.add(images, "images", "dataset")
  _options.add(parser, "split", "label", "data_dir")
  _options.add(parser, "out", required=True, metavar="DIR", help="the folder for the shards")
  _options.add(parser, "shard_size", "batch_size", "num_workers", "max_bad_images", "multihost")
  parser.epilog = (
    "A shard has the columns path, label and embedding. Killed and given again, the command goes\n"
    "on at the first missing shard. With --multihost each host writes its own shards into --out."
  )


def _run(args: argparse.Namespace) -> None:
  import jax

  from jaxdml import inference, search

  if args.multihost:
    jax.distributed.initialize()
  source = None if args.images is None else inference.FolderImages.open(args.images)
  trained = inference.load(args.workdir, data_dir=args.data_dir)
  note(*trained.remarks)
  keys = trained.config.data
  if source is None:
    source = inference.DatasetImages.open(
      args.dataset, args.split, label=args.label, data_dir=keys.data_dir or None
    )
  share = keys.max_bad_images if args.max_bad_images is None else args.max_bad_images
  workers = keys.num_workers if args.num_workers is None else args.num_workers
  summary = search.build_store(
    trained, source, args.out, shard_size=args.shard_size, batch_size=args.batch_size,
    num_workers=workers, max_bad_images=share, process_index=jax.process_index(),
    process_count=jax.process_count(),
  )  # fmt: skip
  _tell(summary, args.out)


def _tell(summary: Any, out: pathlib.Path) -> None:
  left_out(summary.skipped, out)
  wrote = f"wrote {summary.written} of {summary.shards} shards to {out}"
  if not summary.finished:
    print(f"{wrote}; the others are for the other hosts")
    return
  without = f", unreadable images left out: {len(summary.skipped)}" if summary.skipped else ""
  print(f"{wrote}, which is finished{without}")
  note(
    f"search it: jaxdml search --embeddings={shlex.quote(str(out))} --query=IMAGE --out=found.html"
  )


COMMAND = Command("Embeds a folder of images or a data set into Parquet shards", _add_options, _run,
                  resumes="goes on where it stopped")  # fmt: skip
